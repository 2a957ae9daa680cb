"""The artifact proxy: ``mlflow-artifacts:/EXPERIMENT/RUN/artifacts/PATH`` is a file of that run in our artifact store.

A root names its owner just before ``artifacts``: a run's id, a logged model's (``/EXPERIMENT/models/m-…/artifacts``) or a
registered version's (``/models/NAME/NUMBER/artifacts``). Any other path is kept too, under an owner of its own. Files are
streamed both ways in pieces of 4 MiB; they are not limited, a path is (500 letters). A file that is read is hashed on
the way: a flipped byte breaks the answer off.
"""

from __future__ import annotations

import mimetypes
import re
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from blake3 import blake3
from starlette.concurrency import iterate_in_threadpool, run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse

from flyball.compat.mlflow import limits
from flyball.compat.mlflow.wire import (
    Asked,
    MlflowError,
    answer,
    does_not_exist,
    from_query,
    guarded,
    invalid,
)
from flyball.errors import Refused
from flyball.stores.artifacts import Artifact, ArtifactStore

if TYPE_CHECKING:
    from flyball.service import Workspace

PIECE_BYTES = 4 * 1024 * 1024
SCHEME = "mlflow-artifacts:"
_ELSEWHERE = "mlflow-artifacts"  # the owner of files that belong to no run and no model
_RANGE = re.compile(r"^bytes=(\d*)-(\d*)$")


def run_root(run: str, experiment: str, location: str = "") -> str:
    """Where a run's artifacts are, as the client is told.

    >>> run_root("run_1", "7"), run_root("run_1", "7", "s3://bucket/x")
    ('mlflow-artifacts:/7/run_1/artifacts', 's3://bucket/x/run_1/artifacts')
    """
    return f"{(location or f'{SCHEME}/{experiment}').rstrip('/')}/{run}/artifacts"


def logged_model_root(model: str, experiment: str, location: str = "") -> str:
    """Where a logged model's artifacts are."""
    return f"{(location or f'{SCHEME}/{experiment}').rstrip('/')}/models/{model}/artifacts"


def version_root(name: str, number: int) -> str:
    """Where a registered version's MLmodel folder is.

    >>> version_root("delays", 3)
    'mlflow-artifacts:/models/delays/3/artifacts'
    """
    return f"{SCHEME}/models/{quote(name, safe='')}/{number}/artifacts"


def owner_of(path: str) -> tuple[str, str]:
    """Whose file a path of the proxy is, and its path there.

    >>> owner_of("7/run_1/artifacts/plots/roc.svg"), owner_of("models/delays/3/artifacts")
    (('run_1', 'plots/roc.svg'), ('model:delays@3', ''))
    >>> owner_of("somewhere/else.txt")
    ('mlflow-artifacts', 'somewhere/else.txt')
    """
    words = path.split("/")
    places = [place for place, word in enumerate(words) if word == "artifacts" and place > 0]
    # A custom location may hold a folder of that name too: an id that is ours says which one it is.
    places.sort(key=lambda place: not words[place - 1].startswith(("run_", "m-")))
    if not places:
        return _ELSEWHERE, path
    place = places[0]
    owner, rest = words[place - 1], "/".join(words[place + 1 :])
    if place == 3 and words[0] == "models" and owner.isdigit():
        owner = f"model:{words[1]}@{owner}"
    if len(owner) > 300:
        raise invalid("Invalid path")
    return owner, rest


def at(uri: str) -> tuple[str, str] | None:
    """Whose file a URI of ours names; ``None`` for one of another store.

    >>> at("mlflow-artifacts:/0/models/m-1/artifacts/MLmodel"), at("s3://bucket/x")
    (('m-1', 'MLmodel'), None)
    """
    if not uri.startswith(SCHEME):
        return None
    rest = uri.removeprefix(SCHEME)
    if rest.startswith("//"):  # a host: the server's own
        rest = rest[2:].partition("/")[2]
    return owner_of(limits.artifact_path(rest.lstrip("/")))


def store(ws: Workspace) -> ArtifactStore:
    """The workspace's artifacts."""
    return ArtifactStore(ws.ledger, ws.blobs)


def entries(ws: Workspace, owner: str, folder: str) -> list[dict[str, Any]]:
    """One level of an owner's folder as MLflow lists it: paths from the owner's root."""
    _materialised(ws, owner)
    return [
        {
            "path": one.path,
            "is_dir": one.is_folder,
            **({} if one.is_folder else {"file_size": one.size_bytes}),
        }
        for one in store(ws).entries(owner, folder)
    ]


def _materialised(ws: Workspace, owner: str) -> None:
    """The MLmodel folder of a registered version is written when it is first asked for; the same bytes each time."""
    if owner.startswith("model:") and not store(ws).ls(owner):
        from flyball.compat.mlflow.folders import folder_of

        store(ws).put_many(owner, folder_of(ws, owner.removeprefix("model:")))


class _List(Asked):
    path: str = ""


async def listed(ws: Workspace, request: Request) -> Response:
    """``GET artifacts?path=``: names within the folder, not paths."""

    def work() -> Any:
        asked = from_query(_List, request.query_params.multi_items())
        ws.use()
        owner, folder = owner_of(limits.artifact_path(asked.path))
        return {
            "files": [{**one, "path": one["path"].rpartition("/")[2]} for one in entries(ws, owner, folder)]
        }

    return await guarded(lambda: _answered(work))


