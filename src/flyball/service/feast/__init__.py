"""Feast repositories: read without Feast, and carried over to a ``features.py``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

from flyball.errors import Conflict, Invalid
from flyball.service.verb import CURRENT, verb
from flyball.service.workspace import Workspace

if TYPE_CHECKING:
    from flyball.service.feast.carried import Translated


class Carried(msgspec.Struct, frozen=True, kw_only=True):
    """What a Feast repository became."""

    project: str
    written: str  # the file; empty when only looked at
    entities: tuple[str, ...]
    sources: tuple[str, ...]
    views: tuple[str, ...]
    on_demand: tuple[str, ...]
    services: tuple[str, ...]
    differs: tuple[str, ...] = ()  # what is otherwise than in Feast
    left_out: tuple[str, ...] = ()  # what is not there at all, and why
    next: tuple[str, ...] = ()

    def as_text(self) -> str:
        """For people."""
        nouns = ("entities", "sources", "views", "on_demand", "services")
        counted = ", ".join(f"{len(getattr(self, noun))} {noun.replace('_', '-')}" for noun in nouns)
        lines = [f"{self.project}: {counted}" + (f", in {self.written}" if self.written else "")]
        for title, notes in (("otherwise than in Feast:", self.differs), ("left out:", self.left_out)):
            lines += [title, *(f"  {one}" for one in notes)] if notes else []
        return "\n".join([*lines, *(["next:", *(f"  {one}" for one in self.next)] if self.next else [])])


@verb("features import-feast", anywhere=True, local=("path", "out", "created", "overwrite"))
def import_feast(
    path: str,
    out: str = "features.py",
    created: Literal["auto", "known", "ignore"] = "auto",
    overwrite: bool = False,
    *,
    ws: Workspace = CURRENT,
) -> Carried:
    """Carry a Feast repository over to a features.py that can be kept; Feast itself is not needed.

    Its Python files are run, as `feast apply` would run them: they are your own code. --created says what Feast's created
    timestamps become: `known` (rows are invisible before), `ignore`, or `auto`: known, unless a file's rows all have one.
    """
    from flyball.service.feast.reading import read
    from flyball.service.feast.translating import translate
    from flyball.service.feast.writing import code_for, put

    if not path:
        raise Invalid("no repository is named", "flyball features import-feast PATH")
    found = translate(read(path), created=created)
    file = Path(out).resolve()
    if file.exists() and not overwrite:
        raise Conflict(
            f"{file} is there already", "name another with --out, or --overwrite it", path=str(file)
        )
    code = code_for(found, file.parent, origin=str(Path(path)))
    put(file, code)
    return _carried(found, str(file))


def _carried(found: Translated, written: str) -> Carried:
    notes = [(f"{note.about} {note.says}", note.left_out) for note in found.notes]
    first = next(iter(found.views), "VIEW")
    return Carried(
        project=found.project,
        written=written,
        entities=tuple(found.entities),
        sources=tuple(found.sources),
        views=tuple(found.views),
        on_demand=(*found.on_demand, *found.functions),
        services=tuple(found.services),
        differs=tuple(text for text, left_out in notes if not left_out),
        left_out=tuple(text for text, left_out in notes if left_out),
        next=(
            "flyball features apply --plan",
            "flyball features apply",
            f"flyball features materialize {first}",
        ),
    )
