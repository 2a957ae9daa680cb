"""Multipart uploads of the artifact proxy: parts are files of this machine until they are joined to one blob.

``mpu/create`` gives one address of ours for each part; the client PUTs parts there, several at once and each again if it
must, and names them in ``mpu/complete`` by the digest it was answered. Until then nothing is visible; what is never
completed is swept a week later. Parts outlive a restart of the console.
"""

from __future__ import annotations

import secrets
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blake3 import blake3
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from flyball.compat.mlflow import limits
from flyball.compat.mlflow.artifacts import in_pieces, opened, owner_of, store
from flyball.compat.mlflow.wire import Asked, answer, body_of, decode, does_not_exist, guarded, invalid
from flyball.errors import Unavailable

if TYPE_CHECKING:
    from flyball.service import Workspace

MOST_PARTS = 10_000
SWEPT_AFTER_S = 7 * 86_400
_HERE = "/api/2.0/mlflow-artifacts"


class _Create(Asked):
    path: str
    num_parts: int = 1


class _Part(Asked):
    part_number: int
    etag: str = ""
    url: str = ""


class _Complete(Asked):
    path: str
    upload_id: str
    parts: tuple[_Part, ...]


class _Abort(Asked):
    path: str
    upload_id: str


def _folder(ws: Workspace) -> Path:
    return ws.state / "run" / "uploads"


def _opened(ws: Workspace, upload: str) -> Path:
    """The folder of an upload that was created here."""
    if len(upload) != 32 or not all(letter in "0123456789abcdef" for letter in upload):
        raise invalid("Invalid upload id")
    folder = _folder(ws) / upload
    if not folder.is_dir():
        raise does_not_exist(f"No upload {upload}: it was completed, aborted, or swept after a week.")
    return folder


async def create(ws: Workspace, request: Request) -> Response:
    """``POST mpu/create/FOLDER``: an id, and where each part goes."""

    async def work() -> Response:
        asked = decode(_Create, await body_of(request))
        _target(request, asked.path)
        if not 1 <= asked.num_parts <= MOST_PARTS:
            raise invalid(f"num_parts is {asked.num_parts}; an upload has 1 to {MOST_PARTS} parts.")
        upload = await run_in_threadpool(_make, ws)
        base = f"{request.url.scheme}://{request.headers['host']}{_HERE}/mpu/parts/{upload}"
        parts = range(1, asked.num_parts + 1)
        return answer(
            {
                "upload_id": upload,
                "credentials": [
                    {"url": f"{base}/{number}", "part_number": number, "headers": {}} for number in parts
                ],
            }
        )

    return await guarded(work)


def _make(ws: Workspace) -> str:
    _sweep(_folder(ws))
    upload = secrets.token_hex(16)
    (_folder(ws) / upload).mkdir(parents=True)
    return upload


def _sweep(folder: Path) -> None:
    for one in folder.glob("*") if folder.is_dir() else ():
        if one.stat().st_mtime < time.time() - SWEPT_AFTER_S:
            shutil.rmtree(one, ignore_errors=True)


async def part(ws: Workspace, request: Request) -> Response:
    """``PUT mpu/parts/ID/NUMBER``: whole or not at all; its digest is the ``ETag``."""

    async def work() -> Response:
        folder = _opened(ws, request.path_params["upload"])
        number = int(request.path_params["number"])
        if not 1 <= number <= MOST_PARTS:
            raise invalid(f"There is no part {number}.")
        staged = folder / f".{number}.{secrets.token_hex(4)}"
        seen = blake3()
        try:
            with staged.open("xb", buffering=0) as file:
                async for piece in in_pieces(request):
                    seen.update(piece)
                    await run_in_threadpool(file.write, piece)
            staged.replace(folder / f"{number}.{seen.hexdigest()}")
        except OSError as error:
            raise Unavailable(f"a part can't be kept: {error.strerror}", "free some space") from error
        finally:
            staged.unlink(missing_ok=True)
        made = answer({})
        made.headers["etag"] = f'"{seen.hexdigest()}"'
        return made

    return await guarded(work)


async def complete(ws: Workspace, request: Request) -> Response:
    """``POST mpu/complete/FOLDER``: the parts, in order, are the artifact from now on."""

    async def work() -> Response:
        asked = decode(_Complete, await body_of(request))
        owner, path = _target(request, asked.path)
        await run_in_threadpool(_join, ws, owner, path, asked)
        return answer({})

    return await guarded(work)


def _join(ws: Workspace, owner: str, path: str, asked: _Complete) -> None:
    ws.use()
    folder = _opened(ws, asked.upload_id)
    files: list[Path] = []
    for place, one in enumerate(asked.parts, 1):
        file = folder / f"{one.part_number}.{one.etag.strip(chr(34))}"
        if one.part_number != place or one.etag.strip('"').strip("0123456789abcdef") or not file.is_file():
            raise invalid(f"Part {one.part_number} of the upload is not there as it is named.")
        files.append(file)
    if not files:
        raise invalid("An upload is completed with its parts.")
    with ws.blobs.writer() as writer:
        for file in files:
            with file.open("rb", buffering=0) as part_file:
                while piece := part_file.read(4 << 20):
                    writer.write(piece)
        digest = writer.keep()
    store(ws).put(owner, path, digest, actor=ws.actor)
    shutil.rmtree(folder, ignore_errors=True)


async def abort(ws: Workspace, request: Request) -> Response:
    """``POST mpu/abort/FOLDER``: forget the parts."""

    async def work() -> Response:
        asked = decode(_Abort, await body_of(request))
        folder = _opened(ws, asked.upload_id)
        await run_in_threadpool(shutil.rmtree, folder, True)
        return answer({})

    return await guarded(work)


async def presigned(ws: Workspace, request: Request) -> Response:
    """``GET presigned/PATH``: where ranges of the artifact are read, several at once; here, as everything."""

    async def work() -> Response:
        path = request.path_params["path"]
        found = await run_in_threadpool(opened, ws, path)
        url: dict[str, Any] = {
            "url": f"{request.url.scheme}://{request.headers['host']}{_HERE}/artifacts/{path}",
            "headers": {},
            "file_size": found.size_bytes,
        }
        return answer(url)

    return await guarded(work)


def _target(request: Request, name: str) -> tuple[str, str]:
    """Whose file it becomes: the folder is in the path, the name (or a local path, whose last part counts) in the body."""
    folder = limits.artifact_path(request.path_params["path"])
    last = limits.artifact_path(name.replace("\\", "/").rpartition("/")[2])
    owner, path = owner_of(f"{folder}/{last}" if folder else last)
    if not last or owner.startswith("model:"):
        raise invalid("Invalid path")
    return owner, path
