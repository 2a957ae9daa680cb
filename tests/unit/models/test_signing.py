"""Signatures: a tampered version, a wrong key, a stripped signature are refused before anything is loaded."""

from __future__ import annotations

import stat
import subprocess
import sys

import msgspec
import numpy as np
import polars as pl
import pytest
from sklearn.linear_model import LogisticRegression

from flyball.core.records import Field, ModelSignature, ModelVersion, Served, Signature
from flyball.errors import Invalid, NotFound, Refused
from flyball.heal import traffic
from flyball.models import keys as ring
from flyball.models import refs, registry, signing
from flyball.models.signing import Trust
from flyball.serve.metrics import Metrics
from flyball.serve.serving import NOTHING, load_plan
from flyball.stores.blobs import Blobs
from tests.unit.models.registering import add, new_ledger, serve


@pytest.fixture
def opened():
    ledger, clock = new_ledger()
    yield ledger, clock
    ledger.close()


@pytest.fixture
def keys(tmp_path):
    folder = tmp_path / "keys"
    public, path = signing.new_key(folder)
    return folder, public, path


def test_a_key_is_readable_by_its_owner_alone_and_one_that_is_not_is_refused(keys):
    folder, public, path = keys
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert signing.public_of(signing.private_key(folder)) == public
    path.chmod(0o644)
    with pytest.raises(Refused, match="chmod 600"):
        signing.private_key(folder)


def test_the_key_comes_from_the_environment_when_it_names_a_file(keys, tmp_path, monkeypatch):
    _, public, path = keys
    monkeypatch.setenv("FLYBALL_SIGNING_KEY", str(path))
    assert signing.public_of(signing.private_key(tmp_path / "no such folder")) == public
    monkeypatch.setenv("FLYBALL_SIGNING_KEY", str(tmp_path / "nothing.pem"))
    with pytest.raises(NotFound, match=r"nothing\.pem"):
        signing.private_key(tmp_path)


def test_which_key_is_meant_is_asked_when_there_are_several(keys):
    folder, public, path = keys
    signing.new_key(folder)
    with pytest.raises(Invalid, match="2 signing keys"):
        signing.private_key(folder)
    assert signing.public_of(signing.private_key(folder, path.stem)) == public
    with pytest.raises(NotFound, match="no signing key 'k0'"):
        signing.private_key(folder, "k0")


