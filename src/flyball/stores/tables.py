"""Parquet tables below a URL: a folder here, or a prefix of a bucket; each file is there whole or not at all.

``file:.flyball/tables`` and ``s3://bucket/prefix`` (``gs://``, ``az://``) answer alike. Writers of one place take turns on
one machine (:meth:`Tables.held`); between machines a new file is made only where there is none, so that the second of two
learns of the first.
"""

from __future__ import annotations

import fcntl
import io
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, NotFoundError

from flyball.errors import Conflict, NotFound, Unavailable
from flyball.stores.buckets import open_bucket, parted, polars_options

if TYPE_CHECKING:
    import polars as pl

_WAIT_S = 30.0


class Tables:
    """The tables of one place. Names are relative, with ``/``; a name that begins with a dot is no table.

    >>> tables = Tables.open(f"file:{folder}")                        # doctest: +SKIP
    >>> tables.at("sources/landed").write("00000001.parquet", rows)    # doctest: +SKIP
    """

    def __init__(self, url: str, state: Path | None, inside: str, bucket: Any) -> None:
        self.url, self.state, self.inside = url, state, inside
        self._bucket = bucket
        self.folder = (
            None if bucket is not None else Path(url.removeprefix("file:").removeprefix("//"), inside)
        )

    @classmethod
    def open(cls, url: str, *, state: Path | None = None) -> Tables:
        """Open ``file:PATH``, ``s3://bucket/prefix``, ``gs://…`` or ``az://…``; nothing is made or asked yet. Locks on a
        bucket lie below ``state``.
        """
        here = url.startswith("file:") or "://" not in url
        return cls(url, state, "", None if here else open_bucket(url))

    def at(self, prefix: str) -> Tables:
        """The tables below a prefix."""
        return Tables(self.url, self.state, f"{self.inside}/{prefix}".strip("/"), self._bucket)

    @property
    def shown(self) -> str:
        """The place, for people; without options."""
        if self.folder is not None:
            return str(self.folder)
        return f"{parted(self.url)[0].rstrip('/')}/{self.inside}".rstrip("/")

    def files(self) -> list[Table]:
        """The Parquet files right here, by name."""
        if self.folder is not None:
            names = [one.name for one in self.folder.glob("*.parquet")]
        else:
            names = [Path(one["path"]).name for one in self._listed()["objects"]]
        return [
            Table(self, name)
            for name in sorted(names)
            if name.endswith(".parquet") and not name.startswith(".")
        ]

    def folders(self) -> list[str]:
        """Names of the folders right here."""
        if self.folder is not None:
            if not self.folder.is_dir():
                return []
            return sorted(one.name for one in self.folder.iterdir() if one.is_dir())
        return sorted(Path(one).name for one in self._listed()["common_prefixes"])

    def has(self, name: str) -> bool:
        """Whether there is a file of that name."""
        if self.folder is not None:
            return (self.folder / name).exists()
        with self._answers(name):
            try:
                obstore.head(self._bucket, self._key(name))
            except (NotFoundError, FileNotFoundError):
                return False
        return True

    def write(
        self,
        name: str,
        rows: pl.DataFrame,
        *,
        metadata: Mapping[str, str] | None = None,
        durable: bool = False,
        new: bool = False,
    ) -> None:
        """Write a table, whole or not at all, in place of one of that name; with ``new`` one that is there already is
        :class:`Conflict`. ``durable``: it is on the disk afterwards, and not only the kernel's; on a bucket it always is.
        """
        said: Any = dict(metadata or {})
        if self.folder is None:
            buffer = io.BytesIO()
            rows.write_parquet(buffer, compression="zstd", metadata=said)
            self.put(name, buffer.getvalue(), new=new)
            return
        staged = self.folder / f".{name}.part"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            rows.write_parquet(staged, compression="zstd", metadata=said)
            self._into_place(staged, name, durable=durable, new=new)
        except (OSError, _polars_error()) as error:  # of a full disk, one or the other
            staged.unlink(missing_ok=True)
            raise Unavailable(f"{self.folder / name} can't be written: {error}", _SPACE) from error

    def put(self, name: str, data: bytes, *, new: bool = False) -> None:
        """Write bytes, whole or not at all; with ``new`` a file that is there already is :class:`Conflict`."""
        if self.folder is None:
            with self._answers(name):
                try:
                    mode: Any = "create" if new else "overwrite"
                    obstore.put(self._bucket, self._key(name), data, mode=mode)
                except AlreadyExistsError as error:
                    raise Conflict(f"{self.shown}/{name} is there already", _ANOTHER) from error
            return
        staged = self.folder / f".{name}.part"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            staged.write_bytes(data)
            self._into_place(staged, name, durable=False, new=new)
        except OSError as error:
            staged.unlink(missing_ok=True)
            raise Unavailable(f"{self.folder / name} can't be written: {error}", _SPACE) from error

    def get(self, name: str) -> bytes | None:
        """A file's bytes; ``None`` when there is none."""
        if self.folder is not None:
            try:
                return (self.folder / name).read_bytes()
            except FileNotFoundError:
                return None
        with self._answers(name):
            try:
                return bytes(obstore.get(self._bucket, self._key(name)).bytes())
            except (NotFoundError, FileNotFoundError):
                return None

    def everything(self) -> dict[str, int]:
        """Names of all files below here, however deep, and their sizes; not those whose name begins with a dot."""
        if self.folder is not None:
            found = {
                one.relative_to(self.folder).as_posix(): one.stat().st_size
                for one in self.folder.rglob("*")
                if one.is_file()
            }
        else:
            begin = f"{self.inside}/" if self.inside else ""
            with self._answers(""):
                listed = obstore.list(self._bucket, prefix=begin or None)
                found = {one["path"].removeprefix(begin): one["size"] for part in listed for one in part}
        return {name: size for name, size in sorted(found.items()) if not Path(name).name.startswith(".")}

    def fetch(self, name: str, target: Path) -> bool:
        """Copy a file here, a piece at a time; whether there was one."""
        with self._answers(name), target.open("wb") as out:
            try:
                if self.folder is not None:
                    with (self.folder / name).open("rb") as file:
                        shutil.copyfileobj(file, out)
                else:
                    for piece in obstore.get(self._bucket, self._key(name)).stream():
                        out.write(piece)
            except (NotFoundError, FileNotFoundError):
                return False
        return True

    def bring(self, name: str, file: Path) -> None:
        """Put a file of this machine here, whole, in place of one of that name."""
        if self.folder is not None:
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            self.at(Path(name).parent.as_posix()).put(Path(name).name, file.read_bytes())
            return
        with self._answers(name):
            obstore.put(self._bucket, self._key(name), file)

    def delete(self, name: str) -> None:
        """Remove a file; one that is gone is no error."""
        if self.folder is not None:
            (self.folder / name).unlink(missing_ok=True)
            return
        with self._answers(name):
            try:
                obstore.delete(self._bucket, self._key(name))
            except (NotFoundError, FileNotFoundError):
                return

    @contextmanager
    def held(self) -> Iterator[None]:
        """Alone among the writers of this place on this machine; the lock ends with its process, however that ends."""
        path = self._lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            until = time.monotonic() + _WAIT_S
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > until:
                        raise Unavailable(
                            f"another process has been writing {Path(self.inside).name!r} for {_WAIT_S:.0f} s",
                            "try again when it is done",
                        ) from None
                    time.sleep(0.002)
            yield

    def _lock(self) -> Path:
        if self.folder is not None:
            return self.folder / ".lock"
        name = blake2b(self.shown.encode(), digest_size=12).hexdigest()
        return (self.state or Path(os.environ.get("TMPDIR", "/tmp"))) / "locks" / name

    def _into_place(self, staged: Path, name: str, *, durable: bool, new: bool) -> None:
        path = staged.parent / name
        if durable:
            _flush(staged)
        if new:
            try:
                os.link(staged, path)
            except FileExistsError as error:
                staged.unlink()
                raise Conflict(f"{path} is there already", _ANOTHER) from error
            except OSError:  # a file system without links: the lock alone keeps writers apart
                if path.exists():
                    staged.unlink()
                    raise Conflict(f"{path} is there already", _ANOTHER) from None
                staged.replace(path)
            staged.unlink(missing_ok=True)
        else:
            staged.replace(path)
        if durable:
            _flush(staged.parent)

    def _key(self, name: str) -> str:
        return f"{self.inside}/{name}".lstrip("/")

    def _listed(self) -> Any:
        with self._answers(""):
            return obstore.list_with_delimiter(
                self._bucket, prefix=f"{self.inside}/" if self.inside else None
            )

    @contextmanager
    def _answers(self, name: str) -> Iterator[None]:
        try:
            yield
        except (NotFoundError, FileNotFoundError, AlreadyExistsError):
            raise
        except (BaseError, OSError) as error:
            raise Unavailable(
                f"{self.shown}/{name} does not answer: {str(error).partition(chr(10))[0]}",
                "is the bucket up, and the secret right?",
            ) from error


