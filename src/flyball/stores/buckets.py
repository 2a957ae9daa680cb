"""Open a bucket by URL: S3 and what speaks like it, Google's and Azure's, with bounded patience.

``s3://bucket/prefix?endpoint=http://127.0.0.1:9000&region=eu-central-1``: options are obstore's (``access_key_id``,
``account_name``, ...). Secrets are better in the environment, where each cloud's own names are read (``AWS_…``,
``GOOGLE_…``, ``AZURE_…``), or with the machine's own identity. ``?read_timeout=30s`` and ``?retry_timeout_s=30`` say how
long a silent store is waited for.
"""

from __future__ import annotations

import os
from contextlib import suppress
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qsl

from obstore.exceptions import BaseError, UnknownConfigurationKeyError
from obstore.store import from_url

from flyball.errors import Invalid, Unavailable

# Between two bytes of an answer, and for all of it: a pack on a slow line may take minutes, silence may not.
_CLIENT = {"connect_timeout": "5s", "read_timeout": "30s", "timeout": "900s"}
_RETRIES = 4
_RETRY_S = 30.0
_OF_THE_CLIENT = {
    "connect_timeout",
    "read_timeout",
    "timeout",
    "allow_http",
    "allow_invalid_certificates",
    "proxy_url",
}
_EXAMPLES = (
    "like s3://bucket/prefix?region=eu-central-1, gs://bucket/prefix or az://container/prefix?account_name=…"
)


def open_bucket(url: str) -> Any:
    """The obstore of a bucket's URL. Nothing is asked of it yet: a wrong name or secret shows at the first use."""
    place, options = parted(url)
    client: dict[str, Any] = dict(_CLIENT)
    client |= {name: options.pop(name) for name in list(options) if name in _OF_THE_CLIENT}
    retry_s = float(options.pop("retry_timeout_s", _RETRY_S))
    if _is_plain(place, options):
        client.setdefault("allow_http", "true")
    open_store: Any = from_url  # its overloads, one per kind of store, can't be chosen by an unknown URL
    try:
        return open_store(
            place,
            config=options or None,
            client_options=client,
            retry_config={"max_retries": _RETRIES, "retry_timeout": timedelta(seconds=retry_s)},
        )
    except UnknownConfigurationKeyError as error:
        raise Invalid(f"{place}: {_first_line(error)}", _EXAMPLES) from error
    except BaseError as error:
        raise Invalid(f"{place!r} is not a blob URL: {_first_line(error)}", _EXAMPLES) from error


def polars_options(url: str) -> tuple[str, dict[str, Any]]:
    """The place, and how Polars opens it: the same options of the URL, the same environment, the same patience."""
    place, options = parted(url)
    retry_s = float(options.pop("retry_timeout_s", _RETRY_S))
    given: dict[str, Any] = {name: text for name, text in options.items() if name not in _OF_THE_CLIENT}
    if place.startswith("s3"):
        names = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
        endpoint = next((os.environ[name] for name in names if os.environ.get(name)), "")
        if endpoint:
            given.setdefault("endpoint", endpoint)
    given |= {"max_retries": _RETRIES, "retry_timeout_ms": int(retry_s * 1000)}
    # Keys that are said need no provider; asking one would start a cloud's own library.
    keys = (
        "access_key_id",
        "aws_access_key_id",
        "account_key",
        "service_account",
        "sas_key",
        "skip_signature",
    )
    said = any(key in options for key in keys) or bool(os.environ.get("AWS_ACCESS_KEY_ID"))
    return place, {"storage_options": given, **({"credential_provider": None} if said else {})}


def listed(url: str, prefix: str = "") -> list[dict[str, Any]]:
    """The objects whose path begins with a folder (or is it): path, size, last_modified, e_tag; as the store sorts them."""
    store = open_bucket(url)
    try:
        found = [one for part in store.list(prefix=prefix or None) for one in part]
        if not found and prefix:
            with suppress(FileNotFoundError):
                found = [store.head(prefix)]
        return found
    except (BaseError, OSError) as error:
        raise Unavailable(
            f"{parted(url)[0]} does not answer: {_first_line(error)}",
            "is the bucket there, and the secret right?",
        ) from error


def parted(url: str) -> tuple[str, dict[str, str]]:
    """The place itself, which messages may show, and the options after ``?``, which may hold secrets.

    >>> parted("s3://b/p?region=eu-central-1")
    ('s3://b/p', {'region': 'eu-central-1'})
    """
    place, _, query = url.partition("?")
    try:
        return place, dict(parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query)))
    except ValueError as error:
        raise Invalid(f"{place}?… has options that can't be read: {error}", _EXAMPLES) from error


def _is_plain(place: str, options: dict[str, str]) -> bool:
    """Whether the endpoint is one without TLS: a test's, or one beside us."""
    names = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT") if place.startswith("s3") else ()
    said = [
        options.get("endpoint", ""),
        options.get("base_url", ""),
        *(os.environ.get(name, "") for name in names),
    ]
    return any(endpoint.startswith("http://") for endpoint in said)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
