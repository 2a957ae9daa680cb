"""The end of the demo, for people: what the year came to, in two tables and five lines."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from flyball.demo.summary import Summary
from flyball.service import Workspace


def closing(result: Summary, ws: Workspace, *, keep_up: bool) -> None:
    """Print it to stdout."""
    console = Console(highlight=False)
    table = Table(title="Healed and frozen, side by side", box=None, header_style="bold", title_style="bold")
    for name in ("month", "labelled", "AUC healed", "AUC frozen", "log loss healed", "log loss frozen"):
        table.add_column(name, justify="left" if name == "month" else "right")
    for m in result.months:
        better = "green" if m.log_loss_healed < m.log_loss_frozen else "default"
        table.add_row(
            m.month,
            f"{m.labelled:,}",
            f"{m.auc_healed:.3f}",
            f"{m.auc_frozen:.3f}",
            f"[{better}]{m.log_loss_healed:.4f}[/]",
            f"{m.log_loss_frozen:.4f}",
        )
    console.print()
    console.print(table)
    gain = result.log_loss_gain
    causes: dict[str, int] = {}
    for incident in result.incidents:
        causes[incident["cause"]] = causes.get(incident["cause"], 0) + 1
    exposed = ", ".join(
        f"{one['version']} after {one['requests_exposed']} requests" for one in result.rollbacks
    )
    lines = {
        "gain in log loss": f"{gain['mean']:.4f} a prediction (95 % by day: {gain['low']:.4f} to {gain['high']:.4f})",
        "predictions": f"{result.predictions:,} through the data plane, {result.failed_client_requests} failed",
        "retrainings": f"{result.retrainings}, {result.retrainings_on_bad_data} on bad data, {result.false_alarms} false alarms",
        "promotions": ", ".join(f"{one['version']} on {one['at']:%d %b}" for one in result.promotions)
        or "none",
        "refusals": "; ".join(one["because"] for one in result.refusals) or "none",
        "rollbacks": exposed or "none",
        "incidents": ", ".join(f"{count} {cause}" for cause, count in causes.items()) or "none",
        "skew": f"{sum(one['mismatched'] for one in result.skew)} values differ from their offline recomputation",
        "took": f"{result.seconds:.0f} s",
    }
    for name, value in lines.items():
        console.print(f"[bold]{name:<17}[/] {value}", soft_wrap=True)
    console.print(f"\nthe page with pictures   {result.report}", soft_wrap=True)
    console.print(
        f"why it answered that     cd {ws.root} && flyball explain {result.explain} --verify", soft_wrap=True
    )
    if keep_up:
        console.print(f"console                  http://{ws.config.console.host}:{ws.config.console.port}")
        console.print(f"to end it                flyball down --project {ws.root}", soft_wrap=True)
