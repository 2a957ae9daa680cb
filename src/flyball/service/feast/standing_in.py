"""Modules that stand in while a repository's files are read: ``feast`` itself, and what is not installed here."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from flyball.service.feast import words

# What `from feast import *` and `from feast.types import *` give.
_ALL = [
    "Aggregation", "AthenaSource", "BatchFeatureView", "BigQuerySource", "ConflictPolicy", "Entity", "Feature",
    "FeatureService", "FeatureStore", "FeatureView", "Field", "FileSource", "KafkaSource", "KinesisSource", "LabelView",
    "OnDemandFeatureView", "OracleSource", "Project", "PushSource", "RedshiftSource", "RepoConfig", "RequestSource",
    "SnowflakeSource", "StreamFeatureView", "ValueType",
]  # fmt: skip
_TYPES = [
    "Array", "Bool", "Bytes", "Decimal", "Float32", "Float64", "Int32", "Int64", "Json", "Map", "Set", "String", "Struct",
    "TimeUuid", "UnixTimestamp", "Uuid",
]  # fmt: skip


def stand_in(missing: Iterable[str]) -> None:
    """From now on ``import feast`` gives :mod:`words`, and each of the missing packages imports as nothing at all."""
    for name in [one for one in sys.modules if one.partition(".")[0] == "feast"]:
        del sys.modules[name]
    sys.meta_path.insert(0, _Finder({"feast": _Feast}))
    sys.meta_path.append(_Finder(dict.fromkeys(missing, _Absent)))


class Nothing:
    """What a package that isn't installed gives: anything may be asked of it, and nothing comes of it."""

    def __init__(self, *_args: Any, **_named: Any) -> None:
        pass

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Nothing()

    def __call__(self, *args: Any, **_named: Any) -> Any:
        decorated = len(args) == 1 and callable(args[0]) and not isinstance(args[0], Nothing)
        return args[0] if decorated else Nothing()

    def __getitem__(self, _key: Any) -> Any:
        return Nothing()

    def __iter__(self) -> Iterator[Any]:
        return iter(())

    def __or__(self, _other: Any) -> Any:
        return Nothing()

    __ror__ = __or__


class _Feast(ModuleType):
    """``feast`` and all below it: words that we know by our classes, types by their name, others as they are said."""

    def __getattr__(self, name: str) -> Any:
        if name == "__all__":
            return _ALL if self.__name__ == "feast" else _TYPES
        if name.startswith("__"):
            raise AttributeError(name)
        known = getattr(words, name, None)
        if known is not None and not isinstance(known, ModuleType):
            return known
        if self.__name__.startswith("feast.types"):
            return words.Type(name)
        parent = words.Source if name.endswith("Source") else words.Word
        made = type(name, (parent,), {"__doc__": f"Feast's {name}."})
        setattr(self, name, made)  # the same class each time it is asked for
        return made


class _Absent(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Nothing()


class _Finder(MetaPathFinder, Loader):
    def __init__(self, kinds: dict[str, type[ModuleType]]) -> None:
        self.kinds = kinds

    def find_spec(self, name: str, _path: Any = None, _target: Any = None) -> ModuleSpec | None:
        return ModuleSpec(name, self, is_package=True) if name.partition(".")[0] in self.kinds else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return self.kinds[spec.name.partition(".")[0]](spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass
