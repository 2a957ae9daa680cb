"""The table of operations: what each takes and gives, and what is refused when an expression is written."""

from __future__ import annotations

from typing import Any

import msgspec

from flyball.errors import Invalid, nearest


class Op(msgspec.Struct, frozen=True):
    """What an operation takes and gives: ``n`` number, ``b`` boolean, ``s`` text, ``t`` time, ``x`` all of one kind; ``#`` a
    literal: ``#i`` whole number, ``#s`` text, ``#z`` time zone, ``#v`` any. ``more`` is what may follow, any number of times."""

    takes: tuple[str, ...]
    gives: str
    more: str = ""


def _ops(table: str) -> dict[str, Op]:
    found = {}
    for line in table.split("\n"):
        names, colon, rest = line.partition(":")
        if not colon:
            continue
        takes, _, gives = rest.partition("->")
        params = takes.split()
        more = params.pop().removesuffix("...") if params[-1].endswith("...") else ""
        for name in names.split():
            found[name] = Op(tuple(params), gives.strip(), more)
    return found


OPS: dict[str, Op] = _ops("""
col: #s -> ?
lit: #v -> ?
time: #i -> t
add sub mul div floordiv mod pow: n n -> n
neg abs floor ceil truncate sqrt exp log log1p sign: n -> n
round: n #i -> n
clip: n n n -> n
eq ne lt le gt ge: x x -> b
and or: b b -> b
not: b -> b
is_null: x -> b
coalesce least greatest: x x... -> x
when: b x x... -> x
is_in: x #v... -> b
map: x #v #v... -> ?
to_number to_bool to_text: x -> ?
lower upper strip: s -> s
length: s -> n
contains starts_with ends_with: s s -> b
slice: s #i #v -> s
tail: s #i -> s
concat: s s... -> s
replace: s #s #s -> s
hash_bucket: s #i -> n
year month day hour minute second weekday day_of_year date: t #z -> n
epoch: t -> n
from_epoch: n -> t
parse_time: s -> t
seconds_between: t t -> n
""")

_LITERALS: dict[str, tuple[type, ...]] = {"#i": (int,), "#s": (str,), "#z": (str,)}


def check_node(node: Any) -> None:
    """Refuse what no engine could compute: an unknown operation, too few arguments, a literal of a wrong type."""
    if node.op not in OPS:
        raise Invalid(f"no operation {node.op!r}", nearest(str(node.op), list(OPS)))
    op, args = OPS[node.op], node.args
    if len(args) < len(op.takes) or (len(args) > len(op.takes) and not op.more):
        raise Invalid(f"{node.op} takes {len(op.takes)} arguments, not {len(args)}", "see fb.features.col")
    for at, arg in enumerate(args):
        kind = op.takes[at] if at < len(op.takes) else op.more
        if not kind.startswith("#"):
            continue
        if isinstance(arg, msgspec.Struct):
            raise Invalid(f"{node.op} takes a literal, not {arg!r}", "write the value itself")
        if kind in _LITERALS and (type(arg) not in _LITERALS[kind]):
            raise Invalid(
                f"{node.op} takes {_LITERALS[kind][0].__name__}, not {arg!r}", "write the value itself"
            )
    _check_values(node.op, args)


def _check_values(op: str, args: tuple[Any, ...]) -> None:
    if op == "when" and len(args) % 2 == 0:
        raise Invalid("a when() without otherwise()", "when(c).then(a).otherwise(z)")
    if op == "map" and (len(args) < 4 or len(args) % 2 or None in args[2::2]):
        raise Invalid("a mapping names values, each with what it becomes", 'like .map({"UA": 1, "AA": 2})')
    if op == "is_in" and (len(args) < 2 or None in args[1:]):
        raise Invalid("is_in takes at least one literal and no None", "| x.is_null() for null")
    if op == "time" and not -62_135_510_400_000_000 <= args[0] < 253_402_214_400_000_000:
        raise Invalid("a time before the year 1 or after 9999", "null is None")
    if op == "hash_bucket" and not 1 <= args[1] <= 1 << 31:
        raise Invalid(f"{args[1]} buckets", "1 to 2**31")
    if op == "round" and not 0 <= args[1] <= 15:
        raise Invalid(f"round to {args[1]} digits", "0 to 15")
    if op == "replace" and not args[1]:
        raise Invalid("replace of an empty text", "say what to replace")
    if op == "tail" and args[1] < 0:
        raise Invalid(f"the last {args[1]} letters", "0 or more")
    if op == "slice":
        start, length = args[1], args[2]
        if start < 0 or not (length is None or (type(length) is int and length >= 0)):
            raise Invalid(f"a slice from {start!r}, {length!r} long", "both are whole numbers from 0 on")
    if op in ("year", "month", "day", "hour", "minute", "second", "weekday", "day_of_year", "date"):
        _check_zone(args[1])


def _check_zone(name: str) -> None:
    if name == "UTC":  # also where no database of time zones is installed
        return
    from zoneinfo import ZoneInfo, available_timezones

    try:
        ZoneInfo(name)
    except (ValueError, OSError, LookupError):
        raise Invalid(
            f"no time zone {name!r}",
            nearest(name, sorted(available_timezones())).partition("? known")[0] + "?",
        ) from None
