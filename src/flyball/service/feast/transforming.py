"""A function of Feast as expressions, where it is simple arithmetic; else why not.

The function is not run but read: its statements are followed with :func:`col` in place of its inputs. What is written
with pandas, NumPy or plain Python ends as one expression per output; anything else is left as the function it is.

>>> read("def f(inputs):\\n    df = pd.DataFrame()\\n    df['r'] = inputs['a'] / inputs['b']\\n    return df",
...      {"a": "trips:a", "b": "b"})
{'r': col("trips:a") / col("b")}
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from typing import Any

from flyball.errors import Invalid
from flyball.features.expressions import Expr, coalesce, col, greatest, least, lit, when

_Values = dict[str, Any]


class NotArithmetic(Exception):  # noqa: N818  # no error: the function is kept as it is
    """Why a function can't be said as expressions."""


def read(code: str, names: Mapping[str, str]) -> dict[str, Expr]:
    """The outputs of the last function in ``code``; ``names`` is what each of its inputs is called here."""
    try:
        statements = ast.parse(code).body
    except SyntaxError as error:
        raise NotArithmetic(f"its source does not parse: {error}") from error
    if not statements or not isinstance(statements[-1], ast.FunctionDef):
        raise NotArithmetic("its source is not to be had")
    try:
        found = _Function(statements[-1], names, _constants(statements[:-1])).outputs()
    except (Invalid, TypeError, AttributeError) as error:
        raise NotArithmetic(str(error).partition("\n")[0]) from error
    return {name: lit(value) for name, value in found.items()}


def _constants(statements: list[ast.stmt]) -> _Values:
    found = {}
    for one in statements:
        if isinstance(one, ast.Assign) and isinstance(one.targets[0], ast.Name):
            try:
                found[one.targets[0].id] = ast.literal_eval(one.value)
            except ValueError:
                continue
    return found


class _Outputs(dict[str, Any]):
    """The frame or dict that a function fills."""


class _Inputs:
    """What a function is given, by its own names."""

    def __init__(self, names: Mapping[str, str]) -> None:
        self.names = names

    def __getitem__(self, name: str) -> Expr:
        if name not in self.names:
            raise NotArithmetic(f"it reads {name!r}, which is none of its inputs")
        return col(self.names[name])


