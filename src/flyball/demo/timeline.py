"""What a person sees while the year goes by: one line per thing that happened, with its evidence, and a progress bar.

Everything goes to stderr; stdout belongs to the summary. Without a terminal the bar is left out and the lines stay.
"""

from __future__ import annotations

from datetime import datetime
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

_MARKS = {
    "train": ("◆", "cyan"),
    "promote": ("▲", "green"),
    "canary": ("◇", "cyan"),
    "refuse": ("■", "yellow"),
    "rollback": ("▼", "red"),
    "incident": ("!", "magenta"),
    "closed": ("✓", "green"),
    "alarm": ("●", "yellow"),
    "say": ("·", "white"),
}


class Timeline:
    """Lines above, the year's progress below."""

    def __init__(self, total: int) -> None:
        self.console = Console(stderr=True, highlight=False)
        self._progress = Progress(
            TextColumn("{task.description}", style="bold"),
            BarColumn(bar_width=40),
            MofNCompleteColumn(),
            TextColumn("predictions"),
            TimeElapsedColumn(),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        self._task = self._progress.add_task("getting ready", total=total)

    def __enter__(self) -> Timeline:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def moved(self, now: datetime, predictions: int) -> None:
        """The year has come to ``now``."""
        self._progress.update(self._task, description=now.strftime("%d %b %Y"), completed=predictions)

    def tell(self, now: datetime, mark: str, what: str, evidence: str = "") -> None:
        """One thing that happened, and why."""
        sign, colour = _MARKS[mark]
        line = Text(f"{now:%d %b %H:%M} ", style="dim")
        line.append(f"{sign} ", style=colour)
        line.append(what, style=colour if mark != "say" else "default")
        self.console.print(line, soft_wrap=True)
        if evidence:
            self.console.print(Text(f"               {evidence}", style="dim"), soft_wrap=True)
