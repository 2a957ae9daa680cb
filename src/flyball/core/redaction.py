"""Take secrets out of what is written down: passwords in URLs, values of keys that are named like one.

>>> redacted("postgresql://me:hunter2@db/flyball")
'postgresql://me:***@db/flyball'
>>> redacted({"api_key": "abc", "trees": 200})
{'api_key': '***', 'trees': 200}
"""

from __future__ import annotations

import re
from typing import Any

HIDDEN = "***"
_NAMED = (
    r"(?:password|passwd|pwd|secret|token|api[-_]?key|access[-_]?key|private[-_]?key|credentials?|signature)"
)
_SECRET = re.compile(rf"(?:^|[-_.]|(?<=[a-z])){_NAMED}(?:$|[-_.])", re.IGNORECASE)
_IN_USERINFO = re.compile(r"(?P<before>[a-z][a-z0-9+.-]*://[^\s/:@?#]*:)[^\s/?#]*(?=@)", re.IGNORECASE)
_TOKEN_AS_USER = re.compile(r"(?P<before>https?://)[^\s/:@?#]+(?=@)", re.IGNORECASE)
_IN_QUERY = re.compile(rf"(?P<before>[?&;][\w.-]*{_NAMED}[\w.-]*=)[^&;#\s]+", re.IGNORECASE)
_AS_OPTION = re.compile(rf"(?P<before>^-{{1,2}}[\w.-]*{_NAMED}[\w.-]*=).+", re.IGNORECASE | re.DOTALL)


def redacted(value: Any, name: str = "") -> Any:
    """The value with ``***`` for each secret in it; ``name`` is the key it stands under."""
    if isinstance(value, dict):
        return {key: redacted(inner, str(key)) for key, inner in value.items()}
    if names_a_secret(name) and value not in ("", None) and not isinstance(value, bool):
        return HIDDEN
    if isinstance(value, list | tuple):
        return [redacted(one) for one in value]
    return redacted_text(value) if isinstance(value, str) else value


def redacted_text(text: str) -> str:
    """The text with ``***`` for the passwords of URLs, for tokens in their queries and in options."""
    for pattern in (_IN_USERINFO, _TOKEN_AS_USER, _IN_QUERY, _AS_OPTION):
        text = pattern.sub(rf"\g<before>{HIDDEN}", text)
    return text


def redacted_command(words: list[str]) -> tuple[str, ...]:
    """A command line without the values of options that are named like secrets.

    >>> redacted_command(["train.py", "--api-key", "abc", "--trees=3"])
    ('train.py', '--api-key', '***', '--trees=3')
    """
    kept: list[str] = []
    for word in words:
        hide = bool(kept) and kept[-1].startswith("-") and names_a_secret(kept[-1].lstrip("-"))
        kept.append(
            HIDDEN if hide and "=" not in kept[-1] and not word.startswith("-") else redacted_text(word)
        )
    return tuple(kept)


def names_a_secret(name: str) -> bool:
    """Whether a key is named like a secret: ``password``, ``aws_secret_access_key``, ``API_TOKEN``.

    >>> names_a_secret("API_TOKEN"), names_a_secret("tokens"), names_a_secret("tokenizer")
    (True, False, False)
    """
    return _SECRET.search(name) is not None
