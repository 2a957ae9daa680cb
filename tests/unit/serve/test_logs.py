"""Logs of a server are JSON, one object a line."""

from __future__ import annotations

import json
import logging
import sys

from flyball.serve.logs import JsonLines


def test_a_record_is_one_json_line_with_its_extra_and_trace() -> None:
    try:
        raise ValueError("no")
    except ValueError:
        record = logging.getLogger("flyball.x").makeRecord(
            "flyball.x",
            logging.ERROR,
            "f.py",
            1,
            "kept %d",
            (3,),
            sys.exc_info(),
            extra={"model": "delays@1"},
        )
    line = JsonLines().format(record)
    assert "\n" not in line
    said = json.loads(line)
    assert (said["level"], said["said"], said["model"]) == ("error", "kept 3", "delays@1")
    assert "ValueError: no" in said["trace"]
    assert set(said) == {"at", "level", "pid", "logger", "said", "model", "trace"}
