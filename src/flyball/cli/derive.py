"""Commands derived from the table of verbs: a verb's parameters are its arguments and options.

A parameter without a default is an argument (an option when it is keyword-only); with a default, an option;
``dict[str, str]`` is ``-p NAME=VALUE``, repeated.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import typer

from flyball import __version__
from flyball.core.config import give
from flyball.errors import Invalid, NotFound
from flyball.service.verb import Verb, table

GROUPS = {
    "data": "Snapshots of data, by content.",
    "runs": "What was run, with which code, data and parameters.",
    "models": "Registered models, their versions and aliases.",
    "models keys": "Keys that sign model versions, and whose signatures count.",
    "checks": "Contracts that data must keep.",
    "features": "Feature views, services, and their online values.",
    "pipelines": "Steps and how they hang together.",
    "endpoints": "What is served now.",
    "incidents": "What went wrong, and what was decided about it.",
    "config": "Settings and where each comes from.",
}
_PLACED = (
    "folder",
    "source",
    "url",
    "ref",
    "name",
    "after",
    "entities",
    "file",
)  # of what, from where, to where
_ORDER = ("init", "up", "down", "status", "doctor", "demo", "run", "deploy", "route", "promote", "rollback")


def build() -> Any:
    """The whole command line as one click command."""
    from flyball.cli import processes

    app = typer.Typer(
        name="flyball",
        help="Version, test, build, feed, serve, watch and heal models, in one ledger.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_whole)
    groups: dict[str, typer.Typer] = {"": app}
    commands = {words: _command(verb) for words, verb in table().items()}
    commands |= processes.COMMANDS
    for words in sorted(commands, key=_place):
        group, _, name = words.rpartition(" ")
        _group(group, groups).command(name=name)(commands[words])
    return typer.main.get_command(app)


def _group(words: str, groups: dict[str, typer.Typer]) -> typer.Typer:
    """The group of these words, made (with those it lies in) when a command first needs it."""
    if words not in groups:
        outer, _, name = words.rpartition(" ")
        groups[words] = typer.Typer(no_args_is_help=True, help=GROUPS[words])
        _group(outer, groups).add_typer(groups[words], name=name)
    return groups[words]


def _place(words: str) -> tuple[bool, int, str]:
    first = words.partition(" ")[0]
    return (" " in words, _ORDER.index(first) if first in _ORDER else len(_ORDER), words)


def _whole(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and stop.", is_eager=True)
    ] = False,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="A setting, like serve.port=8081; repeated."),
    ] = None,
) -> None:
    if settings:
        give(_pairs("set", settings, "--set"))
    if version:
        sys.stdout.write(f"flyball {__version__}\n")
        raise typer.Exit


def _command(verb: Verb) -> Callable[..., Any]:
    parameters = {parameter.name: parameter for parameter in verb.parameters}
    rest = next((one.name for one in verb.parameters if one.kind is inspect.Parameter.VAR_POSITIONAL), "")

    def command(**given: Any) -> int:
        as_json, quiet, project = given.pop("as_json"), given.pop("quiet"), given.pop("project")
        profile = given.pop("profile")
        for name, value in given.items():
            if _is_table(parameters[name].annotation):
                given[name] = _pairs(name, value or [])
        if verb.takes_workspace:
            from flyball.service.workspace import Workspace

            try:
                given["ws"] = Workspace.open(project, profile=profile).use()
            except NotFound:
                if not verb.anywhere or project is not None:
                    raise
        more = given.pop(rest, None) or () if rest else ()
        result = verb.function(*more, **given)
        from flyball.cli.show import show

        return show(verb.words, result, as_json=as_json, quiet=quiet)

    signature = [_as_option(parameter) for parameter in parameters.values()]
    command.__signature__ = inspect.Signature([*signature, *_STANDING])  # type: ignore[attr-defined]  # typer reads it
    command.__doc__ = (inspect.getdoc(verb.function) or "").replace("``", "`")  # a terminal's own quotes
    command.__name__ = verb.name
    return command


def _as_option(parameter: inspect.Parameter) -> inspect.Parameter:
    annotation, default = parameter.annotation, parameter.default
    kind = inspect.Parameter.KEYWORD_ONLY
    if _is_table(annotation):
        names = ["-p"] if parameter.name == "params" else []
        given = Annotated[list[str] | None, typer.Option(*names, f"--{parameter.name}", metavar="NAME=VALUE")]
        return inspect.Parameter(parameter.name, kind, annotation=given, default=None)
    if parameter.kind is inspect.Parameter.VAR_POSITIONAL:  # as many more arguments as there are
        many = Annotated[list[str] | None, typer.Argument()]
        return inspect.Parameter(parameter.name, kind, annotation=many, default=None)
    option = f"--{parameter.name.rstrip('_').replace('_', '-')}"  # as_ is --as: a word that Python keeps for itself
    if default is inspect.Parameter.empty:
        by_name = parameter.kind is inspect.Parameter.KEYWORD_ONLY
        info = typer.Option(option) if by_name else typer.Argument()
        return inspect.Parameter(parameter.name, kind, annotation=Annotated[annotation, info])
    if parameter.name in _PLACED:  # an argument even with a default, as in any shell tool
        return inspect.Parameter(
            parameter.name, kind, annotation=Annotated[annotation, typer.Argument()], default=default
        )
    return inspect.Parameter(
        parameter.name, kind, annotation=Annotated[annotation, typer.Option(option)], default=default
    )


def _is_table(annotation: Any) -> bool:
    return any(get_origin(one) is dict for one in (annotation, *get_args(annotation)))


def _pairs(name: str, given: list[str], option: str = "-p") -> dict[str, str]:
    pairs = [one.partition("=") for one in given]
    for key, mark, _ in pairs:
        if not mark:
            raise Invalid(f"{key!r} is not NAME=VALUE", f"write {option} {key}=VALUE", parameter=name)
    return {key: value for key, _, value in pairs}


def _standing(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)


_STANDING = (
    _standing(
        "as_json",
        Annotated[bool, typer.Option("--json", help="A stable shape for scripts, on stdout.")],
        False,
    ),
    _standing("quiet", Annotated[bool, typer.Option("-q", "--quiet", help="Only ids, one a line.")], False),
    _standing(
        "project", Annotated[Path | None, typer.Option("--project", help="The project's folder.")], None
    ),
    _standing("profile", Annotated[str | None, typer.Option("--profile", help="local, prod, …")], None),
)
