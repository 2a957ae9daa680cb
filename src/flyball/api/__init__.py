"""The verbs over HTTP: ``POST /api/{words}`` with the parameters as JSON; ``GET`` for those that only read.

Every answer and every error has the shape that ``--json`` prints. ``GET /api`` lists the verbs, ``/openapi.json``
describes them.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, get_origin
from urllib.parse import urlsplit

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from flyball import __version__
from flyball.errors import FlyballError, Invalid, NotFound, Refused, nearest
from flyball.service.verb import Verb, plain, table

if TYPE_CHECKING:
    from flyball.service import Workspace

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
MOST_BYTES = 16 * 1024 * 1024  # of a body

# Verbs that make files where the server stands are for the command line.
_NOT_OFFERED = {
    "init",
    "backup",
    "restore",
    "migrate",
    "runs download",
    "runs export",
    "features import-feast",
}


def routes(ws: Workspace) -> list[Route]:
    """The API's routes over one workspace."""
    verbs = {words: verb for words, verb in table().items() if words not in _NOT_OFFERED}

    async def index(_request: Request) -> Response:
        return _json({words: verb.summary for words, verb in verbs.items()})

    async def describe(_request: Request) -> Response:
        return _json(openapi(verbs))

    async def call(request: Request) -> Response:
        words = request.path_params["words"].replace("/", " ")
        try:
            _same_origin(request)
            given = await _given(request)
            verb = verbs.get(words)
            if verb is None:
                raise NotFound(f"no verb {words!r}", nearest(words, list(verbs)))
            if request.method == "GET" and not verb.reads:
                raise Invalid(f"{words} changes something", "use POST")
            result = await run_in_threadpool(_call, verb, given, ws)
        except FlyballError as error:
            return _json(error.as_json(), error.http_status)
        return _json(plain(result))

    return [
        Route("/api", index),
        Route("/openapi.json", describe),
        Route("/health", lambda _request: _json({"status": "ok", "version": __version__})),
        Route("/api/{words:path}", call, methods=["GET", "POST"]),
    ]


def _same_origin(request: Request) -> None:
    """A browser says where a request comes from; a page of another site may not make one."""
    origin = request.headers.get("origin")
    try:
        host = urlsplit(origin or "").hostname or ""
    except ValueError:  # not even an address
        host = ""
    if origin is not None and host not in ("127.0.0.1", "localhost", "::1"):
        raise Refused(
            f"a page of {origin} may not call this API", "call it from this machine, or from a script"
        )


async def _given(request: Request) -> dict[str, Any]:
    if request.method == "GET":
        return dict(request.query_params)
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MOST_BYTES:
            raise Invalid(
                f"the body is over {MOST_BYTES} bytes", "send data with `flyball data add`, not over the API"
            )
    if not body:
        return {}
    try:
        given = msgspec.json.decode(body)
    except msgspec.DecodeError as error:
        raise Invalid(
            f"the body is not JSON: {error}", 'send an object like {"endpoint": "delays"}'
        ) from error
    if not isinstance(given, dict):
        raise Invalid("the body must be a JSON object", 'like {"endpoint": "delays"}')
    return given


def _call(verb: Verb, given: dict[str, Any], ws: Workspace) -> Any:
    known = verb.remote
    given = {name if name in known else name.rstrip("_"): value for name, value in given.items()}
    for name in given:
        if name not in known:
            raise Invalid(f"{verb.words} has no parameter {name!r}", nearest(name, list(known)), field=name)
    converted: dict[str, Any] = {}
    for name, parameter in known.items():
        if name in given:
            try:
                converted[parameter.name] = msgspec.convert(given[name], parameter.annotation, strict=False)
            except msgspec.ValidationError as error:
                raise Invalid(f"{name}: {error}", "see /openapi.json", field=name) from error
        elif parameter.default is inspect.Parameter.empty:
            raise Invalid(f"{verb.words} needs {name!r}", f"parameters: {', '.join(known)}", field=name)
    ws.use()
    return verb.function(**converted, ws=ws)


def spoken(parameter: inspect.Parameter) -> str:
    """A parameter's name outside of Python: ``as_`` is ``as``, a word that Python keeps for itself."""
    return parameter.name.rstrip("_")


def _json(content: Any, status: int = 200) -> Response:
    return Response(msgspec.json.encode(content, enc_hook=str), status, media_type="application/json")


def openapi(verbs: dict[str, Verb]) -> dict[str, Any]:
    """The verbs as OpenAPI 3.1."""
    paths: dict[str, Any] = {}
    for words, verb in verbs.items():
        remote = verb.remote
        required = [name for name, one in remote.items() if one.default is inspect.Parameter.empty]
        schema = {
            "type": "object",
            "properties": {name: _schema(one.annotation) for name, one in remote.items()},
        }
        if required:
            schema["required"] = required
        operation = {
            "operationId": words.replace(" ", "_"),
            "summary": verb.summary,
            "requestBody": {"content": {"application/json": {"schema": schema}}},
            "responses": {
                "200": {"description": "the verb's answer"},
                "default": {"description": "an error"},
            },
        }
        paths["/api/" + words.replace(" ", "/")] = {"post": operation}
    return {"openapi": "3.1.0", "info": {"title": "Flyball", "version": __version__}, "paths": paths}


def _schema(annotation: Any) -> dict[str, Any]:
    known = {str: "string", int: "integer", float: "number", bool: "boolean"}
    if annotation in known:
        return {"type": known[annotation]}
    return {"type": "object"} if get_origin(annotation) is dict else {}
