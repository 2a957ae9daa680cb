"""Where a Feast source's rows lie, as one of our URLs; and what a person must do where they lie out of reach."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flyball.service.feast import facts

_FORMATS = {"delta": "delta", "csv": "csv", "json": "json"}


def url_of(
    one: facts.Source, batch: facts.Source | None, settings: dict[str, Any], root: Path
) -> tuple[str, str, str]:
    """URL, query and what to say about it. A source that is out of reach has no URL: its rows can be pushed."""
    match one.kind:
        case "FileSource" | "SparkSource" | "RaySource" if one.said.get("path"):
            return _file(one, root), "", ""
        case "PushSource":
            if batch is None:
                return "push:", "", ""
            url, query, why = url_of(batch, None, settings, root)
            return url, query, why
        case "PostgreSQLSource":
            return *_postgres(one, settings), "Postgres' password is not kept: set PGPASSWORD"
        case "KafkaSource":
            servers = one.said.get("kafka_bootstrap_servers") or one.said.get("bootstrap_servers", "")
            why = (
                "message_format is JSON here" if "Json" not in one.said.get("message_format", "Json") else ""
            )
            history = (
                f"its rows so far lie in {one.batch}: push that file once, the stream brings the rest"
                if one.batch
                else ""
            )
            return (
                f"kafka://{servers.partition(',')[0]}/{one.said.get('topic', '')}",
                "",
                "; ".join(filter(None, [why, history])),
            )
        case "MsSqlServerSource" | "OracleSource" | "KinesisSource":
            return (
                "push:",
                "",
                f"is a {one.kind}, which is not read from here: push its rows, or export them to Parquet",
            )
    table = one.said.get("query") or ".".join(
        filter(None, (one.said.get(part, "") for part in ("database", "schema", "table")))
    )
    return "push:", "", (
        f"is a {one.kind} ({table}), which is not read from here: export it to Parquet and write its URL"
    )  # fmt: skip


def _file(one: facts.Source, root: Path) -> str:
    path = one.said["path"]
    said = one.said.get("file_format", "").lower()
    kind = next((ours for word, ours in _FORMATS.items() if word in said), "")
    kind = kind or next((ours for word, ours in _FORMATS.items() if path.endswith(f".{word}")), "parquet")
    if "://" in path and not path.startswith("file://"):
        return f"delta:{path}" if kind == "delta" else path
    place = Path(path.removeprefix("file://"))
    place = place if place.is_absolute() else root / place
    whole = place / "*.parquet" if kind == "parquet" and place.is_dir() else place
    return f"{kind}:{whole}"


def _postgres(one: facts.Source, settings: dict[str, Any]) -> tuple[str, str]:
    store = settings.get("offline_store")
    said: dict[str, Any] = store if isinstance(store, dict) else {}
    user = f"{said['user']}@" if said.get("user") else ""
    port = f":{said['port']}" if said.get("port") else ""
    url = f"postgresql://{user}{said.get('host', 'localhost')}{port}/{said.get('database', '')}"
    return url, one.said.get("query") or one.said.get("table") or one.name
