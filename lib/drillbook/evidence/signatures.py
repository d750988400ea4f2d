"""Signatures over a sealed run: DSSE envelopes, and next to each what was signed and the bare signature, for ``openssl``.

In the run's folder, outside of ``SHA256SUMS`` because they are about it: ``attestation.dsse.json`` (the envelope),
``attestation.pae`` (the bytes that were signed), ``attestation.sig``; the same three of ``test-result``.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import Error as SslibError
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import CryptoSigner, Signer

from drillbook.errors import Changed, EvidenceTampered, ParameterError, PreconditionError, RunbookError
from drillbook.evidence.canonical import canonical, sha256_file
from drillbook.evidence.ledger import Ledger
from drillbook.evidence.seal import ATTESTED, JOURNAL, RECORD, SUMS
from drillbook.evidence.statements import PAYLOAD_TYPE, statements
from drillbook.evidence.trust import Trust, TrustedKey, load_trust
from drillbook.evidence.writing import write_whole
from drillbook.model import parse_instant
from drillbook.profile.evidence import EvidenceSettings

SUBJECTS = (SUMS, RECORD, JOURNAL)
_TODO = (
    "Give the key as file:PATH or env:NAME (a PEM private key, PKCS 8), or as awskms:, gcpkms:, azurekms:, hv: or hsm:."
)


@dataclass(frozen=True)
class Signed:
    """A signature that counts: by which key, when it was made as the ledger has it, and at which of the ledger's lines."""

    key: TrustedKey
    at: datetime
    line: int

    def named_later(self, others: Iterable[Signed]) -> bool:
        """Whether another key has signed a later line of the same ledger: that one names all lines before it.

        So a key that has ended since made this signature in time, by more than its owner's word.
        """
        return any(other.line > self.line and other.key.keyid != self.key.keyid for other in others)


def signer_of(uri: str, trust: Trust, base: Path) -> Signer:
    """The private key at ``uri`` (a file's path from ``base``), which must belong to a key of ``trust``.

    ParameterError; PreconditionError if a KMS refuses.
    """
    scheme, _, place = uri.partition(":")
    if scheme in ("file", "env"):
        signer: Signer = _of_pem(_pem(scheme, place, base))
        if trust.key(signer.public_key.keyid) is None:
            fault = f"the key at {uri} is none of the trust file's: its id is {signer.public_key.keyid}"
            raise ParameterError(
                [fault], where="signing key", todo="`drillbook key new` makes a key and notes it there."
            )
        return signer
    known = next((key for key in trust.keys if key.uri == uri), None)
    if known is None:
        raise ParameterError([f"the trust file has no key with the uri {uri}"], where="signing key", todo=_TODO)
    try:
        return Signer.from_priv_key_uri(uri, known.key)
    except ValueError as error:
        raise ParameterError([f"{uri}: {error}"], where="signing key", todo=_TODO) from error
    except Exception as error:  # each KMS has errors of its own
        raise PreconditionError(f"the key at {uri} can't be had: {type(error).__name__}", todo=_TODO) from error


