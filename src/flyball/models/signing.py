"""Ed25519 signatures of model versions: what is signed, signing it, and checking it.

A signature covers the ref, the digests, the format, inputs and outputs, and what the version was made from: not its
aliases, tags or descriptions, which people change later. Serving workers check signatures with this module, so it
imports neither a database nor (until something is signed) ``cryptography``.
"""

from __future__ import annotations

import base64
import binascii
import os
import stat
from pathlib import Path
from typing import Any

import msgspec

from flyball.core.hashing import canonical, digest_bytes
from flyball.core.plan import ServedModel, Signed
from flyball.core.records import ModelSignature, ModelVersion, Served, Signature
from flyball.errors import Invalid, NotFound, Refused, Unavailable

INSTALL = "pip install 'flyball[sign]'"
FROM_ENVIRONMENT = "FLYBALL_SIGNING_KEY"


class Statement(msgspec.Struct, frozen=True, kw_only=True):
    """What a signature vouches for."""

    model: str
    artifact: str
    native: str | None
    format: str
    signature: Signature
    run: str | None
    training: dict[str, str]
    feature_service: str | None
    serves: Served | None = None  # what a folder of MLflow's was found to serve as, when that was known


class Trust(msgspec.Struct, frozen=True):
    """Whose signatures count (public keys, base64), and whether a version without one may be loaded."""

    keys: frozenset[str] = frozenset()
    required: bool = False


def statement_of(version: ModelVersion, serves: Served | None = None) -> Statement:
    """What there is to vouch for in a version, as it is now."""
    return Statement(
        model=version.ref,
        artifact=version.artifact,
        native=version.native,
        format=version.format,
        signature=version.signature,
        run=version.run,
        training=version.training,
        feature_service=version.feature_service,
        serves=serves,
    )


def key_id_of(public: str) -> str:
    """A short name for a public key, by its bytes."""
    return "k" + digest_bytes(_bytes(public, "a public key"))[3:15]


def new_key(folder: Path) -> tuple[str, Path]:
    """Make a key pair; the private half lies in ``folder`` with mode 600. Returns the public half and its path."""
    private = _ed25519().Ed25519PrivateKey.generate()
    public = public_of(private)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = folder / f"{key_id_of(public)}.pem"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(_pem(private))
    return public, path


def private_key(folder: Path, wanted: str = "") -> Any:
    """The key to sign with: the file named by FLYBALL_SIGNING_KEY, else the named (or only) one of ``folder``."""
    given = os.environ.get(FROM_ENVIRONMENT)
    if given and not wanted:
        return _read(Path(given))
    files = sorted(folder.glob("*.pem"))
    chosen = [file for file in files if wanted in ("", file.stem)]
    if not chosen:
        known = ", ".join(file.stem for file in files)
        raise NotFound(
            f"no signing key {wanted!r}" if wanted else "no signing key",
            f"keys here: {known}" if known else "flyball models keys new makes one",
        )
    if len(chosen) > 1:
        raise Invalid(
            f"{len(chosen)} signing keys lie in {folder}",
            f"say which: --key {chosen[0].stem}",
            keys=len(chosen),
        )
    return _read(chosen[0])


def sign(
    version: ModelVersion, private: Any, *, by: str, at: Any, serves: Served | None = None
) -> ModelSignature:
    """Vouch for a version, and for what it serves as."""
    public = public_of(private)
    statement = canonical(statement_of(version, serves))
    return ModelSignature(
        model=version.ref,
        key_id=key_id_of(public),
        public=public,
        statement=statement.decode(),
        signature=base64.b64encode(private.sign(statement)).decode(),
        by=by,
        at=at,
    )


