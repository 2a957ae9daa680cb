"""Real workers and signatures: what is signed serves, what was stripped, forged or changed does not, and says why."""

from __future__ import annotations

import base64
from pathlib import Path

import msgspec
import pytest

from conftest import FEATURES, SIGNATURE, Plane
from flyball.core.plan import ServedModel, Signed
from flyball.core.records import ModelVersion
from flyball.models import signing

pytestmark = pytest.mark.integration


@pytest.fixture
def key(tmp_path: Path) -> tuple[str, Path]:
    return signing.new_key(tmp_path / "keys")


def signed(served: ServedModel, folder: Path) -> ServedModel:
    """The same, with a signature of the version that it is."""
    from datetime import UTC, datetime

    name, _, number = served.ref.rpartition("@")
    version = ModelVersion(
        name=name, number=int(number), artifact=served.artifact, format=served.format, signature=SIGNATURE,
        created=datetime.now(UTC),
    )  # fmt: skip
    made = signing.sign(version, signing.private_key(folder), by="ann", at=version.created)
    return msgspec.structs.replace(
        served, signed=Signed(statement=made.statement, signature=made.signature, public=made.public)
    )


def test_workers_serve_what_is_signed_and_refuse_the_rest_with_the_reason(
    plane: Plane, key: tuple[str, Path]
) -> None:
    public, path = key
    settings = {"trusted_keys": (public,), "require_signature": True}
    good = signed(plane.onnx("delays@1", [0.5, -0.1]), path.parent)
    plane.publish(good, **settings)
    client = plane.start()
    assert client.predict("delays", features=FEATURES)["model"] == "delays@1"
    other = plane.onnx("delays@2", [9.0, 9.0])
    assert good.signed is not None
    forged = bytearray(base64.b64decode(good.signed.signature))
    forged[3] ^= 1
    for bad, reason in {
        "stripped": (msgspec.structs.replace(good, signed=None), "not signed"),
        "other bytes": (msgspec.structs.replace(good, artifact=other.artifact), "not what was signed"),
        "another version": (msgspec.structs.replace(other, signed=good.signed), "not what was signed"),
        "forged": (
            msgspec.structs.replace(
                good,
                signed=msgspec.structs.replace(good.signed, signature=base64.b64encode(forged).decode()),
            ),
            "was not made with the key",
        ),
    }.values():
        generation = plane.publish(bad, **settings)
        for ack in plane.loaded(generation):
            assert reason in ack.error
            assert ack.generation < generation  # the last good plan goes on answering
        answer = client.predict("delays", features=FEATURES)
        assert answer["model"] == "delays@1"
    generation = plane.publish(good, trusted_keys=("b3RoZXI=",))
    assert all("not trusted" in ack.error for ack in plane.loaded(generation))
    generation = plane.publish(good, **settings)
    assert all(not ack.error for ack in plane.loaded(generation))
