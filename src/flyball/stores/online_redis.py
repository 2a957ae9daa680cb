"""Online features in Redis or Valkey: one exchange for all keys of a request, one transaction for a batch.

What is kept, under ``PREFIX:`` (all of it can be rebuilt from the offline tables):

``views``              hash: address of a view -> its name, columns, whether it keeps sums
``marks`` ``texts``    hash: name -> address of the view and the mark; code -> text
``VIEW:tails``         hash: packed key -> the tail, and behind it the key's *generation*
``VIEW:heads``         hash: packed key -> header and newest row only: all that latest values need, in some 150 bytes
``VIEW:closed``        hash: packed key -> generation, of the keys that have closed chunks
``VIEW:closed:KEY``    sorted set: closed chunks, each behind the time of its first row, in the order of bytes
``VIEW:version``       counted up by each write
``VIEW:turn``          there while one writes, two seconds at most

A write watches the version, reads what it must merge with, and sends one ``MULTI``: when another writer was faster Redis
refuses it whole, and it is done again. A killed writer leaves no lock behind. A reading that follows closed chunks
compares generations, so that chunks rewritten meanwhile can't be mixed with a tail from before.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import msgspec
import redis

from flyball.errors import Conflict, FlyballError, Invalid
from flyball.stores.online import Rewritten, Rows, two_texts, view_address
from flyball.stores.online_chunks import Layout, is_whole, layout_of, torn, with_dropped
from flyball.stores.online_redis_wire import Connections, trouble
from flyball.stores.online_tails import (
    Batch,
    Tail,
    chunks_of,
    grown,
    head_of,
    is_superseded,
    other_columns,
    rebuilt,
    sorted_batch,
)

T = TypeVar("T")
_BIAS = 1 << 63
_NO_GENERATION = bytes(8)
_TURN_MS = 2000  # how long others wait for a writer that was killed
_POLL_S = 0.002
_FIELDS = 500  # fields in one command
_OWN = {"timeout_ms": "50", "write_timeout_ms": "30000", "prefix": "flyball"}
_AGAIN = "this is safe to repeat"


def open_redis(url: str, *, readonly: bool = False) -> RedisOnline:
    """Open ``redis://HOST:PORT/DB[?timeout_ms=50&write_timeout_ms=30000&prefix=flyball]``; nothing is asked of it yet.

    ``rediss://`` speaks TLS. ``timeout_ms`` bounds each wait of a reader, ``write_timeout_ms`` those of a writer.
    """
    parts = urlsplit(url)
    given = dict(parse_qsl(parts.query))
    own = {name: given.pop(name, usual) for name, usual in _OWN.items()}
    if not (own["timeout_ms"].isdecimal() and own["write_timeout_ms"].isdecimal()) or not own["prefix"]:
        raise Invalid(
            f"{parts.query!r} are not options of a Redis store", "like redis://localhost:6379/0?timeout_ms=50"
        )
    scheme = "rediss" if parts.scheme == "rediss" else "redis"
    plain = urlunsplit((scheme, parts.netloc, parts.path, urlencode(given), ""))
    read_s, write_s = int(own["timeout_ms"]) / 1000, int(own["write_timeout_ms"]) / 1000
    return RedisOnline(Connections(plain, read_s), Connections(plain, write_s), own["prefix"].encode())


class RedisReading:
    """One look: what was read of a key stays as it was read. Asks nothing before it is asked."""

    def __init__(self, store: RedisOnline) -> None:
        self._store = store
        self._connection: Any = None
        self._tails: dict[bytes, tuple[memoryview | None, bytes]] = {}

    def tail(self, address: bytes) -> memoryview | None:
        return self.tails((address,))[0]

    def tails(self, addresses: Sequence[bytes]) -> list[memoryview | None]:
        seen = self._tails
        missing = [address for address in addresses if address not in seen] if seen else addresses
        if missing:
            for address, value in zip(missing, self._of_views(b"tails", missing), strict=True):
                kept = (None, _NO_GENERATION) if value is None else (memoryview(value)[:-8], value[-8:])
                seen[address] = kept
        return [seen[address][0] for address in addresses]

    def heads(self, addresses: Sequence[bytes], layout: Layout) -> list[bytes | None]:
        return self._of_views(b"heads", addresses)

    def closed(self, address: bytes, at_us: int) -> memoryview | None:
        return self._chunk(address, b"ZREVRANGEBYLEX", b"(" + _begins(at_us + 1), b"-")

    def oldest(self, address: bytes) -> memoryview | None:
        return self._chunk(address, b"ZRANGEBYLEX", b"-", b"+")

    def text(self, code: int) -> str | None:
        texts = self._store.texts
        if code not in texts:
            (found,) = self._ask([(b"HGET", self._store.named(b"texts"), str(code))])
            if found is None:
                return None
            texts[code] = found.decode()
        return texts[code]

    def close(self) -> None:
        if self._connection is not None:
            self._store.reading.give(self._connection)
            self._connection = None

    def _of_views(self, what: bytes, addresses: Sequence[bytes]) -> list[bytes | None]:
        """The values of keys, in one exchange: a command for each run of keys of one view."""
        commands: list[list[bytes]] = []
        last = None
        for address in addresses:
            if address[:8] != last:
                last = address[:8]
                commands.append([b"HMGET", self._store.of_view(last, what)])
            commands[-1].append(address[8:])
        found = self._ask(commands)
        return found[0] if len(found) == 1 else [value for values in found for value in values]

    def _chunk(self, address: bytes, *command: bytes) -> memoryview | None:
        generation = self._tails[address][1] if self.tail(address) is not None else _NO_GENERATION
        view, key = address[:8], address[8:]
        name, *bounds = command
        generation_of = (b"HGET", self._store.of_view(view, b"closed"), key)
        # Between two equal generations no chunk was rewritten. MULTI would do as well, but not on a server that is full.
        before, chunks, after = self._ask(
            [
                generation_of,
                (name, self._store.chunks(view, key), *bounds, b"LIMIT", b"0", b"1"),
                generation_of,
            ]
        )
        if {before or _NO_GENERATION, after or _NO_GENERATION} != {generation}:
            raise Rewritten(
                f"rows of a key in {self._store} were rewritten while they were read", "ask again"
            )
        return memoryview(chunks[0])[8:] if chunks else None

    def _ask(self, commands: Sequence[Sequence[Any]]) -> list[Any]:
        """Answers to commands sent together. A connection that went stale while it lay idle is made anew, once."""
        pool = self._store.reading
        fresh = False
        while True:
            if self._connection is None:
                self._connection, fresh = pool.take()
            connection, self._connection = self._connection, None
            try:
                connection.send_packed_command(connection.pack_commands(commands), check_health=False)
                found = [connection.read_response() for _ in commands]
            except BaseException as error:
                connection.disconnect()
                if not fresh and isinstance(error, redis.ConnectionError):
                    pool.clear()  # its neighbours are as old
                    fresh = True
                    continue
                if isinstance(error, redis.RedisError | OSError):
                    raise trouble(str(self._store), error) from error
                raise
            self._connection = connection
            return found


class RedisOnline:
    """See :class:`flyball.stores.online.OnlineStore`."""

    near = False
    batch_rows = 10_000  # in a transaction that holds the server for some 20 ms

    def __init__(self, reading: Connections, writing: Connections, prefix: bytes) -> None:
        self.reading = reading
        self.texts: dict[int, str] = {}  # what was read and committed: a code never changes its text
        self._writing = writing
        self._prefix = prefix + b":"
        self._lock = threading.Lock()  # one writer per store in this process; others meet at the version

    def __str__(self) -> str:
        return f"the online store {self.reading.place}"

    def named(self, name: bytes) -> bytes:
        """The name of something that is there once."""
        return self._prefix + name

    def of_view(self, view: bytes, what: bytes) -> bytes:
        """The name of something that each view has."""
        return self._prefix + view + b":" + what

    def chunks(self, view: bytes, key: bytes) -> bytes:
        """The name of a key's closed chunks."""
        return self.of_view(view, b"closed:") + key

    def begin(self) -> RedisReading:
        return RedisReading(self)

    def append(
        self, view: str, rows: Rows, *, keep_us: int | None = None, marks: Mapping[str, bytes] = {}
    ) -> int:
        if len(rows.codes) == 0 and not marks:
            return 0
        layout, batch, keys = sorted_batch(rows)
        as_of = int(rows.known.min()) if len(batch) else 0
        texts = {code: text for code, text in rows.texts.items() if self.texts.get(code) != text}
        address = view_address(view)

        def write(pipe: Any) -> int:
            new_texts = self._new_texts(pipe, texts)
            record = pipe.hget(self.named(b"views"), address)
            if record is not None and len(batch):
                other_columns(view, layout, record)
            plan = _Plan(self, pipe, address, layout)
            new = plan.merge(batch, keys, None if keep_us is None else as_of - keep_us, as_of)
            pipe.multi()
            if marks:
                values = {name: address + value for name, value in marks.items()}
                pipe.hset(self.named(b"marks"), mapping=values)
            if new_texts:
                pipe.hset(self.named(b"texts"), mapping=new_texts)
            if len(batch) and record is None:
                kept = msgspec.msgpack.encode((view, layout.columns, layout.sums))
                pipe.hset(self.named(b"views"), address, kept)
            plan.send()
            return new

        watched = [self.named(b"texts")] if texts else []
        new = self._transact(address, write, watched)
        self.texts.update(texts)
        return new

    def mark(self, name: str) -> bytes | None:
        (found,) = self._ask((b"HGET", self.named(b"marks"), name))
        return None if found is None else found[8:]

    def expire(self, view: str, before_us: int, *, as_of_us: int) -> int:
        address = view_address(view)
        columns, keys = self._ask(
            (b"HGET", self.named(b"views"), address), (b"HKEYS", self.of_view(address, b"closed"))
        )
        if columns is None:
            return 0
        layout, dropped = layout_of(*msgspec.msgpack.decode(columns)[1:]), 0
        for some in chunks_of(sorted(keys), 200):

            def write(pipe: Any, some: Sequence[bytes] = some) -> int:
                plan = _Plan(self, pipe, address, layout)
                found = plan.drop(some, plan.tails(some), before_us, as_of_us)
                pipe.multi()
                plan.send()
                return found

            dropped += self._transact(address, write)
        return dropped

    def clear(self, view: str) -> int:
        address = view_address(view)
        hashes = [self.of_view(address, what) for what in (b"tails", b"heads", b"closed")]

        def write(pipe: Any) -> int:
            keys, closed = pipe.hlen(hashes[0]), pipe.hkeys(hashes[2])
            marks = [
                name for name, value in pipe.hgetall(self.named(b"marks")).items() if value[:8] == address
            ]
            pipe.multi()
            pipe.incr(self.of_view(address, b"version"))
            for some in chunks_of([*hashes, *(self.chunks(address, key) for key in closed)], _FIELDS):
                pipe.unlink(*some)
            pipe.hdel(self.named(b"views"), address)
            if marks:
                pipe.hdel(self.named(b"marks"), *marks)
            return int(keys)

        return self._transact(address, write)

    def views(self) -> dict[str, int]:
        (found,) = self._ask((b"HVALS", self.named(b"views")))
        return {name: columns for name, columns, _ in map(msgspec.msgpack.decode, found)}

    def check(self) -> int:
        """Look at every chunk of every view; returns how many there are, and refuses one in which a bit has changed."""
        count = 0
        with self._client() as client:
            for view in client.hkeys(self.named(b"views")):
                for _, value in client.hscan_iter(self.of_view(view, b"tails"), count=_FIELDS):
                    count += 1
                    if not is_whole(value[:-8]):
                        raise torn()
                for key in client.hkeys(self.of_view(view, b"closed")):
                    for member in client.zrange(self.chunks(view, key), 0, -1):
                        count += 1
                        if not is_whole(member[8:]):
                            raise torn()
        return count

    def close(self) -> None:
        self.reading.clear()
        self._writing.clear()

    def _ask(self, *commands: Sequence[Any]) -> list[Any]:
        reading = self.begin()
        try:
            return reading._ask(commands)
        finally:
            reading.close()

    def _new_texts(self, pipe: Any, texts: Mapping[int, str]) -> dict[str, str]:
        """The texts that the store has no code for yet; another text under a code is refused."""
        new = {}
        for some in chunks_of(list(texts), _FIELDS):
            for code, kept in zip(some, pipe.hmget(self.named(b"texts"), some), strict=True):
                if kept is None:
                    new[str(code)] = texts[code]
                elif kept != texts[code].encode():
                    raise two_texts(code, kept.decode(), texts[code])
        return new

    @contextmanager
    def _client(self) -> Iterator[Any]:
        """A client of the writing side for a few commands; its troubles are ours."""
        try:
            yield redis.Redis(connection_pool=self._writing.pool)
        except (redis.RedisError, OSError) as error:
            raise trouble(str(self), error) from error

    def _transact(self, view: bytes, work: Callable[[Any], T], watched: Sequence[bytes] = ()) -> T:
        """Do the work and send what it planned, all or nothing; again when another writer was faster."""
        until = time.monotonic() + 2 * self._writing.timeout_s
        turn = self.of_view(view, b"turn")
        with self._lock, self._client() as client:
            while True:
                # A courtesy: without it the faster of two writers would always win. It is the watch that must hold.
                while not client.set(turn, b"", nx=True, px=_TURN_MS) and time.monotonic() < until:
                    time.sleep(_POLL_S)
                try:
                    with client.pipeline(transaction=True) as pipe:
                        pipe.watch(self.of_view(view, b"version"), *watched)
                        found = work(pipe)
                        pipe.delete(turn)
                        pipe.execute()
                        return found
                except redis.WatchError:
                    if time.monotonic() > until:
                        raise Conflict(f"other writers of {self} are always faster", _AGAIN) from None
                except FlyballError:
                    client.delete(turn)
                    raise


