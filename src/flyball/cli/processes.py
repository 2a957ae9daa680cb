"""The commands that run until they are stopped: up, serve, console, govern; and down and demo."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from flyball.errors import Invalid

Project = Annotated[Path | None, typer.Option("--project", help="The project's folder.")]
Profile = Annotated[str | None, typer.Option("--profile", help="local, prod, …")]


def up(
    only: Annotated[
        list[str] | None, typer.Option("--only", help="serve, console, govern or streams; repeated.")
    ] = None,
    project: Project = None,
    profile: Profile = None,
) -> None:
    """Run console, endpoints and the governor on this machine, until Ctrl-C or `flyball down`."""
    from flyball.service.supervise import PARTS, STREAMS
    from flyball.service.supervise import up as run_up

    ws = _workspace(project, profile)
    _loopback("serve", ws.config.serve.host)
    _loopback("console", ws.config.console.host)
    own = (*PARTS, STREAMS) if ws.config.features.streams else PARTS
    parts = tuple(only or own)
    for part in parts:
        if part not in (*PARTS, STREAMS):
            raise Invalid(f"--only {part}: there is no such part", f"known: {', '.join((*PARTS, STREAMS))}")
    _log()
    serve, console = ws.config.serve, ws.config.console
    if sys.stderr.isatty():
        sys.stderr.write(
            f"endpoints http://{serve.host}:{serve.port}   console http://{console.host}:{console.port}\n"
        )
    run_up(ws.root, ws.state, parts, ["--profile", profile] if profile else [])


def down(project: Project = None, profile: Profile = None) -> None:
    """Stop what `flyball up` runs for this project."""
    from flyball.service.supervise import down as run_down

    pid = run_down(_workspace(project, profile).state)
    sys.stderr.write(f"stopped (pid {pid})\n")


def serve(project: Project = None, profile: Profile = None) -> None:
    """Run the serving workers: the data plane, on its own."""
    from flyball.serve.supervisor import serve as run_serve
    from flyball.service.serving import publish_plan
    from flyball.service.supervise import Held

    ws = _workspace(project, profile)
    _loopback("serve", ws.config.serve.host)
    held = Held(ws.state / "run", "serve")
    publish_plan(ws)
    ws.ledger.close()
    settings = ws.config.serve
    try:
        run_serve(
            plan=ws.plan_path,
            log_dir=ws.log_dir,
            host=settings.host,
            port=settings.port,
            workers=settings.workers,
        )
    finally:
        held.release()


def console(project: Project = None, profile: Profile = None) -> None:
    """Run the control plane on its own: the verbs over HTTP, and the pages."""
    from flyball.cli.control import serve_control
    from flyball.service.supervise import Held

    ws = _workspace(project, profile)
    _loopback("console", ws.config.console.host)
    held = Held(ws.state / "run", "console")
    try:
        serve_control(ws)
    finally:
        held.release()


def govern(
    once: Annotated[bool, typer.Option("--once", help="Look once and stop.")] = False,
    project: Project = None,
    profile: Profile = None,
) -> None:
    """Run the governor on its own: monitors, verdicts, decisions, retraining."""
    from flyball.service.governing import govern as run_govern
    from flyball.service.supervise import Held

    _log()
    ws = _workspace(project, profile)
    held = Held(ws.state / "run", "govern")
    try:
        run_govern(ws, once=once)
    finally:
        held.release()


def stream(
    source: Annotated[
        str, typer.Argument(help="A source whose url is a stream; all of them by default.")
    ] = "",
    idle: Annotated[
        float | None, typer.Option("--until-idle", help="Stop when nothing came for so many seconds.")
    ] = None,
    project: Project = None,
    profile: Profile = None,
) -> int:
    """Take the rows of streams as they arrive, offline and online, until Ctrl-C; killed at any time, it goes on there."""
    from flyball.cli.show import show
    from flyball.service.streaming import run

    _log()
    return show(
        "features stream", run(_workspace(project, profile), source, idle_s=idle), as_json=False, quiet=False
    )


def demo(
    folder: Annotated[Path, typer.Option("--into", help="Where the demo's project is made.")] = Path(
        "flyball-demo"
    ),
    as_json: Annotated[bool, typer.Option("--json", help="The summary on stdout, alone.")] = False,
    keep_up: Annotated[bool, typer.Option("--keep-up", help="Leave console and endpoints running.")] = False,
) -> int:
    """Run the whole loop on the flights of 2013 from New York: nine months of a model's life in under three minutes."""
    from flyball.demo import run_demo

    return run_demo(folder, as_json=as_json, keep_up=keep_up)


def _workspace(project: Path | None, profile: str | None) -> Any:
    from flyball.service import Workspace

    return Workspace.open(project, profile=profile).use()


def _loopback(table: str, host: str) -> None:
    if host not in ("127.0.0.1", "localhost", "::1"):
        raise Invalid(
            f"{table}.host is {host}: an address that others reach needs tokens, which this version has not",
            f"set {table}.host to 127.0.0.1 and put a proxy with authentication in front",
        )


def _log() -> None:
    """Servers configure logging; libraries don't."""
    form = '{"at":"%(asctime)s","level":"%(levelname)s","from":"%(name)s","what":"%(message)s"}'
    logging.basicConfig(level=logging.INFO, format=form, stream=sys.stderr)


COMMANDS: dict[str, Callable[..., Any]] = {
    "up": up,
    "down": down,
    "serve": serve,
    "console": console,
    "govern": govern,
    "demo": demo,
    "features stream": stream,
}