async def _answered(work: Any) -> Response:
    return answer(await run_in_threadpool(work))


async def downloaded(ws: Workspace, request: Request) -> Response:
    """``GET artifacts/PATH``: the bytes, or the range that was asked for."""
    return await guarded(lambda: _download(ws, request))


async def _download(ws: Workspace, request: Request) -> Response:
    found = await run_in_threadpool(opened, ws, request.path_params["path"])
    name = found.path.rpartition("/")[2]
    headers = {
        "content-disposition": f"attachment; filename*=UTF-8''{quote(name)}",
        "x-content-type-options": "nosniff",
        "accept-ranges": "bytes",
        "etag": f'"{found.digest}"',
    }
    kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
    asked = request.headers.get("range", "")
    part = _part(asked, found.size_bytes)
    if part is not None:
        start, end = part
        headers |= {
            "content-range": f"bytes {start}-{end - 1}/{found.size_bytes}",
            "content-length": str(end - start),
        }
        pieces = _range(ws, found.digest, start, end)
        return StreamingResponse(iterate_in_threadpool(pieces), 206, headers, kind)
    if found.size_bytes <= PIECE_BYTES:
        body = await run_in_threadpool(ws.blobs.get, found.digest)
        return Response(body, 200, headers, kind)
    headers["content-length"] = str(found.size_bytes)
    return StreamingResponse(iterate_in_threadpool(_checked(ws, found.digest)), 200, headers, kind)


def opened(ws: Workspace, path: str) -> Artifact:
    """The file at a path of the proxy."""
    ws.use()
    owner, inner = owner_of(limits.artifact_path(path))
    _materialised(ws, owner)
    found = store(ws).find(owner, inner) if inner else None
    if found is None:
        raise does_not_exist(f"No such artifact: '{path}'")
    return found


def _part(asked: str, size: int) -> tuple[int, int] | None:
    """The range ``[start, end)`` that a header asks for; ``None`` for the whole (also where it is none we know)."""
    match = _RANGE.match(asked.replace(" ", ""))
    if match is None or not (match[1] or match[2]):
        return None
    if match[1]:
        start, end = int(match[1]), min(int(match[2]) + 1 if match[2] else size, size)
    else:
        start, end = max(size - int(match[2]), 0), size
    if start >= end:
        raise invalid(f"The range {asked!r} is outside of {size} bytes.")
    return start, end


def _range(ws: Workspace, digest: str, start: int, end: int) -> Iterator[bytes]:
    for at_byte in range(start, end, PIECE_BYTES):
        yield ws.blobs.read_range(digest, at_byte, min(PIECE_BYTES, end - at_byte))


def _checked(ws: Workspace, digest: str) -> Iterator[bytes]:
    """Piece by piece, the last one only when all bytes are what the digest names."""
    seen, held = blake3(), b""
    for piece in ws.blobs.stream(digest, PIECE_BYTES):
        seen.update(piece)
        if held:
            yield held
        held = piece
    if f"b3:{seen.hexdigest()}" != digest:
        raise Refused(f"the stored bytes of {digest} have changed", "flyball restore BACKUP brings them back")
    yield held


async def uploaded(ws: Workspace, request: Request) -> Response:
    """``PUT artifacts/PATH``: kept whole or not at all."""
    return await guarded(lambda: _upload(ws, request))


async def _upload(ws: Workspace, request: Request) -> Response:
    path = limits.artifact_path(request.path_params["path"])
    owner, inner = owner_of(path)
    if not inner or path.endswith("/"):
        raise invalid("Invalid path")
    if owner.startswith("model:"):
        raise MlflowError(
            "PERMISSION_DENIED", "A registered version's files are never changed; register another version."
        )
    pieces = in_pieces(request)
    first = await anext(pieces, b"")
    second = await anext(pieces, b"")
    if not second:
        await run_in_threadpool(_keep, ws, owner, inner, first)
        return answer({})
    with ws.blobs.writer() as writer:
        for piece in (first, second):
            await run_in_threadpool(writer.write, piece)
        async for piece in pieces:
            await run_in_threadpool(writer.write, piece)
        digest = await run_in_threadpool(writer.keep)
    await run_in_threadpool(_keep, ws, owner, inner, digest)
    return answer({})


async def in_pieces(request: Request) -> AsyncIterator[bytes]:
    """The body in pieces of 4 MiB; one that ends before its announced length is no body."""
    held = bytearray()
    total = 0
    async for part in request.stream():
        held += part
        total += len(part)
        if len(held) >= PIECE_BYTES:
            yield bytes(held)
            held = bytearray()
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced) != total:
        raise ClientDisconnect
    if held:
        yield bytes(held)


def _keep(ws: Workspace, owner: str, path: str, content: bytes | str) -> None:
    ws.use()
    store(ws).put(owner, path, content, actor=ws.actor)


async def deleted(ws: Workspace, request: Request) -> Response:
    """``DELETE artifacts/PATH``: a file, or a folder with all below it. What is not there is no error, as with MLflow."""

    def work() -> Any:
        ws.use()
        owner, inner = owner_of(limits.artifact_path(request.path_params["path"]))
        if owner.startswith("model:"):
            raise MlflowError("PERMISSION_DENIED", "A registered version's files are never deleted.")
        store(ws).delete(owner, inner, actor=ws.actor)
        return {}

    return await guarded(lambda: _answered(work))
