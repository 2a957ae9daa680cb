"""The workspace: a project's configuration and its stores, opened when they are first needed."""

from __future__ import annotations

import getpass
import os
from contextvars import ContextVar
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from flyball.core import plan as plans
from flyball.core.clock import Clock, SystemClock
from flyball.core.config import Resolved, load

if TYPE_CHECKING:
    from flyball.pipelines.discovery import Definitions
    from flyball.stores.blobs import Blobs
    from flyball.stores.metadata import Ledger
    from flyball.stores.online import OnlineStore
    from flyball.stores.predictions import Predictions
    from flyball.stores.tables import Tables

FILL_FROM = "FLYBALL_FILL_FROM"  # set while a run is reproduced: the store that its project's blobs came from
APPLIED = "features_applied.py"  # what was defined as objects, by FeatureStore.apply([...])
_current: ContextVar[Workspace | None] = ContextVar("workspace", default=None)


class Workspace:
    """Everything of one project, by name. Opening it opens no store.

    >>> ws = Workspace.open("my-project")            # doctest: +SKIP
    >>> ws.ledger.keys("model")                      # doctest: +SKIP
    ['delays@1', 'delays@2']
    """

    _opened: ClassVar[dict[tuple[Path, str], Workspace]] = {}

    def __init__(self, settings: Resolved, clock: Clock | None = None) -> None:
        self.settings = settings
        self.config = settings.config
        self.root = settings.root
        self.clock = clock or SystemClock()
        self.actor = f"person:{os.environ.get('FLYBALL_ACTOR') or getpass.getuser()}"

    @classmethod
    def open(
        cls, root: str | Path | None = None, *, profile: str | None = None, clock: Clock | None = None
    ) -> Workspace:
        """The workspace of a project's folder; the folder you stand in, or the nearest above it, by default."""
        return cls(load(Path(root) if root is not None else None, profile), clock)

    @classmethod
    def current(cls) -> Workspace:
        """The workspace in use: the one set by :meth:`use`, else that of the folder you stand in."""
        used = _current.get()
        if used is not None:
            return used
        settings = load()
        key = (settings.root, settings.profile)
        if key not in cls._opened:
            cls._opened[key] = cls(settings)
        return cls._opened[key]

    def use(self) -> Workspace:
        """Make this the current workspace of this context (thread, task)."""
        _current.set(self)
        return self

    @property
    def state(self) -> Path:
        """``.flyball/``"""
        return self.settings.state

    @property
    def plan_path(self) -> Path:
        """The file that the serving workers read."""
        return self.state / "run" / "plan.json"

    @property
    def log_dir(self) -> Path:
        """Where the workers write predictions ahead."""
        return self.state / "log"

    @property
    def tables_dir(self) -> Path:
        """The root of the Parquet tables on this machine: of predictions and labels, and of what was pushed unless
        ``stores.tables`` is a bucket.
        """
        url = self.settings.url(self.config.stores.tables)
        return self.state / "tables" if "://" in url and not url.startswith("file:") else _folder(url)

    @cached_property
    def tables(self) -> Tables:
        """The tables of what was pushed and streamed, by source: in a folder, or in a bucket."""
        from flyball.stores.tables import Tables

        return Tables.open(self.settings.url(self.config.stores.tables), state=self.state)

    @property
    def online_url(self) -> str:
        return self.settings.url(self.config.stores.online)

    @property
    def blobs_url(self) -> str:
        return self.settings.url(self.config.stores.blobs)

    @cached_property
    def ledger(self) -> Ledger:
        from flyball.stores.metadata import Ledger

        return Ledger.open(self.settings.url(self.config.stores.metadata), self.clock)

    @cached_property
    def blobs(self) -> Blobs:
        from flyball.stores.blobs import Blobs

        if origin := os.environ.get(FILL_FROM):
            from flyball.stores.filling import FillingBlobs

            return FillingBlobs.between(self.blobs_url, origin, state=self.state)
        return Blobs.open(self.blobs_url, state=self.state)

    @cached_property
    def online(self) -> OnlineStore:
        from flyball.stores.online import open_online

        return open_online(self.online_url)

    @cached_property
    def predictions(self) -> Predictions:
        from flyball.stores.predictions import Predictions

        return Predictions(self.log_dir, self.tables_dir)

    @cached_property
    def definitions(self) -> Definitions:
        """What the project's own files define: pipelines, what features are made of, contracts."""
        from flyball.checks.expectations import Contract
        from flyball.features.definitions import Entity, Source, View
        from flyball.features.services import OnDemand, Service
        from flyball.pipelines.discovery import load_definitions

        files = self.config.project.definitions
        if APPLIED not in files and (self.root / APPLIED).is_file():
            files = (*files, APPLIED)
        return load_definitions(self.root, files, (View, OnDemand, Service, Entity, Source, Contract))

    @property
    def plan(self) -> plans.Plan:
        """What the workers were last told."""
        return plans.read(self.plan_path)


def _folder(url: str) -> Path:
    return Path(url.removeprefix("file:").removeprefix("//"))
