"""The seam for online features: the rows of a key, appended by one writer, read by many in microseconds.

What a store holds are packed chunks (:mod:`flyball.stores.online_chunks`); every engine keeps the same bytes, so the
reader that reduces them to features (:mod:`flyball.features.online`) is one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from flyball.errors import Invalid, NotFound, Unavailable, nearest

if TYPE_CHECKING:
    from flyball.stores.online_chunks import Layout

_encode = msgspec.msgpack.Encoder().encode
_LONGEST_BYTES = 400  # LMDB takes keys of 511 bytes; the view and the chunk need 16


class Rows(msgspec.Struct, frozen=True):
    """A batch of one view's rows: ``codes[i]`` says which of ``keys`` row i belongs to. Times in microseconds, UTC.

    ``values`` is ``(rows, columns)`` float64; NaN, infinities and numbers beyond 1e150 are nulls. ``row_ids`` tells
    rows apart that are equal in everything else; all 0 when there is nothing to tell them by. ``texts`` says which text
    a value of a text column stands for (:func:`flyball.features.definitions.text_code`). Without ``sums`` no running
    sums are kept beside the rows: for views that have no windows.
    """

    keys: Sequence[bytes]  # from pack_key
    codes: NDArray[np.int64]
    happened: NDArray[np.int64]
    known: NDArray[np.int64]
    row_ids: NDArray[np.int64]
    values: NDArray[np.float64]
    texts: Mapping[int, str] = {}
    sums: bool = True


class Rewritten(Unavailable):
    """Rows of a key were rewritten while they were read: the store is well, and is asked again at once."""


def no_rows() -> Rows:
    """A batch without rows, for an append that only sets marks."""
    none = np.empty(0, dtype=np.int64)
    return Rows((), none, none, none, none, np.empty((0, 0)))


class Reading(Protocol):
    """One consistent look at the store; what it returns is valid until :meth:`close`."""

    def tail(self, address: bytes) -> memoryview | None:
        """The newest chunk of a key; ``None`` for a key (or view, or store) that has no rows."""
        ...

    def tails(self, addresses: Sequence[bytes]) -> list[memoryview | None]:
        """What :meth:`tail` says of each address, in one go: one exchange with a store that is elsewhere."""
        ...

    def heads(self, addresses: Sequence[bytes], layout: Layout) -> Sequence[bytes | None]:
        """Of each tail only what latest values need, in one go: the first six words of its header and of its newest
        row the first ``4 + columns`` (:mod:`flyball.stores.online_chunks`), in one piece. Where the header's ``ready``
        is after t, :meth:`tails` must be asked. A store that is elsewhere sends some 150 bytes instead of some 20,000.
        """
        ...

    def closed(self, address: bytes, at_us: int) -> memoryview | None:
        """The closed chunk with the latest first row that happened at or before ``at_us``; ``None`` without one."""
        ...

    def oldest(self, address: bytes) -> memoryview | None:
        """The oldest closed chunk of a key; ``None`` when there is only the tail."""
        ...

    def text(self, code: int) -> str | None:
        """The text that a value of a text column stands for; ``None`` for a code the store never saw."""
        ...

    def close(self) -> None: ...


class OnlineStore(Protocol):
    """Rows by (view, key). Engines: lmdb, redis (and Valkey).

    One process writes, any number read meanwhile; a reader sees whole batches only, also when the writer is killed.
    The store can always be rebuilt from the offline tables, so it does not wait for the disk. A store that does not
    answer is :class:`flyball.errors.Unavailable` after a bounded wait, and is asked anew by the next call.
    """

    batch_rows: int  # rows in one append that don't make readers wait
    near: bool  # in this machine's memory: a reader gets a whole chunk for less than a copy of its head

    def append(
        self, view: str, rows: Rows, *, keep_us: int | None = None, marks: Mapping[str, bytes] = {}
    ) -> int:
        """Add rows, all or none, and with them set ``marks`` (also when there are no rows); returns how many were new.

        A row that is there already changes nothing, so a batch may be repeated. The order of batches does not matter
        but among rows equal in key, happened and known: of those the one that arrived last is the newest. With
        ``keep_us``, rows that happened more than that before the batch's first known time, and that a newer visible
        row supersedes, may be dropped from the keys written. A second writer waits for the first. Two texts for one
        code are :class:`Invalid`.
        """
        ...

    def mark(self, name: str) -> bytes | None:
        """A mark as the last append that named it left it; ``None`` when none did, or its view was cleared since."""
        ...

    def begin(self) -> Reading:
        """One consistent look; never waits, neither for a writer nor for a store that does not exist yet."""
        ...

    def expire(self, view: str, before_us: int, *, as_of_us: int) -> int:
        """Drop chunks whose rows all happened by ``before_us`` and are superseded for every t >= ``as_of_us``.

        Returns the rows dropped. A later read that would need them is an error, not a wrong number.
        """
        ...

    def clear(self, view: str) -> int:
        """Forget a view and the marks set with its rows; returns the number of keys it had, 0 when it was unknown."""
        ...

    def check(self) -> int:
        """Look at every chunk; returns how many there are. One in which a bit has changed is ``Unavailable``."""
        ...

    def views(self) -> dict[str, int]:
        """Views with rows, and their number of columns."""
        ...

    def close(self) -> None:
        """Let go of the file or connection; closing twice is fine."""
        ...


_REDIS = "flyball.stores.online_redis:open_redis"
OPENERS = {
    "lmdb": "flyball.stores.online_lmdb:open_lmdb",
    "redis": _REDIS,
    "rediss": _REDIS,
    "valkey": _REDIS,
}


def open_online(url: str, *, readonly: bool = False) -> OnlineStore:
    """Open ``lmdb:PATH`` or ``redis://HOST:PORT/DB``. A reader of a store that does not exist yet sees an empty one,
    and later its rows.

    >>> open_online("rocks:here")
    Traceback (most recent call last):
    flyball.errors.NotFound: no online store speaks 'rocks'
      known: lmdb, redis, rediss, valkey
    """
    scheme, colon, _ = url.partition(":")
    if not colon:
        raise Invalid(f"{url!r} is not the URL of an online store", "like lmdb:.flyball/online")
    if scheme not in OPENERS:
        raise NotFound(f"no online store speaks {scheme!r}", nearest(scheme, list(OPENERS)), scheme=scheme)
    module, _, opener = OPENERS[scheme].partition(":")
    try:
        found = import_module(module)
    except ModuleNotFoundError as error:
        if error.name != "redis":
            raise
        raise NotFound(f"{scheme}: needs a package more", "pip install 'flyball[redis]'") from error
    store: OnlineStore = getattr(found, opener)(url, readonly=readonly)
    return store


def view_address(view: str) -> bytes:
    """Where the addresses of a view's keys begin: 8 bytes. A key's address is this and :func:`pack_key`."""
    return blake2b(view.encode(), digest_size=8).digest()


def pack_key(parts: Sequence[Any]) -> bytes:
    """A key of texts and whole numbers as bytes that no other key has, nor begins with.

    >>> pack_key(("UA", 1)) == pack_key(("UA", "1")), pack_key((1,)) == pack_key((True,))
    (False, False)
    """
    packed = _encode(parts)
    return packed if len(packed) <= _LONGEST_BYTES else b"\xc1" + blake2b(packed, digest_size=32).digest()


def two_texts(code: int, kept: str, text: str) -> Invalid:
    """Two texts that would share a code: of a million texts, once in ten thousand stores."""
    return Invalid(
        f"the texts {kept!r} and {text!r} have the same code {code}",
        "change one of them a little at its source, or keep it in a view of another store",
        code=code,
    )