class _Function:
    """One function, followed statement by statement."""

    def __init__(self, function: ast.FunctionDef, names: Mapping[str, str], constants: _Values) -> None:
        if len(function.args.args) != 1:
            raise NotArithmetic("it takes more than its inputs")
        self.body = function.body
        self.values: _Values = {**constants, function.args.args[0].arg: _Inputs(names)}

    def outputs(self) -> _Values:
        for statement in self.body:
            match statement:
                case ast.Return(value=ast.expr() as value):
                    found = self._of(value)
                    if not isinstance(found, _Outputs) or not found:
                        raise NotArithmetic("it returns something else than named columns")
                    return found
                case (
                    ast.Assign(targets=[ast.Name(id=name)], value=value)
                    | ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value)
                ):
                    self.values[name] = self._of(value)
                case ast.Assign(targets=[ast.Subscript(value=ast.Name(id=name), slice=key)], value=value):
                    place = self.values.get(name)
                    if not isinstance(place, _Outputs):
                        raise NotArithmetic(f"line {statement.lineno} writes into {name!r}")
                    place[str(self._of(key))] = self._of(value)
                case ast.Expr(value=ast.Constant()):
                    continue  # its docstring
                case _:
                    raise NotArithmetic(f"it has a {type(statement).__name__.lower()} statement")
        raise NotArithmetic("it returns nothing")

    def _of(self, node: ast.expr) -> Any:
        match node:
            case ast.Constant(value=value):
                return value
            case ast.Name(id=name) if name in self.values:
                return self.values[name]
            case ast.Name(id="int" | "float" | "bool" | "str" as word):
                return word  # what a column is cast to
            case ast.Subscript(value=value, slice=key):
                return self._item(self._of(value), self._of(key))
            case ast.Dict(keys=keys, values=values) if all(key is not None for key in keys):
                pairs = zip(keys, values, strict=True)
                return _Outputs(
                    {str(self._of(key)): self._of(value) for key, value in pairs if key is not None}
                )
            case ast.List(elts=[only]):
                return self._of(only)
            case ast.ListComp():
                return self._each(node)
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _TWO:
                return _TWO[type(op)](self._of(left), self._of(right))
            case ast.UnaryOp(op=op, operand=operand) if type(op) in _ONE:
                return _ONE[type(op)](self._of(operand))
            case ast.BoolOp(op=op, values=values):
                return self._all([self._of(one) for one in values], isinstance(op, ast.And))
            case ast.Compare(left=left, ops=[op], comparators=[right]):
                return self._compared(self._of(left), op, self._of(right))
            case ast.IfExp(test=test, body=body, orelse=other):
                return when(self._of(test)).then(self._of(body)).otherwise(self._of(other))
            case ast.Call(func=called, args=args, keywords=keywords):
                return self._called(called, [self._of(one) for one in args], {
                    str(one.arg): self._of(one.value) for one in keywords
                })  # fmt: skip
        raise NotArithmetic(f"it has {ast.unparse(node)!r}")

    def _item(self, value: Any, key: Any) -> Any:
        if not isinstance(value, _Inputs | _Outputs) or key not in (
            value.names if isinstance(value, _Inputs) else value
        ):
            raise NotArithmetic(f"it reads {key!r}, which is none of its inputs")
        return value[key]

    def _each(self, node: ast.ListComp) -> Any:
        """``[a + b for a, b in zip(inputs["a"], inputs["b"])]`` is ``a + b`` of each row."""
        if len(node.generators) != 1 or node.generators[0].ifs:
            raise NotArithmetic("it leaves rows out, or crosses them")
        one = node.generators[0]
        match one.iter:
            case ast.Call(func=ast.Name(id="zip"), args=args):
                columns = [self._of(arg) for arg in args]
            case other:
                columns = [self._of(other)]
        targets = one.target.elts if isinstance(one.target, ast.Tuple) else [one.target]
        if len(targets) != len(columns) or not all(isinstance(target, ast.Name) for target in targets):
            raise NotArithmetic(f"it has {ast.unparse(node)!r}")
        before = dict(self.values)
        for target, column in zip(targets, columns, strict=True):
            self.values[target.id] = column  # type: ignore[attr-defined]  # names, as was just seen
        found = self._of(node.elt)
        self.values = before
        return found

    def _all(self, values: list[Any], conjunction: bool) -> Any:
        found = values[0]
        for one in values[1:]:
            found = found & one if conjunction else found | one
        return found

    def _compared(self, left: Any, op: ast.cmpop, right: Any) -> Any:
        if right is None and isinstance(op, ast.Is | ast.IsNot | ast.Eq | ast.NotEq):
            return left.is_null() if isinstance(op, ast.Is | ast.Eq) else left.is_not_null()
        if type(op) not in _COMPARED:
            raise NotArithmetic(f"it compares by {type(op).__name__.lower()}")
        return _COMPARED[type(op)](left, right)

    def _called(self, called: ast.expr, args: list[Any], named: _Values) -> Any:
        match called:
            case ast.Attribute(value=ast.Name(id=module), attr=word) if module not in self.values:
                if word == "DataFrame" and not named and len(args) <= 1:
                    return args[0] if args else _Outputs()
                if module in ("np", "numpy", "math") and word in _FUNCTIONS and not named:
                    return _FUNCTIONS[word](*args)
                if word in ("to_numeric", "isna", "isnull") and module in ("pd", "pandas") and len(args) == 1:
                    return args[0].is_null() if word.startswith("is") else args[0].cast("FP64")
            case ast.Attribute(value=value, attr=word) if word in _METHODS:
                return _METHODS[word](self._of(value), *args, **named)
            case ast.Attribute(value=ast.Attribute(value=value, attr="str"), attr=word) if word in _OF_TEXTS:
                return getattr(self._of(value).str, _OF_TEXTS[word])(*args)
            case ast.Name(id="dict") if not args:
                return _Outputs(named)
            case ast.Name(id=word) if word in _BUILTINS and not named:
                return _BUILTINS[word](*args)
        raise NotArithmetic(f"it calls {ast.unparse(called)}")


