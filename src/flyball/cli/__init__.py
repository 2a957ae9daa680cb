"""The command line. ``flyball --help`` loads no engine; people get tables, scripts get ``--json``."""

from __future__ import annotations

import os
import sys
import warnings
from typing import Any

from flyball.errors import FlyballError, Internal


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns its exit code (0 ok, 1 a check said no, 2 usage, 3 not found, 4 conflict, …)."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if arguments is None:  # a warning is for whoever typed the command: no file of ours, no line of code
        warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    debug = "--debug" in words
    as_json = "--json" in words
    words = [word for word in words if word != "--debug"]
    try:
        code = _run(words)
    except FlyballError as error:
        if debug:
            raise
        code = complain(error, as_json)
    except KeyboardInterrupt:
        code = 130
    except BrokenPipeError:  # the reader of our output went away (`flyball … | head`)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except Exception as error:
        if debug:
            raise
        place = _place(error)
        code = complain(
            Internal(
                f"this is a defect in Flyball: {type(error).__name__}: {error} ({place})",
                "run the same command with --debug and report what it prints",
            ),
            as_json,
        )
    if arguments is None:
        sys.exit(code)
    return code


def complain(error: FlyballError, as_json: bool) -> int:
    """Say on stderr what happened and what to do next; returns the exit code."""
    if as_json:
        import msgspec

        sys.stderr.write(msgspec.json.encode(error.as_json(), enc_hook=str).decode() + "\n")
        return error.exit_code
    from rich.console import Console
    from rich.text import Text

    console = Console(stderr=True)
    line = Text("error: ", style="bold red")
    line.append(error.what, style="default")
    console.print(line, soft_wrap=True)
    if error.hint:
        console.print(Text(f"  {error.hint}", style="dim"), soft_wrap=True)
    return error.exit_code


def _run(words: list[str]) -> int:
    import typer

    from flyball.cli.derive import build

    # typer 0.29 brings its own click, whose exceptions are only reachable through those it re-exports
    usage: Any = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")
    try:
        result: Any = build().main(args=words, prog_name="flyball", standalone_mode=False)
    except usage as error:
        error.show()
        return 0 if type(error).__name__ == "NoArgsIsHelpError" else 2
    except typer.Exit as error:
        return error.exit_code
    except typer.Abort:
        return 130
    return result if isinstance(result, int) else 0


def _place(error: BaseException) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "nowhere" if trace is None else f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"
