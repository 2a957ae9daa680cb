"""The pages, rendered on the server. One page for now: what serves, what was decided, what went wrong."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route as WebRoute

from flyball import __version__
from flyball.core.records import Decision, Incident, Route
from flyball.service import models as model_verbs
from flyball.service.project import processes

if TYPE_CHECKING:
    from jinja2 import Environment

    from flyball.service import Workspace


@dataclass(frozen=True)
class Overview:
    """All that the overview page may see."""

    project: str
    version: str
    processes: dict[str, str]
    routes: list[Route]
    models: list[dict[str, Any]]
    open_incidents: list[Incident]
    closed_incidents: list[Incident]
    decisions: list[Decision]


def overview(ws: Workspace, last: int = 50) -> Overview:
    """Read the page's content from the ledger; newest first."""
    incidents = ws.ledger.ls("incident", Incident)[::-1]
    return Overview(
        project=ws.config.project.name,
        version=__version__,
        processes=processes(ws),
        routes=ws.ledger.ls("route", Route),
        models=model_verbs.ls(ws=ws)[::-1],
        open_incidents=[one for one in incidents if one.closed is None],
        closed_incidents=[one for one in incidents if one.closed is not None][:last],
        decisions=ws.ledger.ls("decision", Decision)[::-1][:last],
    )


def routes(ws: Workspace) -> list[WebRoute]:
    """The pages' routes over one workspace; each page has its content as JSON at the same place with ``.json``."""

    async def page(_request: Request) -> Response:
        content = await run_in_threadpool(overview, ws)
        return HTMLResponse(_templates().get_template("overview.html").render(**_fields(content)))

    async def as_json(_request: Request) -> Response:
        content = await run_in_threadpool(overview, ws)
        body = msgspec.json.encode(asdict(content), enc_hook=str)
        return Response(body, media_type="application/json")

    return [WebRoute("/", page), WebRoute("/index.json", as_json)]


def _fields(content: Overview) -> dict[str, Any]:
    return {name: getattr(content, name) for name in content.__dataclass_fields__}


@lru_cache(maxsize=1)
def _templates() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader("flyball.console"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
