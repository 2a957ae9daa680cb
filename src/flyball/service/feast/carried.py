"""What a Feast repository became: Flyball's definitions, the functions that stayed functions, and notes."""

from __future__ import annotations

import msgspec

from flyball.features.definitions import Entity, Source, View
from flyball.features.naming import Datatype
from flyball.features.services import OnDemand, Service


class Note(msgspec.Struct, frozen=True):
    """What is otherwise than in Feast, and why. ``left_out``: it is not in the definitions at all."""

    about: str
    says: str
    left_out: bool = False


class PlainFunction(msgspec.Struct, frozen=True):
    """An on-demand view that stays the Python function it is: ``inputs`` are its own names, in ``reads``' order."""

    name: str
    function: str
    code: str
    mode: str  # pandas, or python (lists), or row
    inputs: tuple[str, ...]
    reads: tuple[str, ...]
    outputs: tuple[str, ...]
    types: dict[str, Datatype]
    description: str = ""
    owner: str = ""
    tags: dict[str, str] = {}

    @property
    def features(self) -> tuple[str, ...]:
        return tuple(f"{self.name}:{one}" for one in self.outputs)

    @property
    def needs(self) -> tuple[str, ...]:
        return self.reads


class Translated(msgspec.Struct):
    """Flyball's definitions by name, in the order in which Feast had them."""

    project: str = ""
    entities: dict[str, Entity] = {}
    sources: dict[str, Source] = {}
    views: dict[str, View] = {}
    on_demand: dict[str, OnDemand] = {}
    functions: dict[str, PlainFunction] = {}
    services: dict[str, Service] = {}
    transformations: dict[str, str] = {}  # of views: code that Feast would run on the source's rows
    notes: list[Note] = []
