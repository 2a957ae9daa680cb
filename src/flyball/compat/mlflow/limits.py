"""What MLflow refuses before it writes: names, lengths and counts, in its own words (mlflow/utils/validation.py 3.17).

One difference: MLflow cuts a param at 6,000 letters and a tag at 8,000 and says so in its server's log only. We keep them
whole (up to 1 MiB), since what was acknowledged is not lost.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import unquote

from flyball.compat.mlflow.wire import invalid

PARAMS_OR_TAGS_PER_BATCH = 100
METRICS_PER_BATCH = 1000
ENTITIES_PER_BATCH = 1000
BATCH_BYTES = 1_000_000
KEY_LENGTH = 250
EXPERIMENT_NAME_LENGTH = 500
EXPERIMENT_TAG_VALUE_LENGTH = 20_000
ARTIFACT_LOCATION_LENGTH = 2048
SEARCH_RESULTS = 50_000

_NAME = re.compile(r"^[/\w.\- :]*$")
_RUN_ID = re.compile(r"^[a-zA-Z0-9][\w\-]{0,255}$")
_BAD_CHARACTERS = (
    "Names may only contain alphanumerics, underscores (_), dashes (-), periods (.), spaces ( ), colon(:) and "
    "slashes (/)."
)


def refused(path: str, value: Any, why: str = "") -> Exception:
    """``Invalid value "a//b" for parameter 'name' supplied: why``."""
    shown = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return invalid(f"Invalid value {shown} for parameter '{path}' supplied" + (f": {why}" if why else "."))


def too_long(what: str, limit: int) -> Exception:
    """``'name' exceeds the maximum length of 500 characters``."""
    return invalid(f"'{what}' exceeds the maximum length of {limit} characters")


def name(value: str, path: str, limit: int = KEY_LENGTH, called: str = "") -> str:
    """A name of a metric, parameter or tag: letters MLflow takes, a path that is its own normal form, not too long.

    >>> name("val/loss", "name")
    'val/loss'
    """
    if not _NAME.match(value):
        raise refused(path, value, _BAD_CHARACTERS)
    normal = posixpath.normpath(value)
    if normal != value or normal == "." or normal.startswith(("..", "/")):
        raise refused(
            path,
            value,
            "Names may be treated as files in certain cases, and must not resolve to other names when treated as "
            f"such. This name would resolve to {normal!r}",
        )
    if len(value) > limit:
        raise too_long(called or path, limit)
    return value


def key_path(prefix: str, what: str) -> str:
    """``metrics[3].name``, or ``name`` outside a batch."""
    return f"{prefix}.{what}" if prefix else what


def metric(key: str, timestamp: int, prefix: str = "") -> str:
    """A metric's name, and a time that is not before 1970."""
    name(key, key_path(prefix, "name"), called="Metric name")
    if timestamp < 0:
        raise refused(
            key_path(prefix, "timestamp"),
            timestamp,
            f"metric '{key}'. Timestamp must be a nonnegative long (64-bit integer) ",
        )
    return key


def param(key: str, value: str, prefix: str = "") -> tuple[str, str]:
    """A parameter's name and value."""
    name(key, key_path(prefix, "key"), called="Param key")
    return key, value


def tag(key: str, value: str, prefix: str = "") -> tuple[str, str]:
    """A run's tag."""
    path = key_path(prefix, "key")
    name(key, path, called=path)
    return key, value


def experiment_tag(key: str, value: str) -> tuple[str, str]:
    """An experiment's tag; its value is never cut."""
    name(key, "key", called="key")
    if len(value) > EXPERIMENT_TAG_VALUE_LENGTH:
        raise too_long("value", EXPERIMENT_TAG_VALUE_LENGTH)
    return key, value


def experiment_name(value: str) -> str:
    """An experiment's name."""
    if not value:
        raise invalid(f"Invalid experiment name: '{value}'")
    if len(value) > EXPERIMENT_NAME_LENGTH:
        raise too_long("name", EXPERIMENT_NAME_LENGTH)
    return value


def run_id(value: str) -> str:
    """A run's id: letters, digits, underscores and dashes."""
    if not _RUN_ID.match(value):
        raise refused("run_id", value)
    return value


def logged_model_name(value: str) -> str:
    """A logged model's name."""
    bad = ("/", ":", ".", "%", '"', "'")
    if any(one in value for one in bad):
        raise invalid(
            f"Invalid model name ({value!r}) provided. Model name must be a non-empty string and cannot contain the "
            f"following characters: {bad}"
        )
    return value


def batch(metrics: Sequence[Any], params: Sequence[Any], tags: Sequence[Any]) -> None:
    """How much one ``log-batch`` may carry."""
    for what, limit, count in (
        ("metrics", METRICS_PER_BATCH, len(metrics)),
        ("params", PARAMS_OR_TAGS_PER_BATCH, len(params)),
        ("tags", PARAMS_OR_TAGS_PER_BATCH, len(tags)),
        ("metrics, params, and tags", ENTITIES_PER_BATCH, len(metrics) + len(params) + len(tags)),
    ):
        if count > limit:
            raise invalid(
                f"A batch logging request can contain at most {limit} {what}. Got {count} {what}. Please split up "
                f"{what} across multiple requests and try again."
            )


def unique(keys: Iterable[str]) -> None:
    """A batch has one value per parameter."""
    seen: set[str] = set()
    again = [key for key in keys if key in seen or seen.add(key)]  # type: ignore[func-returns-value]  # None is falsy
    if again:
        raise invalid(
            f"Duplicate parameter keys have been submitted: {again}. Please ensure the request contains only one param "
            "value per param key."
        )


def max_results(value: int, most: int = SEARCH_RESULTS) -> int:
    """How many rows one page may have."""
    said = f"Invalid value {value} for parameter 'max_results' supplied. It must be "
    if value < 1:
        raise invalid(f"{said}a positive integer")
    if value > most:
        raise invalid(f"{said}at most {most}")
    return value


def artifact_path(value: str) -> str:
    """A path below an artifact root: decoded however often it was encoded, never absolute, never upward.

    >>> artifact_path("plots/loss.png")
    'plots/loss.png'
    """
    decoded = value
    for _ in range(10):
        once = unquote(decoded)
        if once == decoded:
            break
        decoded = once
    else:
        raise invalid("Invalid path")
    words = decoded.split("/")
    if (
        "#" in decoded
        or "\\" in decoded
        or ".." in words
        or decoded.startswith("/")
        or re.match(r"^[A-Za-z]:", decoded)
        or decoded.lower().startswith("file:")
        or any(ord(letter) < 32 or ord(letter) == 127 for letter in decoded)
    ):
        raise invalid("Invalid path")
    return "/".join(word for word in words if word not in ("", "."))