def sign(run_dir: Path, ledger: Ledger, signer: Signer, trust: Trust) -> list[Path]:
    """Write both envelopes of a sealed run, and answer the files; to sign again with the same key changes nothing.

    PreconditionError: the run is not sealed, or the key does not count now. EvidenceTampered: it is signed already, and
    the signature is not over what lies here. EvidenceUnwritable.
    """
    record = json.loads((run_dir / RECORD).read_bytes()) if (run_dir / RECORD).is_file() else {}
    sealed = ledger.sealing(run_dir.name)
    if sealed is None or not record:
        raise PreconditionError(
            f"run {run_dir.name} is not sealed", todo="`drillbook finish` or `cleanup` seals it; then sign it."
        )
    entry, line_sha256, number = sealed
    known = trust.key(signer.public_key.keyid)
    why = "it is not in the trust file" if known is None else known.why_not(parse_instant(entry["at"]))
    if why:
        raise PreconditionError(f"run {run_dir.name} can't be signed: {why}", todo="Sign with a key that counts.")
    if (run_dir / f"{next(iter(ATTESTED))}.dsse.json").exists():
        faults = [what for _, what in checked(run_dir, trust, (entry, line_sha256, number))[1]]
        if faults:
            raise EvidenceTampered(
                f"run {run_dir.name} is signed, and different now: {'; '.join(faults)}",
                todo="`drillbook verify` shows all of it; a signed run is never signed again.",
                changed=Changed.NOTHING,
            )
        return []
    subjects = {name: sha256_file(run_dir / name) for name in SUBJECTS}
    place = {"site": record["system"]["site"], "seal_sha256": line_sha256}
    written = []
    # The attestation's envelope is the last file of all: a signing that was killed before it is simply done again.
    for name, (_, payload) in reversed(statements(record, subjects, place).items()):
        envelope = Envelope(payload, PAYLOAD_TYPE, {})
        try:
            signature = envelope.sign(signer)
            signer.public_key.verify_signature(signature, envelope.pae())  # of a KMS it is the trust file's public half
        except Exception as error:  # each KMS has errors of its own
            raise PreconditionError(
                f"the key did not sign: {type(error).__name__}: {error}",
                todo="The run is sealed and keeps; `drillbook seal RUN` signs it once the key answers.",
            ) from error
        for suffix, data in (
            ("pae", envelope.pae()),
            ("sig", bytes.fromhex(signature.signature)),
            ("dsse.json", canonical(envelope.to_dict()) + b"\n"),
        ):
            path = run_dir / f"{name}.{suffix}"
            write_whole(path, data, 0o644)
            written.append(path)
    return written


def checked(
    run_dir: Path, trust: Trust, sealed: tuple[dict[str, Any], str, int]
) -> tuple[Signed | None, list[tuple[str, str]]]:
    """Both envelopes of a run against its files, the ledger's line and the trust file: who signed, and each fault by its file."""
    entry, line_sha256, number = sealed
    at, signed = parse_instant(entry["at"]), None
    faults: list[tuple[str, str]] = []
    subjects = {name: sha256_file(run_dir / name) for name in SUBJECTS if (run_dir / name).is_file()}
    record = _json(run_dir / RECORD)
    wanted = (
        statements(record, subjects, {"site": record["system"]["site"], "seal_sha256": line_sha256}) if record else {}
    )
    for name in ATTESTED:
        path = run_dir / f"{name}.dsse.json"
        try:
            envelope = Envelope.from_dict(_json(path))
        except (KeyError, TypeError, ValueError, AttributeError, SslibError):
            faults.append(
                (
                    path.name,
                    "is missing or no envelope: the run is not signed" if not path.exists() else "is no envelope",
                )
            )
            continue
        for suffix, data in (("pae", envelope.pae()), ("sig", _signature(envelope))):
            bare = run_dir / f"{name}.{suffix}"
            if not bare.is_file() or bare.read_bytes() != data:
                faults.append((bare.name, f"is not what {path.name} holds"))
        key = next((known for keyid in envelope.signatures if (known := trust.key(keyid))), None)
        if key is None:
            ids = ", ".join(keyid[:12] for keyid in envelope.signatures) or "none"
            faults.append((path.name, f"is signed by no key of the trust file (key ids: {ids})"))
            continue
        try:
            envelope.verify([key.key], 1)
        except VerificationError:
            faults.append((path.name, f"the signature is not that of key {key.keyid[:12]} over this statement"))
            continue
        if why := key.why_not(at):
            faults.append((path.name, f"{why}, and the run was sealed at {entry['at']}"))
        faults += ((path.name, what) for what in _differences(envelope, wanted.get(name, ("", b""))[1]))
        signed = Signed(key, at, number)
    return (None if faults else signed), faults


