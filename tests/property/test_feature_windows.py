"""Windows of many questions at once against the plainest oracle: every row looked at, values in a list, reduced.

Times lie close together, so that rows tie, stand on edges and on hops, overtake one another and become known late; some
lie before 1970. Values are huge and small, codes of texts, and null.
"""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flyball.features import Window
from flyball.features.definitions import FUNCTIONS, text_code
from flyball.features.index import Questions, index_of
from flyball.features.reducing import reduced
from flyball.features.windows import answers

SECOND = 1_000_000
NAN = float("nan")
COLUMNS = {"whole": 0, "wild": 1, "text": 2}
OF_TEXT = ("count", "first", "last", "distinct", "approx_distinct")

whole = st.integers(-3, 40).map(float)
wild = st.sampled_from([0.1, -0.1, 1 / 3, 1e-9, 1e9, -1e18, 1e18, 123.456, 1e-3])
texts = st.sampled_from(["UA", "AA", "B6"]).map(lambda text: float(text_code(text)))


def maybe(values: st.SearchStrategy[float]) -> st.SearchStrategy[float]:
    return st.one_of(values, values, values, st.just(NAN))


rows = st.lists(
    st.tuples(
        st.integers(0, 2),  # key
        st.integers(-12, 30),  # happened, in seconds
        st.sampled_from([0] * 8 + [-2, 1, 1, 2, 5, 30]),  # known later by
        maybe(whole),
        maybe(wild),
        maybe(texts),
    ),
    max_size=40,
)
delays = st.sampled_from([None, 0, 3])  # each row's own; or all on time; or all alike
questions = st.lists(st.tuples(st.integers(-1, 2), st.integers(-15, 40), st.integers(-1, 1)), max_size=25)


def all_windows() -> list[Window]:
    made = [Window("rows_5", None, "count", 5), Window("rows_12_4", None, "count", 12, 4)]
    for length, hop in ((5, 0), (30, 0), (6, 3), (4, 4), (10**12, 0)):
        for function in FUNCTIONS:
            for column in COLUMNS:
                if column != "text" or function in OF_TEXT:
                    shares = (0.0, 0.3, 0.5, 1.0) if function == "percentile" else (0.0,)
                    made += [
                        Window(
                            f"{column}_{function}_{length}_{hop}_{share}",
                            column,
                            function,
                            length,
                            hop,
                            share,
                        )  # type: ignore[arg-type]  # its literals
                        for share in shares
                    ]
    return made


WINDOWS = all_windows()


def found_for(
    source: list[Any], asked: list[Any], delay: int | None
) -> tuple[dict[str, list[float]], list[Any]]:
    """Our answers in the order asked, and the rows in the order of the index, for the oracle."""
    array = np.array(source or np.empty((0, 6)), dtype=np.float64)
    codes, happened = array[:, 0].astype(np.int64), array[:, 1].astype(np.int64) * SECOND
    known = happened + (array[:, 2].astype(np.int64) * SECOND if delay is None else delay * SECOND)
    index = index_of(codes, happened, known, list(array[:, 3:].T), keys=3)
    code, second, off = np.array(asked or np.empty((0, 3)), dtype=np.int64).T
    order = Questions(code, second * SECOND + off)
    answered = answers(index, order, WINDOWS, COLUMNS)
    assert set(answered) == {window.name for window in WINDOWS}
    back = {name: order.in_asked_order(values).tolist() for name, values in answered.items()}
    kept = index.rows.tolist()
    ordered = [(int(codes[i]), int(happened[i]), int(known[i]), *array[i, 3:].tolist()) for i in kept]
    return back, ordered


def inside(window: Window, ordered: list[Any], code: int, t: int) -> list[float]:
    """The values a window sees, oldest first; of the rows themselves when it has no column."""
    edge = t - window.window_s * SECOND
    if window.hop_s:
        edge = math.floor(edge / (window.hop_s * SECOND)) * window.hop_s * SECOND
    rows = [row for row in ordered if row[0] == code and edge < row[1] <= t and row[2] <= t]
    if window.column is None:
        return [0.0] * len(rows)
    values = [row[3 + COLUMNS[window.column]] for row in rows]
    return [value for value in values if not math.isnan(value)]


def check(source: list[Any], asked: list[Any], delay: int | None) -> None:
    found, ordered = found_for(source, asked, delay)
    for window in WINDOWS:
        for place, (code, second, off) in enumerate(asked):
            value = found[window.name][place]
            values = inside(window, ordered, code, second * SECOND + off)
            expected = reduced(window.function, values, window.share)
            said = (window, asked[place], values, value, expected)
            if expected is None:
                assert math.isnan(value), said
            elif window.column == "wild" and window.function in ("sum", "mean", "std"):
                # as near as floats get: beside the greatest value in this window, not beside others
                assert math.isclose(value, expected, rel_tol=1e-14, abs_tol=1e-14 * max(map(abs, values))), (
                    said
                )
            else:
                assert value == expected, said


@given(source=rows, asked=questions, delay=delays)
@settings(max_examples=150, deadline=None)
def test_windows_are_the_oracle(source: list[Any], asked: list[Any], delay: int | None) -> None:
    check(source, asked, delay)


@given(source=rows, asked=questions, delay=delays)
@settings(max_examples=60, deadline=None)
def test_windows_are_the_oracle_also_where_ranges_are_too_long_to_be_copied(
    source: list[Any], asked: list[Any], delay: int | None
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        for what, small in (
            ("ranks._COPIES", 0), ("ranks._TOGETHER", 2), ("ranks.SAMPLE", 2), ("reducing.SAMPLE", 2),
            ("windows._TOGETHER", 3), ("ranges._TOGETHER", 2),
        ):  # fmt: skip
            patch.setattr(f"flyball.features.{what}", small)
        check(source, asked, delay)