class _Plan:
    """What one transaction will write to a view: read and worked out before ``MULTI``, sent behind it."""

    def __init__(self, store: RedisOnline, pipe: Any, view: bytes, layout: Layout) -> None:
        self._store, self._pipe, self._view, self._layout = store, pipe, view, layout
        self._new: dict[bytes, tuple[Tail, bytes]] = {}  # packed key -> tail, generation
        self._closed: dict[bytes, bytes] = {}  # packed key -> generation, where it is new
        self._put: list[tuple[bytes, bytes]] = []  # packed key, time and chunk
        self._gone: list[tuple[bytes, int]] = []  # packed key, time of a chunk's first row
        self._generation = b""

    def tails(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The tails of keys with the generation behind each."""
        name = self._store.of_view(self._view, b"tails")
        return [tail for some in chunks_of(keys, _FIELDS) for tail in self._pipe.hmget(name, some)]

    def merge(self, batch: Batch, keys: Sequence[bytes], before_us: int | None, as_of_us: int) -> int:
        """Plan the rows of a batch; returns how many are new."""
        new = 0
        for first, last in batch.slices():
            mine = [keys[code] for code in batch.codes[first:last].tolist()]
            kept = self.tails(mine)
            old = [None if tail is None else memoryview(tail)[:-8] for tail in kept]
            made = grown(self._layout, batch, first, old)
            for at, (key, tail, before) in enumerate(zip(mine, made, kept, strict=True)):
                generation = _NO_GENERATION if before is None else before[-8:]
                if tail is not None:
                    self._new[key] = (tail, generation)
                    new += int(batch.counts[first + at])
                else:
                    new += self._rewrite(key, old[at], generation, batch.of(first + at))
                    if before_us is not None:
                        self._drop(key, before_us, as_of_us)
        return new

    def drop(
        self, keys: Sequence[bytes], tails: Sequence[bytes | None], before_us: int, as_of_us: int
    ) -> int:
        """Plan to drop what is superseded; returns how many rows."""
        for key, tail in zip(keys, tails, strict=True):
            if tail is not None:
                self._new[key] = (tail[:-8], tail[-8:])
        return sum(self._drop(key, before_us, as_of_us) for key in keys if key in self._new)

    def send(self) -> None:
        """Queue all that was planned."""
        pipe, name = self._pipe, self._store.of_view
        pipe.incr(name(self._view, b"version"))
        for some in chunks_of(list(self._new.items()), _FIELDS):
            tails = {key: b"".join(parts) for key, parts in some}
            pipe.hset(name(self._view, b"tails"), mapping=tails)
            heads = {key: head_of(self._layout, tail) for key, (tail, _) in some}
            pipe.hset(name(self._view, b"heads"), mapping=heads)
        for key, begins_us in self._gone:
            chunks = self._store.chunks(self._view, key)
            pipe.zremrangebylex(chunks, b"[" + _begins(begins_us), b"(" + _begins(begins_us + 1))
        for key, member in self._put:
            pipe.zadd(self._store.chunks(self._view, key), {member: 0})
        for those in chunks_of(list(self._closed.items()), _FIELDS):
            pipe.hset(name(self._view, b"closed"), mapping=dict(those))

    def _rewrite(self, key: bytes, tail: memoryview | None, generation: bytes, rows: Any) -> int:
        """Rows that are late, or make a tail too long: all chunks from the first touched are built anew."""
        layout, touched, late = self._layout, [], False
        if tail is not None:
            first_us = int(rows.view("<i8")[0, 0])
            late = first_us < layout.word.unpack_from(tail, layout.start)[0]
            if late:
                touched = self._from(key, first_us)
        chunks, new = rebuilt(
            layout, [*(chunk for _, chunk in touched), *([] if tail is None else [tail])], rows
        )
        if not new:
            return 0
        if late:  # chunks closed now or by a later write go with no tail from before
            generation = self._next()
        self._gone += [(key, begins_us) for begins_us, _ in touched]
        self._put += [(key, _begins(begins_us) + chunk) for begins_us, chunk in chunks[:-1]]
        if chunks[:-1] or late:
            self._closed[key] = generation
        self._new[key] = (chunks[-1][1], generation)
        return new

    def _from(self, key: bytes, first_us: int) -> list[tuple[int, bytes]]:
        """Closed chunks from the one on in which a time falls."""
        name = self._store.chunks(self._view, key)
        found = self._pipe.zrevrangebylex(name, b"(" + _begins(first_us + 1), b"-", start=0, num=1)
        low = b"[" + found[0][:8] if found else b"-"
        return [(_time(one), one[8:]) for one in self._pipe.zrangebylex(name, low, b"+")]

    def _drop(self, key: bytes, before_us: int, as_of_us: int) -> int:
        """Plan to drop a key's oldest chunks, unless they are being rewritten in this very transaction."""
        if key not in self._new or any(gone == key for gone, _ in self._gone):
            return 0
        tail, _ = self._new[key]
        name = self._store.chunks(self._view, key)
        found = self._pipe.zrangebylex(name, b"-", b"(" + _begins(before_us + 1), start=0, num=64)
        if not found:
            return 0
        closing = [member for of, member in self._put if of == key]
        following = self._pipe.zrangebylex(name, b"(" + found[-1], b"+", start=0, num=1) or closing[:1]
        rest = [member[8:] for member in (*found[1:], *following)]
        dropped, until = 0, 0
        for member, after in zip(found, rest if len(rest) == len(found) else [*rest, tail], strict=True):
            if not is_superseded(self._layout, after, before_us, as_of_us):
                break
            words = self._layout.words(member[8:]).view("<i8")
            dropped, until = dropped + len(words), int(words[-1, 0])
            self._gone.append((key, _time(member)))
        if dropped:
            self._closed[key] = self._next()
            self._new[key] = (with_dropped(self._layout, bytes(tail), until), self._next())
        return dropped

    def _next(self) -> bytes:
        """A generation that no write before this one had: the version it will make."""
        if not self._generation:
            version = int(self._pipe.get(self._store.of_view(self._view, b"version")) or 0)
            self._generation = (version + 1).to_bytes(8, "big")
        return self._generation


def _begins(at_us: int) -> bytes:
    return (at_us + _BIAS).to_bytes(8, "big")


def _time(member: bytes) -> int:
    return int.from_bytes(member[:8], "big") - _BIAS