def bare(envelope: dict[str, Any]) -> dict[str, bytes]:
    """What stands next to an envelope for ``openssl``: the bytes that were signed, and the signature; ValueError if it is none."""
    try:
        found = Envelope.from_dict(envelope)
        return {"pae": found.pae(), "sig": _signature(found)}
    except (KeyError, TypeError, AttributeError, SslibError) as error:
        raise ValueError(f"no envelope: {error}") from error


def _differences(envelope: Envelope, wanted: bytes) -> Iterator[str]:
    """What the signed statement says otherwise than the files do."""
    if envelope.payload == wanted:
        return
    try:
        said, shown = json.loads(envelope.payload), json.loads(wanted or b"{}")
        digests = {item["name"]: item["digest"]["sha256"] for item in said["subject"]}
        files = {item["name"]: item["digest"]["sha256"] for item in shown.get("subject", ())}
        other = [name for name in SUBJECTS if digests.get(name) != files.get(name)]
        line = said["predicate"].get("ledger"), shown.get("predicate", {}).get("ledger")
    except (KeyError, TypeError, ValueError, AttributeError):
        yield "is signed, and is not a statement of this version"
        return
    yield from (f"{name} is not the file that was signed" for name in other)
    if line[0] != line[1]:
        yield "the ledger's line that sealed the run is not the one that was signed"
    if not other and line[0] == line[1]:
        yield "the statement is not what the record gives"


def _signature(envelope: Envelope) -> bytes:
    return next((bytes.fromhex(one.signature) for one in envelope.signatures.values()), b"")


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _pem(scheme: str, place: str, base: Path) -> bytes:
    if scheme == "env":
        if not (value := os.environ.get(place)):
            raise ParameterError([f"the environment has no {place}"], where="signing key", todo=_TODO)
        return value.encode()
    path = base / Path(place).expanduser()
    try:
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            fault = f"{path} can be read by others than its owner"
            raise ParameterError(
                [fault], where="signing key", todo=f"chmod 600 {path}, and make a new key if it was seen."
            )
        return path.read_bytes()
    except OSError as error:
        raise ParameterError([f"{path} can't be read: {error.strerror}"], where="signing key", todo=_TODO) from error


def _of_pem(pem: bytes) -> CryptoSigner:
    try:
        return CryptoSigner(load_pem_private_key(pem, None))
    except (ValueError, TypeError, UnsupportedAlgorithm, SslibError) as error:
        # What the library says of it may hold a part of the key.
        fault = "the signing key is no PEM private key of ed25519 or ECDSA P-256 without a passphrase"
        raise ParameterError([fault], where="signing key", todo=_TODO) from error


def new_key(scheme: str) -> tuple[bytes, str, str]:
    """A new key pair: the private key and the public one as PEM, and the key's id. ``scheme``: ed25519 or ecdsa-p256."""
    signer = CryptoSigner.generate_ed25519() if scheme == "ed25519" else CryptoSigner.generate_ecdsa()
    private = load_pem_private_key(signer.private_bytes, None)
    public = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    return signer.private_bytes, public, str(signer.public_key.keyid)


def sign_sealed(run_dir: Path, ledger: Ledger, settings: EvidenceSettings) -> str:
    """Sign a run that was just sealed with the profile's key; why it is not signed, "" if it is.

    Never raises for the key: the run is sealed, and `drillbook seal` signs it later.
    """
    try:
        trust = load_trust(Path(settings.trust), settings.trust_sha256)
        sign(run_dir, ledger, signer_of(settings.key, trust, Path(settings.trust).parent), trust)
    except RunbookError as error:
        return f"not signed yet: {error.what}; `drillbook seal {run_dir.name}` signs it"
    return ""


__all__ = ["SUBJECTS", "Signed", "bare", "checked", "new_key", "sign", "sign_sealed", "signer_of"]
