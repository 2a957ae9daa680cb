"""MLflow's REST as bytes: requests into records, answers and errors out, page tokens.

A request is a :class:`Asked` struct. A field without a default is required (and a required text is not empty, as with
MLflow, whose requests are protobuf); a ``null`` counts as absent; names we don't know are ignored. A handler is a plain
function of the workspace and that struct; it returns builtins and raises what it likes: :func:`served` runs it in a
thread and puts errors into MLflow's shape.

    class GetThing(Asked):
        name: str
        max_results: int = 100

    def get_thing(ws: Workspace, asked: GetThing) -> dict[str, Any]: ...

    CALLS = [Call("GET", "things/get", GetThing, get_thing), Call("GET", "things/<name>", GetThing, get_thing)]
"""

from __future__ import annotations

import base64
import binascii
import json
import logging
import math
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, get_type_hints

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from flyball.errors import Conflict, FlyballError, Invalid, NotFound, Refused, Unavailable

if TYPE_CHECKING:
    from flyball.service import Workspace

log = logging.getLogger(__name__)
T = TypeVar("T")
MOST_BYTES = 32 * 1024 * 1024  # of a JSON body; MLflow lets one dataset's profile be 16 MiB

STATUSES = {
    "INTERNAL_ERROR": 500,
    "INVALID_STATE": 500,
    "NOT_IMPLEMENTED": 501,
    "TEMPORARILY_UNAVAILABLE": 503,
    "REQUEST_LIMIT_EXCEEDED": 429,
    "RESOURCE_EXHAUSTED": 429,
    "RESOURCE_CONFLICT": 409,
    "ENDPOINT_NOT_FOUND": 404,
    "RESOURCE_DOES_NOT_EXIST": 404,
    "NOT_FOUND": 404,
    "PERMISSION_DENIED": 403,
    "BAD_REQUEST": 400,
    "RESOURCE_ALREADY_EXISTS": 400,
    "INVALID_PARAMETER_VALUE": 400,
}
_SEE_DOCS = " See the API docs for more information about request parameters."


class MlflowError(FlyballError):
    """An error by MLflow's own code, with its words."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message, code=code)
        self.code = code


def invalid(message: str) -> MlflowError:
    """A value that MLflow refuses: ``INVALID_PARAMETER_VALUE``, 400."""
    return MlflowError("INVALID_PARAMETER_VALUE", message)


def does_not_exist(message: str) -> MlflowError:
    """``RESOURCE_DOES_NOT_EXIST``, 404."""
    return MlflowError("RESOURCE_DOES_NOT_EXIST", message)


def already_exists(message: str) -> MlflowError:
    """``RESOURCE_ALREADY_EXISTS``, 400."""
    return MlflowError("RESOURCE_ALREADY_EXISTS", message)


def missing(parameter: str) -> MlflowError:
    """What MLflow says when a required parameter is absent or empty."""
    return invalid(f"Missing value for required parameter '{parameter}'.{_SEE_DOCS}")


def wrong(parameter: str, value: Any, hint: str = "") -> MlflowError:
    """What MLflow says of a value of the wrong type, or one that ``hint`` explains."""
    said = hint or f" Hint: Value was of type '{type(value).__name__}'."
    shown = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return invalid(f"Invalid value {shown} for parameter '{parameter}' supplied: {said}{_SEE_DOCS}")


class Asked(msgspec.Struct):
    """A request. Fields without a default are required."""


class Nothing(Asked):
    """A request without parameters."""


class Call(NamedTuple):
    """One route under ``/api/2.0/mlflow/``: ``<name>`` in its path is a field of what is asked."""

    method: str
    path: str
    asked: type[Any]
    answer: Callable[[Any, Any], Any]


# --- requests ---------------------------------------------------------------------------------------------------------


@cache
def _shape(kind: type[Asked]) -> tuple[msgspec.json.Decoder[Any], tuple[str, ...], frozenset[str]]:
    """A decoder, the required texts, and the fields that are lists (a query repeats those)."""
    hints = get_type_hints(kind)
    fields = msgspec.structs.fields(kind)
    texts = tuple(one.name for one in fields if one.required and hints[one.name] is str)
    lists = frozenset(
        one.encode_name for one in fields if str(hints[one.name]).startswith(("list[", "tuple["))
    )
    return msgspec.json.Decoder(kind, strict=False), texts, lists


def decode(kind: type[T], body: bytes, within: Mapping[str, str] | None = None) -> T:
    """A JSON body as ``kind``; ``within`` are fields that the path holds, which win.

    >>> class Tag(Asked):
    ...     key: str
    ...     value: str = ""
    >>> decode(Tag, b'{"key": "a", "value": null, "more": 1}')
    Tag(key='a', value='')
    """
    decoder, texts, _ = _shape(kind)  # type: ignore[arg-type]  # every kind is an Asked; T keeps the caller's type
    if within or not body:
        found = _slowly(kind, body, within)
    else:
        try:
            found = decoder.decode(body)
        except msgspec.DecodeError:
            found = _slowly(kind, body, within)
    for name in texts:
        if not getattr(found, name):
            raise missing(name)
    return found  # type: ignore[no-any-return]  # the decoder is of that kind


def _slowly(kind: type[Any], body: bytes, within: Mapping[str, str] | None) -> Any:
    """What the fast decoder refused: nulls, NaN as Python's JSON writes it, text around the JSON, wrong types."""
    try:
        given = json.loads(body) if body.strip() else {}
        if isinstance(given, str):  # old clients encode twice
            given = json.loads(given)
    except (ValueError, RecursionError) as error:
        raise MlflowError("BAD_REQUEST", f"The request body is not valid JSON: {error}") from error
    if given is None:
        given = {}
    if not isinstance(given, dict):
        raise MlflowError("BAD_REQUEST", "The request body must be a JSON object.")
    plain = _without_nulls(given)
    plain.update(within or {})
    return _converted(kind, plain)


