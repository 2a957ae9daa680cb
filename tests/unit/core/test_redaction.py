"""Secrets are taken out of what is written down; everything else stays as it was."""

from __future__ import annotations

import pytest

from flyball.core.redaction import redacted, redacted_command


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (
            "postgresql://me:hunter2@db:5432/x?sslmode=require",
            "postgresql://me:***@db:5432/x?sslmode=require",
        ),
        ("https://ghp_abc@github.com/x/y.git", "https://***@github.com/x/y.git"),
        (
            "s3://bucket/prefix?region=eu&secret_access_key=abc",
            "s3://bucket/prefix?region=eu&secret_access_key=***",
        ),
        ("redis://:pw@host/0", "redis://:***@host/0"),
        ("sqlite:///.flyball/ledger.db", "sqlite:///.flyball/ledger.db"),
        ("mail ann@example.org at 10:30", "mail ann@example.org at 10:30"),
        (8080, 8080),
        ({"password": "x", "max_tokens": 5, "inner": {"api_key": "y"}}, None),
    ],
)
def test_a_secret_becomes_stars_and_nothing_else_does(given: object, kept: object) -> None:
    if isinstance(given, dict):
        assert redacted(given) == {"password": "***", "max_tokens": 5, "inner": {"api_key": "***"}}
    else:
        assert redacted(given) == kept


def test_a_command_line_keeps_its_words_but_those_of_secret_options() -> None:
    words = ["python", "train.py", "--token", "abc", "--api-key=def", "--trees", "3", "--token", "--verbose"]
    assert redacted_command(words) == (
        "python", "train.py", "--token", "***", "--api-key=***", "--trees", "3", "--token", "--verbose",
    )  # fmt: skip
