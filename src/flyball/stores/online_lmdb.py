"""Online features in LMDB: a memory map that many processes read without a lock while one writes.

Commits don't wait for the disk (``sync=False``): a killed process loses no commit, since the pages are the kernel's;
a machine that loses power may lose the file, which is rebuilt from the offline tables.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any, TypeVar

import lmdb
import msgspec
import numpy as np

from flyball.stores.online import Rows, two_texts, view_address
from flyball.stores.online_chunks import NEVER, Floats, Layout, layout_in, layout_of, with_dropped
from flyball.stores.online_lmdb_files import (
    FORMAT,
    FORMAT_NOW,
    Environment,
    let_go,
    place_of,
    shared_environment,
    unavailable,
)
from flyball.stores.online_tails import (
    Batch,
    grown,
    head_of,
    is_superseded,
    other_columns,
    rebuilt,
    sorted_batch,
)

T = TypeVar("T")
_BIAS = 1 << 63  # signed times sort as unsigned big-endian bytes
_VIEWS = b"\x00views\x00"  # records of views: shorter than any address of a key
_MARKS = b"\x00marks\x00"
_TEXTS = b"\x00texts\x00"


def open_lmdb(url: str, *, readonly: bool = False) -> LmdbOnline:
    """Open ``lmdb:PATH[?map_bytes=N]``; the folder is made when writing."""
    return LmdbOnline(shared_environment(*place_of(url), readonly))


class LmdbReading:
    """One read transaction; values are views of the map itself."""

    __slots__ = ("_cursor", "_texts", "_txn", "tail")

    def __init__(self, txn: Any, texts: dict[int, str]) -> None:
        self._txn = txn
        self._texts = texts
        self._cursor: Any = None
        self.tail: Callable[[bytes], memoryview | None] = (
            txn.get
        )  # no frame of ours: it is asked for every view

    def tails(self, addresses: Sequence[bytes]) -> list[memoryview | None]:
        return [*map(self.tail, addresses)]

    def heads(self, addresses: Sequence[bytes], layout: Layout) -> list[bytes | None]:
        return [None if tail is None else head_of(layout, tail) for tail in map(self.tail, addresses)]

    def closed(self, address: bytes, at_us: int) -> memoryview | None:
        cursor = self._cursor
        if cursor is None:
            cursor = self._cursor = self._txn.cursor()
        # The chunk before the first that begins later; the tail's key, being shorter, sorts before them all.
        found = cursor.prev() if cursor.set_range(_chunk_key(address, at_us + 1)) else cursor.last()
        return cursor.value() if found and _is_closed(bytes(cursor.key()), address) else None

    def oldest(self, address: bytes) -> memoryview | None:
        with self._txn.cursor() as cursor:
            found = cursor.set_range(address + bytes(8))
            return cursor.value() if found and _is_closed(bytes(cursor.key()), address) else None

    def text(self, code: int) -> str | None:
        found = self._texts.get(code)
        if found is None:
            kept = self._txn.get(_text_key(code))
            if kept is None:
                return None
            found = self._texts[code] = str(kept, "utf-8")
        return found

    def close(self) -> None:
        if self._cursor is not None:
            self._cursor.close()
        self._txn.abort()


class _Nothing:
    """A look at a store that does not exist yet."""

    def tail(self, address: bytes) -> memoryview | None:
        return None

    def tails(self, addresses: Sequence[bytes]) -> list[memoryview | None]:
        return [None] * len(addresses)

    def heads(self, addresses: Sequence[bytes], layout: Layout) -> list[bytes | None]:
        return [None] * len(addresses)

    def closed(self, address: bytes, at_us: int) -> memoryview | None:
        return None

    def oldest(self, address: bytes) -> memoryview | None:
        return None

    def text(self, code: int) -> str | None:
        return None

    def close(self) -> None: ...


class LmdbOnline:
    """See :class:`flyball.stores.online.OnlineStore`."""

    near = True
    batch_rows = 1_000_000  # readers go on meanwhile; some 0.5 GB at its peak

    def __init__(self, shared: Environment) -> None:
        self._shared = shared
        self._closed = False
        self._texts: dict[int, str] = {}  # what was read and committed: a code never changes its text

    def begin(self) -> LmdbReading | _Nothing:
        env = self._shared.current()
        if env is None:
            self._shared.open(readonly=True)
            env = self._shared.env
            if env is None:
                return _Nothing()
        try:
            return LmdbReading(env.begin(buffers=True), self._texts)
        except lmdb.MapResizedError:
            self._shared.resized()
            return LmdbReading(self._shared.env.begin(buffers=True), self._texts)
        except lmdb.Error as error:
            raise unavailable(self._shared.path, error) from error

    def append(
        self, view: str, rows: Rows, *, keep_us: int | None = None, marks: Mapping[str, bytes] = {}
    ) -> int:
        if len(rows.codes) == 0 and not marks:
            return 0
        layout, batch, keys = sorted_batch(rows)
        as_of = int(rows.known.min()) if len(batch) else 0
        texts = {code: text for code, text in rows.texts.items() if self._texts.get(code) != text}
        prefix = view_address(view)

        def write(txn: Any) -> int:
            if txn.get(FORMAT) is None:
                txn.put(FORMAT, FORMAT_NOW)
            for name, value in marks.items():
                txn.put(_mark_key(name), prefix + value)
            for code, text in texts.items():
                _note_text(txn, code, text)
            if len(batch) == 0:
                return 0
            fresh = _note_view(txn, view, layout)
            return _merge(txn, layout, prefix, keys, batch, fresh, as_of, keep_us)

        new = self._write(write)
        self._texts.update(texts)
        return new

    def mark(self, name: str) -> bytes | None:
        reading = self.begin()
        try:
            kept = None if isinstance(reading, _Nothing) else reading.tail(_mark_key(name))
            return None if kept is None else bytes(kept[8:])  # behind the address of its view
        finally:
            reading.close()

    def expire(self, view: str, before_us: int, *, as_of_us: int) -> int:
        prefix = view_address(view)
        if view not in self.views():
            return 0

        def write(txn: Any) -> int:
            record = txn.get(_VIEWS + prefix)
            if record is None:
                return 0
            layout = layout_of(*msgspec.msgpack.decode(record)[1:])
            tails = _tails(txn, prefix)
            return sum(_drop(txn, layout, address, before_us, as_of_us) for address in tails)

        return self._write(write)

    def clear(self, view: str) -> int:
        prefix = view_address(view)
        self._shared.open(readonly=True)
        if self._shared.env is None:
            return 0

        def write(txn: Any) -> int:
            tails = _tails(txn, prefix)
            its_marks = [key for key in _keys(txn, _MARKS) if txn.get(key)[:8] == prefix]
            for key in [*_keys(txn, prefix), *its_marks]:
                txn.delete(key)
            txn.delete(_VIEWS + prefix)
            return len(tails)

        return self._write(write)

    def views(self) -> dict[str, int]:
        reading = self.begin()
        try:
            if isinstance(reading, _Nothing):
                return {}
            found = {}
            for key in _keys(reading._txn, _VIEWS):
                name, columns, _ = msgspec.msgpack.decode(reading._txn.get(key))
                found[name] = columns
            return found
        finally:
            reading.close()

    def check(self) -> int:
        """Look at every chunk; returns how many there are, and refuses one in which a bit has changed.

        What holds the pages together may be damaged as well, and following it end the process: so
        :func:`flyball.stores.online_check.check` asks another process to do this.
        """
        reading = self.begin()
        count = 0
        try:
            if isinstance(reading, _Nothing):
                return 0
            last = b""
            with reading._txn.cursor() as cursor:
                for key, value in cursor:
                    name = bytes(key)
                    if name <= last:
                        raise lmdb.CorruptedError("keys are out of order")
                    last = name
                    if not name.startswith((_VIEWS, _MARKS, _TEXTS, FORMAT)):
                        count += 1
                        layout_in(value)
            return count
        except lmdb.Error as error:
            raise unavailable(self._shared.path, error) from error
        finally:
            reading.close()

    def copy_to(self, folder: Path) -> bool:
        """A copy of this moment, without free pages, while others write; ``False`` when there is no store yet."""
        reading = self.begin()  # opens what there is
        reading.close()
        if self._shared.env is None:
            return False
        folder.mkdir(parents=True, exist_ok=True)
        try:
            self._shared.env.copy(str(folder), compact=True)
        except (lmdb.Error, OSError) as error:
            raise unavailable(folder, error) from error
        return True

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            let_go(self._shared)

    def _write(self, work: Callable[[Any], T]) -> T:
        """One write transaction: all of it or nothing. A full map is doubled and the work done again."""
        self._shared.current()
        self._shared.open(readonly=False)
        while True:
            try:
                with self._shared.env.begin(write=True, buffers=True) as txn:
                    return work(txn)
            except lmdb.MapFullError:
                self._shared.grow()
            except lmdb.MapResizedError:
                self._shared.resized()
            except (lmdb.Error, OSError) as error:
                raise unavailable(self._shared.path, error) from error


def _merge(
    txn: Any,
    layout: Layout,
    prefix: bytes,
    keys: Sequence[bytes],
    batch: Batch,
    fresh: bool,
    as_of: int,
    keep_us: int | None,
) -> int:
    """Add a batch to its keys, some thousand at a time: all tails are read, then all written; returns how many are new."""
    new = 0
    for first, last in batch.slices():
        codes = batch.codes[first:last].tolist()
        addresses = [prefix + keys[code] for code in codes]
        tails: list[memoryview | None] = [None] * len(addresses) if fresh else [*map(txn.get, addresses)]
        made = grown(layout, batch, first, tails)
        hard = [
            (first + at, addresses[at], None if tails[at] is None else bytes(tails[at]))  # type: ignore[arg-type]
            for at, tail in enumerate(made)
            if tail is None
        ]  # taken from the map before the first write may move them
        with txn.cursor() as cursor:
            items = zip(addresses, made, strict=True)
            cursor.putmulti([item for item in items if item[1]] if hard else items)
        new += int(batch.counts[first:last].sum())
        for group, address, tail in hard:
            rows = batch.of(group)
            new -= len(rows)
            new += _rewrite(txn, layout, address, tail, rows)
            if keep_us is not None:
                _drop(txn, layout, address, as_of - keep_us, as_of)
    return new


def _rewrite(txn: Any, layout: Layout, address: bytes, tail: bytes | None, rows: Floats) -> int:
    """Merge rows into the chunks they belong to and build all from there anew: for late rows and full tails."""
    first = int(rows.view(np.int64)[0, 0])
    touched: list[bytes] = []
    if tail is not None and first < layout.word.unpack_from(tail, layout.start)[0]:
        for key in _closed_keys(txn, address):
            begins = int.from_bytes(key[-8:], "big") - _BIAS
            if begins <= first:
                touched = [key]  # a later chunk that still begins early enough takes its place
            else:
                touched.append(key)
    chunks = [bytes(txn.get(key)) for key in touched]
    made, new = rebuilt(layout, chunks if tail is None else [*chunks, tail], rows)
    if new:
        for key in touched:
            txn.delete(key)
        _put(txn, address, made)
    return new


def _put(txn: Any, address: bytes, chunks: list[tuple[int, bytes]]) -> None:
    for begins, chunk in chunks[:-1]:
        txn.put(_chunk_key(address, begins), chunk)
    txn.put(address, chunks[-1][1])


def _drop(txn: Any, layout: Layout, address: bytes, before_us: int, as_of_us: int) -> int:
    """Drop the oldest chunks of a key while the next one begins by ``before_us`` and has a row visible by ``as_of_us``.

    Every dropped row then happened by ``before_us``, and for every t >= ``as_of_us`` a newer one is visible.
    """
    keys = list(_closed_keys(txn, address))
    if not keys:
        return 0
    tail = bytes(txn.get(address))
    dropped, until = 0, NEVER
    for key, following in zip(keys, [*keys[1:], None], strict=True):
        after = tail if following is None else txn.get(following)
        if not is_superseded(layout, after, before_us, as_of_us):
            break
        words = layout.words(txn.get(key)).view(np.int64)
        until = int(words[-1, 0])
        dropped += len(words)
        txn.delete(key)
    if dropped:
        txn.put(address, with_dropped(layout, tail, until))
    return dropped


def _chunk_key(address: bytes, begins_us: int) -> bytes:
    return address + (begins_us + _BIAS).to_bytes(8, "big")


def _is_closed(key: bytes, address: bytes) -> bool:
    return len(key) == len(address) + 8 and key.startswith(address)


def _keys(txn: Any, prefix: bytes) -> Iterator[bytes]:
    with txn.cursor() as cursor:
        found = cursor.set_range(prefix)
        while found:
            key = bytes(cursor.key())
            if not key.startswith(prefix):
                return
            yield key
            found = cursor.next()


def _tails(txn: Any, prefix: bytes) -> list[bytes]:
    """Addresses of the keys of a view. No packed key begins with another, so only a closed chunk's key does."""
    return [key for key in _keys(txn, prefix) if txn.get(key[:-8]) is None]


def _closed_keys(txn: Any, address: bytes) -> list[bytes]:
    return [key for key in _keys(txn, address) if _is_closed(key, address)]


def _mark_key(name: str) -> bytes:
    return _MARKS + blake2b(name.encode(), digest_size=32).digest()


def _text_key(code: int) -> bytes:
    return _TEXTS + code.to_bytes(8, "big")


def _note_text(txn: Any, code: int, text: str) -> None:
    kept = txn.get(_text_key(code))
    if kept is None:
        txn.put(_text_key(code), text.encode())
    elif bytes(kept) != text.encode():
        raise two_texts(code, str(kept, "utf-8"), text)


def _note_view(txn: Any, view: str, layout: Layout) -> bool:
    """Write down a view's name and columns; whether it is new. Other columns than it has are refused."""
    key = _VIEWS + view_address(view)
    found = txn.get(key)
    if found is None:
        txn.put(key, msgspec.msgpack.encode((view, layout.columns, layout.sums)))
        return True
    other_columns(view, layout, bytes(found))
    return False