class Table:
    """One Parquet file of some tables."""

    def __init__(self, tables: Tables, name: str) -> None:
        self.tables, self.name = tables, name

    def __repr__(self) -> str:
        return f"{self.tables.shown}/{self.name}"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Table) and repr(self) == repr(other)

    def __hash__(self) -> int:
        return hash(repr(self))

    @property
    def size_bytes(self) -> int:
        """Its size."""
        return int(self.stat()["size"])

    def stat(self) -> dict[str, Any]:
        """``size``, ``last_modified`` and ``e_tag`` (none in a folder)."""
        if (folder := self.tables.folder) is not None:
            from flyball.core.clock import from_us

            try:
                found = (folder / self.name).stat()
            except FileNotFoundError as error:
                raise NotFound(f"no table {self!r}", "it was merged or removed meanwhile") from error
            return {"size": found.st_size, "last_modified": from_us(found.st_mtime_ns // 1000), "e_tag": None}
        with self.tables._answers(self.name):
            try:
                return dict(obstore.head(self.tables._bucket, self.tables._key(self.name)))
            except (NotFoundError, FileNotFoundError) as error:
                raise NotFound(f"no table {self!r}", "it was merged or removed meanwhile") from error

    def scan(self) -> pl.LazyFrame:
        """Its rows, read when they are collected."""
        import polars as pl

        place, options = self._place()
        return pl.scan_parquet(place, glob=False, **options)

    def read(self) -> pl.DataFrame:
        """Its rows."""
        import polars as pl

        if self.tables.folder is not None:
            return pl.read_parquet(self.tables.folder / self.name, glob=False)
        return self.scan().collect()

    def schema(self) -> dict[str, Any]:
        """Names and types of its columns."""
        import polars as pl

        if self.tables.folder is not None:
            return dict(pl.read_parquet_schema(self.tables.folder / self.name))
        return dict(self.scan().collect_schema())

    def metadata(self) -> dict[str, str]:
        """What was said of it when it was written."""
        import polars as pl

        place, options = self._place()
        return dict(pl.read_parquet_metadata(place, **options))

    def delete(self) -> None:
        """Remove it; gone already is no error."""
        self.tables.delete(self.name)

    def _place(self) -> tuple[str, dict[str, Any]]:
        if self.tables.folder is not None:
            return str(self.tables.folder / self.name), {}
        place, options = polars_options(self.tables.url)
        return f"{place.rstrip('/')}/{self.tables._key(self.name)}", options


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


_SPACE = "free some space; nothing was taken, the same may be repeated"
_ANOTHER = "another machine wrote it first; try again"


def _polars_error() -> type[Exception]:
    import polars as pl

    return pl.exceptions.ComputeError