def check(given: Signed | ModelSignature, *, what: str) -> Statement:
    """What a signature vouches for; :class:`Refused` unless it was made with its key.

    The statement is kept as it was signed, so a record that gains fields later does not break old signatures.
    """
    try:
        from cryptography.exceptions import InvalidSignature
    except ImportError as error:
        raise Unavailable(f"{what} is signed; checking it needs cryptography", INSTALL) from error
    key = _ed25519().Ed25519PublicKey
    try:
        key.from_public_bytes(_bytes(given.public, "a public key")).verify(
            _bytes(given.signature, "a signature"), given.statement.encode()
        )
        return msgspec.json.decode(given.statement, type=Statement)
    except (InvalidSignature, ValueError) as error:
        raise Refused(
            f"the signature of {what} was not made with the key {key_id_of(given.public)}",
            "it was changed after it was made: do not load this version",
            model=what,
        ) from error


def verify(version: ModelVersion, signatures: list[ModelSignature], trust: Trust) -> ModelSignature | None:
    """The trusted signature that vouches for a version, checked; ``None`` when it has none and needs none.

    A signature by a trusted key that does not fit is :class:`Refused`, whatever others say.
    """
    trusted = [one for one in signatures if one.public in trust.keys]
    for one in trusted:
        said = check(one, what=version.ref)
        if msgspec.structs.replace(said, serves=None) != statement_of(version):
            raise Refused(
                f"{version.ref} is not what {one.key_id} has signed",
                "it was changed after it was signed: do not load it",
                model=version.ref,
            )
    if trusted:
        return trusted[0]
    if trust.required:
        by = ", ".join(one.key_id for one in signatures)
        raise Refused(
            f"{version.ref} is signed by {by}, which is not trusted"
            if by
            else f"{version.ref} is not signed",
            f"flyball models sign {version.ref}, with a key that flyball models keys ls shows as trusted",
            model=version.ref,
        )
    return None


def verify_served(served: ServedModel, *, keys: tuple[str, ...], required: bool) -> None:
    """A worker's own check of what it is told to load; :class:`Refused` says what is wrong with it."""
    given = served.signed
    if given is None:
        if required:
            raise Refused(
                f"{served.ref} is not signed, and this plan asks for signatures",
                f"flyball models sign {served.ref}",
                model=served.ref,
            )
        return
    if given.public not in keys:
        raise Refused(
            f"{served.ref} is signed by {key_id_of(given.public)}, which is not trusted",
            "flyball models keys ls shows whose signatures count",
            model=served.ref,
        )
    said = check(given, what=served.ref)
    found = (served.artifact, served.format, served.signature)
    vouched = [(said.artifact, said.format, said.signature)]
    if said.serves is not None:
        vouched.append((said.serves.artifact, said.serves.format, said.serves.signature))
    if said.model != served.ref or found not in vouched:
        raise Refused(
            f"{served.ref} is not what was signed: it serves {served.format} {served.artifact[:15]}",
            f"if it was signed before it was first deployed, sign it again: flyball models sign {served.ref}",
            model=served.ref,
        )


def _read(path: Path) -> Any:
    """A private key, which no one else may be able to read."""
    try:
        mode = path.stat().st_mode
        data = path.read_bytes()
    except OSError as error:
        raise NotFound(f"the signing key {path} can't be read: {error.strerror}", "check the path") from error
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise Refused(f"others may read the signing key {path}", f"chmod 600 {path}")
    _ed25519()
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(data, password=None)
    except (ValueError, TypeError) as error:
        raise Invalid(f"{path} is not a private key without a password", "flyball models keys new") from error
    if not isinstance(key, _ed25519().Ed25519PrivateKey):
        raise Invalid(f"{path} is not an Ed25519 key", "flyball models keys new")
    return key


def public_of(private: Any) -> str:
    """The public half of a private key, base64."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    raw = private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    return base64.b64encode(raw).decode()


def _pem(private: Any) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    return bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def _bytes(text: str, what: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Invalid(
            f"{text[:60]!r} is not {what}", "base64, as flyball models keys ls prints it"
        ) from error


def _ed25519() -> Any:
    try:
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError as error:
        raise Unavailable("signatures need cryptography", INSTALL) from error
    return ed25519
