"""PyTorch, where it is installed: programs that need none of the Python that made them."""

from __future__ import annotations

import io
import json
import warnings
import zipfile
from typing import Any

import numpy as np
import polars as pl
import pytest

from flyball.errors import Invalid, Refused
from flyball.models.formats import decode, encode
from flyball.models.formats.asking import ask_of, column
from flyball.models.scoring import score

torch = pytest.importorskip(
    "torch",
    reason="PyTorch is not installed: NOTHING of the torch format was tested (pip install 'flyball[torch]')",
)
pytestmark = pytest.mark.filterwarnings("ignore")  # torch warns of its own modules

ROWS = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)


@pytest.fixture
def module() -> Any:
    parts = torch.nn
    return parts.Sequential(
        parts.Linear(3, 4), parts.ReLU(), parts.Dropout(0.5), parts.Linear(4, 1), parts.Sigmoid()
    )


def answers(module: Any) -> Any:
    module.eval()
    with torch.no_grad():
        return module(torch.from_numpy(ROWS)).numpy().reshape(-1)


@pytest.mark.parametrize(
    "sample", [ROWS, ROWS[:1], pl.DataFrame(ROWS, schema=["a", "b", "c"])], ids=["rows", "one", "frame"]
)
def test_a_module_becomes_a_program_for_any_number_of_rows(module: Any, sample: Any) -> None:
    encoded = encode(module, "auto", sample)
    assert encoded.format == "torch"
    assert module.training  # it was exported in evaluation mode and left as it was
    again = decode("torch", encoded.data)
    wanted = answers(module)
    for rows in (ROWS, ROWS[:1], ROWS[:7]):
        np.testing.assert_allclose(column(ask_of(again, [])(rows)), wanted[: len(rows)], rtol=1e-6)
    np.testing.assert_allclose(score(again, ROWS.astype(np.float64)), wanted, rtol=1e-6)


def test_without_a_sample_it_is_pickled_and_answers_in_evaluation_mode(module: Any) -> None:
    encoded = encode(module)
    assert (
        encoded.format,
        "pass sample" in encoded.facts["reason"] or "rows" in encoded.facts["reason"],
    ) == ("pickle", True)
    again = decode("pickle", encoded.data)
    np.testing.assert_allclose(column(ask_of(again, [])(ROWS)), answers(module), rtol=1e-6)


def test_what_is_scripted_stays_torchscript(module: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scripted = torch.jit.script(module.eval())
        encoded = encode(scripted, "torch", ROWS)
        again = decode("torch", encoded.data)
    np.testing.assert_allclose(score(again, ROWS), answers(module), rtol=1e-6)


def test_a_program_with_a_pickle_in_it_is_refused_by_name(
    module: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return (print, ("sprung",))

    pickled = io.BytesIO()
    torch.save(Trap(), pickled)
    out = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(encode(module, "auto", ROWS).data)) as old,
        zipfile.ZipFile(out, "w") as new,
    ):
        for name in old.namelist():
            content = old.read(name)
            if name.endswith("model_weights_config.json"):
                config = json.loads(content)
                for one in config["config"].values():
                    one["use_pickle"] = True
                content = json.dumps(config).encode()
            elif "/weights/weight_" in name:
                content = pickled.getvalue()
            new.writestr(name, content)
    with pytest.raises(Refused, match=r"builtin\w*\.print"):
        decode("torch", out.getvalue())
    assert "sprung" not in capsys.readouterr().out


def test_torn_programs_are_said_as_such(module: Any) -> None:
    data = encode(module, "auto", ROWS).data
    for torn in (b"", b"x", data[: len(data) // 2], data[:-100]):
        with pytest.raises(Invalid, match="torn"):
            decode("torch", torn)
