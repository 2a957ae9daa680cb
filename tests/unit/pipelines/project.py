"""Write small projects into a folder and run them: the tests of pipelines share this."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from textwrap import dedent

from flyball.core.records import Run
from flyball.pipelines import Definitions, RunContext, StepProgress, execute, load_definitions
from flyball.stores.blobs import Blobs
from flyball.stores.metadata import Ledger


@dataclass
class Project:
    """A project in a folder, with stores of its own; ``told`` is what ``on_step`` heard."""

    root: Path
    ledger: Ledger
    blobs: Blobs
    told: list[StepProgress] = field(default_factory=list)

    def write(self, file: str, text: str) -> None:
        path = self.root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(text))

    def definitions(self, *files: str) -> Definitions:
        return load_definitions(self.root, files or ("pipelines.py",))

    def context(self) -> RunContext:
        return RunContext(
            ledger=self.ledger, blobs=self.blobs, root=self.root, actor="person:ann", on_step=self.told.append
        )

    def run(self, name: str = "train", **params: object) -> Run:
        """Load what is written now and run it."""
        self.told.clear()
        return execute(self.definitions().pipelines[name], params, self.context())

    def last(self) -> Run:
        return self.ledger.ls("run", Run)[-1]


def statuses(run: Run) -> dict[str, str]:
    return {line["node"]: line["status"] for line in run.steps}