def from_query(kind: type[T], items: Sequence[tuple[str, str]], within: Mapping[str, str] | None = None) -> T:
    """The query of a GET as ``kind``: a list's name is repeated.

    >>> class Many(Asked):
    ...     run_id: tuple[str, ...] = ()
    ...     most: int = 5
    >>> from_query(Many, [("run_id", "a"), ("run_id", "b"), ("most", "7")])
    Many(run_id=('a', 'b'), most=7)
    """
    _, texts, lists = _shape(kind)  # type: ignore[arg-type]  # as in decode
    given: dict[str, Any] = {}
    for name, value in items:
        if name in lists:
            given.setdefault(name, []).append(value)
        else:
            given.setdefault(name, value)
    given.update(within or {})
    found = _converted(kind, given)
    for name in texts:
        if not getattr(found, name):
            raise missing(name)
    return found  # type: ignore[no-any-return]  # converted to that kind


def _converted(kind: type[Any], given: dict[str, Any]) -> Any:
    try:
        return msgspec.convert(given, kind, strict=False)
    except msgspec.ValidationError as error:
        raise _explained(str(error), given) from error


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nulls(one) for name, one in value.items() if one is not None}
    if isinstance(value, list):
        return [_without_nulls(one) for one in value]
    return value


def _explained(said: str, given: dict[str, Any]) -> MlflowError:
    """MLflow's words for msgspec's ``Expected `str`, got `int` - at `$.key```."""
    words, _, at = said.partition(" - at ")
    path = at.strip("`").removeprefix("$").removeprefix(".")
    absent = re.match(r"Object missing required field `(\w+)`", words)
    if absent:
        return missing(f"{path}.{absent[1]}" if path else absent[1])
    name = re.split(r"[.\[]", path, maxsplit=1)[0]
    if name not in given:
        return invalid(f"{said}.{_SEE_DOCS}")
    return wrong(name, given[name])


# --- answers ----------------------------------------------------------------------------------------------------------


def number(value: float) -> float | str:
    """A metric's value in JSON as protobuf writes it: JSON has no NaN, so it is a text.

    >>> number(0.5), number(float("nan")), number(float("-inf"))
    (0.5, 'NaN', '-Infinity')
    """
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")


