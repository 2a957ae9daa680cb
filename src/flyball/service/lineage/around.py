"""What is said about model versions after they are made: aliases, approvals, signatures; read once for all of them."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from flyball.service.lineage.nouns import table_of
from flyball.stores.lineage import LedgerReader

Record = tuple[str, str]  # noun, key


class Around:
    """Facts of versions beside their own records, and the records and events that say so."""

    def __init__(self, ledger: LedgerReader) -> None:
        self._ledger = ledger

    def facts(self, ref: str, record: dict[str, Any]) -> dict[str, str]:
        """Aliases that point here now, who approved, who signed."""
        family, number = _family(record), record.get("number")
        found = {"aliases": self._aliases.get((family, number), []), **self._vouched.get(ref, {})}
        return {name: ", ".join(said) for name, said in found.items() if said}

    def records(self, ref: str, record: dict[str, Any]) -> list[Record]:
        """All aliases of the model (one that points elsewhere by now may have been changed to), and what vouches."""
        aliases = self._alias_records.get(_family(record), [])
        return [*aliases, *self._vouching.get(ref, [])]

    def seqs(self, record: dict[str, Any]) -> list[int]:
        """The events that set the model's aliases by name."""
        return self._alias_events.get(_family(record), [])

    @cached_property
    def _alias_rows(self) -> list[tuple[str, dict[str, Any]]]:
        return [(stored.key, table_of(stored.content)) for stored in self._ledger.all_of(["alias"])]

    @cached_property
    def _aliases(self) -> dict[tuple[Any, Any], list[str]]:
        found: dict[tuple[Any, Any], list[str]] = {}
        for key, alias in self._alias_rows:
            where = (alias.get("model"), alias.get("number"))
            found.setdefault(where, []).append(key.rpartition("@")[2])
        return found

    @cached_property
    def _alias_records(self) -> dict[str, list[Record]]:
        found: dict[str, list[Record]] = {}
        for key, _ in self._alias_rows:
            found.setdefault(key.rpartition("@")[0], []).append(("alias", key))
        return found

    @cached_property
    def _alias_events(self) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        for seq, subject in self._ledger.of_kind("alias."):
            found.setdefault(subject.rpartition("@")[0], []).append(seq)
        return found

    @cached_property
    def _vouching(self) -> dict[str, list[Record]]:
        found: dict[str, list[Record]] = {}
        for noun, key, _ in self._words:
            found.setdefault(key.rpartition("/")[0], []).append((noun, key))
        return found

    @cached_property
    def _vouched(self) -> dict[str, dict[str, list[str]]]:
        found: dict[str, dict[str, list[str]]] = {}
        for noun, key, word in self._words:
            if word.get("withdrawn"):
                continue
            said, how = ("approved by", "role") if noun == "approval" else ("signed by", "key_id")
            by = f"{word.get('by')} ({word.get(how)})"
            found.setdefault(key.rpartition("/")[0], {}).setdefault(said, []).append(by)
        return found

    @cached_property
    def _words(self) -> list[tuple[str, str, dict[str, Any]]]:
        stored = self._ledger.all_of(["approval", "signature"])
        return [(one.noun, one.key, table_of(one.content)) for one in stored]


def _family(record: dict[str, Any]) -> str:
    return str(record.get("family") or record.get("name"))