@pytest.mark.parametrize(
    "content", [b"no key", b"", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"]
)
def test_a_file_that_is_no_key_is_said_to_be_none(keys, content):
    folder, _, path = keys
    path.write_bytes(content)
    with pytest.raises(Invalid, match="not a private key"):
        signing.private_key(folder)


CHANGES = {
    "another artifact": {"artifact": "b3:" + "0" * 64},
    "another native model": {"native": "b3:" + "1" * 64},
    "another format": {"format": "pickle"},
    "another signature": {"signature": Signature((Field("b", "FP32"),), (Field("probability", "FP32"),))},
    "other training data": {"training": {"flights": "flights@9"}},
    "another run": {"run": "run_other"},
    "another feature service": {"feature_service": "late@2"},
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_version_that_was_changed_after_it_was_signed_is_refused(opened, keys, change):
    ledger, _ = opened
    folder, public, _ = keys
    version = add(ledger)
    ring.trust_key(ledger, public, owner="ann", actor="a")
    ring.sign(ledger, "delays@1", signing.private_key(folder), actor="a")
    assert ring.check(ledger, version) is not None
    changed = msgspec.structs.replace(version, **CHANGES[change])
    with pytest.raises(Refused, match=r"not what k.* has signed"):
        ring.check(ledger, changed)


def test_descriptions_tags_and_stages_may_change_after_signing(opened, keys):
    ledger, _ = opened
    folder, public, _ = keys
    version = add(ledger)
    ring.trust_key(ledger, public, owner="ann", actor="a")
    ring.sign(ledger, "delays@1", signing.private_key(folder), actor="a")
    said = msgspec.structs.replace(
        version, description="x", tags={"a": "1"}, stage="Production", deleted=True
    )
    assert ring.check(ledger, said) is not None


def test_a_forged_statement_or_signature_is_refused(opened, keys):
    ledger, _ = opened
    folder, public, _ = keys
    version = add(ledger)
    whom = Trust(frozenset({public}))
    made = signing.sign(version, signing.private_key(folder), by="a", at=version.created)
    assert signing.verify(version, [made], whom) == made
    for forged in (
        {"statement": made.statement.replace("delays@1", "delays@2")},
        {"statement": made.statement + " "},
        {"statement": "not JSON"},
        {"signature": made.signature[:-8] + "AAAAAAA="},
    ):
        with pytest.raises(Refused, match="was not made with the key"):
            signing.verify(version, [msgspec.structs.replace(made, **forged)], whom)


def test_a_key_that_is_not_trusted_does_not_count_where_a_signature_is_required(opened, keys, tmp_path):
    ledger, _ = opened
    folder, public, _ = keys
    version = add(ledger)
    ring.sign(ledger, "delays@1", signing.private_key(folder), actor="a")
    assert ring.check(ledger, version, Trust()) is None
    other, _ = signing.new_key(tmp_path / "other")
    with pytest.raises(Refused, match=r"signed by k.*, which is not trusted"):
        ring.check(ledger, version, Trust(frozenset({other}), required=True))
    assert ring.check(ledger, version, Trust(frozenset({public}), required=True)) is not None


def test_a_withdrawn_key_counts_no_longer(opened, keys):
    ledger, _ = opened
    folder, public, path = keys
    version = add(ledger)
    ring.trust_key(ledger, public, owner="ann", actor="a")
    ring.sign(ledger, "delays@1", signing.private_key(folder), actor="a")
    required = ring.trust_of(ledger, required=True)
    assert ring.check(ledger, version, required) is not None
    ring.withdraw_key(ledger, path.stem, actor="a")
    with pytest.raises(Refused, match="not trusted"):
        ring.check(ledger, version, ring.trust_of(ledger, required=True))
    with pytest.raises(NotFound):
        ring.withdraw_key(ledger, path.stem, actor="a")


def test_keys_named_by_the_project_stand_above_those_of_the_ledger(opened, keys):
    ledger, _ = opened
    _, public, _ = keys
    ring.trust_key(ledger, public, owner="ann", actor="a")
    assert ring.trust_of(ledger).keys == {public}
    assert ring.trust_of(ledger, ["another"]).keys == {"another"}


# --- in a worker ------------------------------------------------------------------------------------------------------


@pytest.fixture
def served(opened, keys):
    """A signed classifier, deployed; and a function that loads the plan as a worker does."""
    ledger, clock = opened
    folder, public, _ = keys
    blobs = Blobs.open(f"file:{folder.parent / 'blobs'}")
    frame = pl.DataFrame({"a": np.linspace(-1, 1, 50), "b": np.linspace(1, -1, 50) ** 2})
    model = LogisticRegression().fit(frame, frame["a"].to_numpy() > 0)
    registry.register(ledger, blobs, "delays", model, sample=frame, actor="a")
    ring.trust_key(ledger, public, owner="ann", actor="a")
    ring.sign(ledger, "delays@1", signing.private_key(folder), actor="a")
    serve(ledger, clock, "delays@1")

    def load(**changed):
        whom = ring.trust_of(ledger, required=True)
        plan = traffic.plan_of(ledger, blobs=blobs.url, online="", whom=whom)
        endpoint = plan.endpoints["delays"]
        model = msgspec.structs.replace(endpoint.models["delays@1"], **changed.pop("model", {}))
        endpoint = msgspec.structs.replace(endpoint, models={"delays@1": model})
        plan = msgspec.structs.replace(plan, endpoints={"delays": endpoint}, **changed)
        return load_plan(plan, NOTHING, Metrics())

    return ledger, blobs, load


def test_a_worker_loads_what_is_signed_and_refuses_a_stripped_signature(served):
    _, _, load = served
    assert list(load().endpoints) == ["delays"]
    loaded = load(model={"signed": None})
    assert not loaded.endpoints
    assert "not signed" in loaded.failures["delays@1"]
    assert list(load(model={"signed": None}, require_signature=False).endpoints) == ["delays"]


def test_a_worker_refuses_a_key_it_does_not_trust_also_where_none_is_required(served):
    _, _, load = served
    loaded = load(trusted_keys=(), require_signature=False)
    assert "not trusted" in loaded.failures["delays@1"]


def test_a_worker_refuses_other_bytes_under_a_good_signature(served):
    _, blobs, load = served
    other = blobs.put(b"another model")
    assert "not what was signed" in load(model={"artifact": other}).failures["delays@1"]
    assert "not what was signed" in load(model={"format": "pickle"}).failures["delays@1"]


def flip(folder, digest):
    """Change one bit of a stored blob."""
    file = folder / digest[3:5] / digest[5:]
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.chmod(0o644)
    file.write_bytes(data)


def test_bytes_that_were_changed_in_the_store_are_refused_by_workers_and_in_python(served, tmp_path):
    ledger, blobs, load = served
    version = refs.resolve(ledger, "delays@1")
    flip(tmp_path / "blobs", version.artifact)
    assert "have changed" in load().failures["delays@1"]
    flip(tmp_path / "blobs", version.native)
    with pytest.raises(Refused, match="have changed"):
        registry.load(ledger, blobs, "delays@1")


def test_what_a_folder_was_found_to_serve_as_is_signed_with_it(opened, keys):
    ledger, _ = opened
    folder, public, _ = keys
    version = add(ledger)
    as_served = Served(
        model=version.ref, artifact="b3:" + "2" * 64, format="onnx", signature=version.signature
    )
    changed = msgspec.structs.replace(version, format="mlmodel")
    with ledger.transaction() as tx:
        tx.append("model.prepared", version.ref, actor="a", sets=[("model", version.ref, changed)])
    whom = Trust(frozenset({public}), required=True)
    ring.sign(ledger, "delays@1", signing.private_key(folder), actor="a")
    with ledger.transaction() as tx:
        tx.append("model.prepared", version.ref, actor="a", sets=[("served", version.ref, as_served)])
    model = traffic.served_model(ledger, ledger.get("model", "delays@1", ModelVersion), whom)
    with pytest.raises(Refused, match="sign it again") as caught:
        signing.verify_served(model, keys=(public,), required=True)
    assert "not what was signed" in caught.value.what
    ring.sign(ledger, "delays@1", signing.private_key(folder), actor="a")
    model = traffic.served_model(ledger, ledger.get("model", "delays@1", ModelVersion), whom)
    signing.verify_served(model, keys=(public,), required=True)


def test_checking_what_is_not_signed_loads_no_cryptography():
    code = (
        "from flyball.core.plan import ServedModel\n"
        "from flyball.core.records import Signature\n"
        "from flyball.models.signing import verify_served\n"
        "verify_served(ServedModel(ref='a@1', artifact='x', format='onnx', signature=Signature((), ())), keys=(),"
        " required=False)\n"
        "import sys\n"
        "assert not {'cryptography', 'sqlalchemy', 'polars'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_cryptography_the_error_names_the_install_line(opened, keys, monkeypatch):
    ledger, _ = opened
    folder, public, _ = keys
    version = add(ledger)
    made = signing.sign(version, signing.private_key(folder), by="a", at=version.created)
    for name in ("cryptography.exceptions", "cryptography.hazmat.primitives.asymmetric"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(Exception, match=r"flyball\[sign\]"):
        signing.verify(version, [made], Trust(frozenset({public})))
    with pytest.raises(Exception, match=r"flyball\[sign\]"):
        signing.new_key(folder)


def test_a_signature_is_kept_as_a_record_that_reads_back(opened, keys):
    ledger, _ = opened
    folder, _, _ = keys
    add(ledger)
    made = ring.sign(ledger, "delays@1", signing.private_key(folder), actor="person:ann")
    assert ledger.ls("signature", ModelSignature) == [made]
    assert made.by == "person:ann"