_TWO: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Div: lambda a, b: a / b,
    ast.FloorDiv: lambda a, b: a // b,
    ast.Mod: lambda a, b: a % b,
    ast.Pow: lambda a, b: a**b,
    ast.BitAnd: lambda a, b: a & b,
    ast.BitOr: lambda a, b: a | b,
}
_ONE: dict[type, Callable[[Any], Any]] = {
    ast.USub: lambda a: -a,
    ast.Invert: lambda a: ~a,
    ast.Not: lambda a: ~a,
    ast.UAdd: lambda a: a,
}
_COMPARED: dict[type, Callable[[Any, Any], Any]] = {
    ast.Lt: lambda a, b: a < b,
    ast.LtE: lambda a, b: a <= b,
    ast.Gt: lambda a, b: a > b,
    ast.GtE: lambda a, b: a >= b,
    ast.Eq: lambda a, b: a == b,
    ast.NotEq: lambda a, b: a != b,
}
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "abs": lambda a: a.abs(),
    "exp": lambda a: a.exp(),
    "log": lambda a: a.log(),
    "log1p": lambda a: a.log1p(),
    "sqrt": lambda a: a.sqrt(),
    "floor": lambda a: a.floor(),
    "ceil": lambda a: a.ceil(),
    "sign": lambda a: a.sign(),
    "where": lambda test, yes, no: when(test).then(yes).otherwise(no),
    "maximum": greatest,
    "minimum": least,
    "isnan": lambda a: a.is_null(),
    "clip": lambda a, low, high: a.clip(low, high),
}  # fmt: skip
_BUILTINS: dict[str, Callable[..., Any]] = {
    "abs": lambda a: a.abs(),
    "float": lambda a: _cast(a, "float"),
    "int": lambda a: a.cast("INT64"),
    "bool": lambda a: a.cast("BOOL"),
    "round": lambda a, digits=0: a.round(digits),
    "max": lambda a, b: when(b > a).then(b).otherwise(a),
    "min": lambda a, b: when(b < a).then(b).otherwise(a),
}
_CASTS = {"float": "FP64", "int": "INT64", "bool": "BOOL", "str": "BYTES", "string": "BYTES"}


def _cast(of: Any, kind: Any) -> Any:
    word = str(kind).rstrip("0123456789").lower()
    if word not in _CASTS:
        raise NotArithmetic(f"it casts to {kind}")
    computed = isinstance(of, Expr) and of.op != "col"
    return of if word == "float" and computed else of.cast(_CASTS[word])  # arithmetic gives float64 anyway


def _clip(of: Any, low: Any = None, high: Any = None, *, lower: Any = None, upper: Any = None) -> Any:
    return of.clip(low if low is not None else lower, high if high is not None else upper)


_METHODS: dict[str, Callable[..., Any]] = {
    "astype": _cast,
    "fillna": coalesce,
    "abs": lambda of: of.abs(),
    "round": lambda of, decimals=0: of.round(decimals),
    "clip": _clip,
    "isna": lambda of: of.is_null(),
    "isnull": lambda of: of.is_null(),
    "notna": lambda of: of.is_not_null(),
    "notnull": lambda of: of.is_not_null(),
    "isin": lambda of, values: of.is_in(values),
}
_OF_TEXTS = {
    "lower": "lower", "upper": "upper", "strip": "strip", "len": "length", "startswith": "starts_with",
    "endswith": "ends_with",
}  # fmt: skip