def answer(content: Any, status: int = 200) -> Response:
    """Builtins (or structs) as a JSON response."""
    return Response(msgspec.json.encode(content, enc_hook=str), status, media_type="application/json")


def failed(error: FlyballError) -> Response:
    """An error in MLflow's shape: ``{"error_code", "message"}`` with the status that belongs to the code."""
    if isinstance(error, MlflowError):
        code, message = error.code, error.what
    else:
        code = next((name for kind, name in _CODES if isinstance(error, kind)), "INTERNAL_ERROR")
        message = f"{error.what}. {error.hint}" if error.hint else error.what
    return answer({"error_code": code, "message": message}, STATUSES.get(code, 500))


_CODES: tuple[tuple[type[FlyballError], str], ...] = (
    (Invalid, "INVALID_PARAMETER_VALUE"),
    (NotFound, "RESOURCE_DOES_NOT_EXIST"),
    (Conflict, "RESOURCE_CONFLICT"),
    (Refused, "PERMISSION_DENIED"),  # not INVALID_STATE: its 500 makes the client try again for minutes
    (Unavailable, "TEMPORARILY_UNAVAILABLE"),
)


async def body_of(request: Request, most_bytes: int = MOST_BYTES) -> bytes:
    """The body, at most so many bytes."""
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > most_bytes:
            raise invalid(f"The request body is over {most_bytes} bytes.")
        parts.append(part)
    return b"".join(parts)


async def guarded(work: Callable[[], Any]) -> Response:
    """Await ``work()`` and answer with its response, or with its error in MLflow's shape."""
    try:
        found: Response = await work()
    except FlyballError as error:
        return failed(error)
    except ClientDisconnect:
        return failed(MlflowError("BAD_REQUEST", "The client went away before its request was complete."))
    except Exception as error:
        log.exception("a defect in Flyball while it answered MLflow's client")
        said = f"This is a defect in Flyball: {type(error).__name__}: {error}"
        return failed(MlflowError("INTERNAL_ERROR", said))
    return found


async def served(
    ws: Workspace, call: Call, request: Request, within: Mapping[str, str] | None = None
) -> Response:
    """Answer one request by a handler that runs in a thread."""

    async def work() -> Response:
        body = b"" if request.method == "GET" else await body_of(request)
        return answer(await run_in_threadpool(carried_out, body))

    def carried_out(body: bytes) -> Any:
        if request.method == "GET" or (not body and request.url.query):
            asked = from_query(call.asked, request.query_params.multi_items(), within)
        else:
            asked = decode(call.asked, body, within)
        ws.use()
        return call.answer(ws, asked)

    return await guarded(work)


# --- pages ------------------------------------------------------------------------------------------------------------


def offset_of(token: str) -> int:
    """Where a page starts. MLflow's own form of a token: base64 of ``{"offset": 100}``.

    >>> offset_of(""), offset_of(token_of(100))
    (0, 100)
    """
    if not token:
        return 0
    try:
        decoded = base64.b64decode(token, validate=True)
    except (binascii.Error, ValueError) as error:
        raise invalid("Invalid page token, could not base64-decode") from error
    try:
        given = msgspec.json.decode(decoded, type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise invalid(f"Invalid page token, parsed value={decoded!r}") from error
    offset = given.get("offset")
    if not isinstance(offset, int) or isinstance(offset, bool) or offset < 0:
        raise invalid(f"Invalid page token, parsed value={decoded!r}")
    return offset


def token_of(offset: int) -> str:
    """The token of a page that starts at ``offset``."""
    return base64.b64encode(json.dumps({"offset": offset}).encode()).decode()


def page(found: Sequence[T], max_results: int, token: str) -> tuple[Sequence[T], str | None]:
    """One page of a list, and the next page's token when there is more.

    >>> page("abcde", 2, token_of(2))[0]
    'cd'
    """
    start = offset_of(token)
    end = start + max_results
    return found[start:end], token_of(end) if len(found) > end else None
