"""Everything a run was made from besides its data, captured at once and without being asked.

The records are kept once per digest. What costs the most (git, the folders of packages) is looked at again only when a
file that it depends on has changed since, and after a second in any case.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import msgspec

from flyball.core.config import Resolved
from flyball.stores.blobs import Blobs
from flyball.stores.metadata import Ledger
from flyball.versions import code, configuration, environment, hardware, seeds


class Captured(msgspec.Struct, frozen=True, kw_only=True):
    """The digests that a run names, and its seeds. An empty digest: there was nothing to ask."""

    code: str
    environment: str
    configuration: str
    hardware: str
    seeds: dict[str, Any]


def capture(
    root: Path,
    blobs: Blobs,
    ledger: Ledger,
    *,
    settings: Resolved | None = None,
    params: Mapping[str, Any] | None = None,
) -> Captured:
    """Capture code, environment, configuration, hardware and seeds for a run that begins now."""
    records: dict[str, Any] = {
        "code": code.look(root, blobs),
        "environment": environment.capture(),
        "hardware": hardware.capture(),
    }
    if settings is not None:
        records["configuration"] = configuration.capture(settings)
    _keep(ledger, records)
    digests = {noun: record.digest for noun, record in records.items()}
    return Captured(**{"configuration": "", **digests}, seeds=seeds.capture(params))


_kept: WeakKeyDictionary[Ledger, set[str]] = WeakKeyDictionary()  # what a ledger is known to hold


def _keep(ledger: Ledger, records: dict[str, Any]) -> None:
    """Write the records that the ledger has not, in one transaction."""
    known = _kept.setdefault(ledger, set())
    unseen = {noun: one for noun, one in records.items() if f"{noun} {one.digest}" not in known}
    absent = {noun: one for noun, one in unseen.items() if ledger.find(noun, one.digest, type(one)) is None}
    if absent:
        with ledger.transaction() as tx:
            for noun, one in absent.items():
                tx.append(f"{noun}.captured", one.digest, actor="flyball", sets=[(noun, one.digest, one)])
    known |= {f"{noun} {one.digest}" for noun, one in unseen.items()}
