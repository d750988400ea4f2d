"""Whose signatures count: a file of public keys, each with its owner, purpose, validity and revocation.

A key is never trusted because a run's folder names it: only this file says so, and a profile pins the file by digest.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from pydantic import ValidationError, model_validator
from securesystemslib.signer import SSlibKey

from drillbook.errors import ParameterError
from drillbook.evidence.canonical import sha256
from drillbook.evidence.writing import write_whole
from drillbook.model import Frozen, Instant, show_instant

EVIDENCE = "evidence"
_HEADER = """\
# The public keys whose signatures count as this site's evidence. `drillbook key` writes it; the profile pins its digest
# (evidence.trust_sha256), so that a change here is seen. Keep it where the runner can't write.
"""


class TrustedKey(Frozen):
    """A public key (PEM) and when its signatures count; ``uri`` is where the private one is, for a KMS."""

    keyid: str
    public: str
    owner: str
    purpose: Literal["evidence"] = "evidence"
    valid_from: Instant
    valid_until: Instant | None = None
    revoked_at: Instant | None = None
    reason: str = ""
    uri: str = ""

    @model_validator(mode="after")
    def _is_a_key(self) -> Self:
        try:
            key = self.key
        except ValueError as error:
            raise ValueError(f"the public key of {self.keyid} can't be read: {error}") from error
        if key.keyid != self.keyid:
            raise ValueError(f"key {self.keyid} is not the digest of its public key, which is {key.keyid}")
        if self.valid_until and self.valid_until <= self.valid_from:
            raise ValueError(f"key {self.keyid} is valid until {self.valid_until}, before it is valid")
        return self

    @property
    def key(self) -> SSlibKey:
        """As securesystemslib knows it: ed25519, or ecdsa-sha2-nistp256; ValueError for others."""
        return public_key(self.public)

    def why_not(self, at: datetime) -> str:
        """Why a signature made at ``at`` does not count, "" if it does."""
        if at < self.valid_from:
            return f"key {self.keyid[:12]} of {self.owner} is valid from {show_instant(self.valid_from)} only"
        if self.revoked_at and at >= self.revoked_at:
            return (
                f"key {self.keyid[:12]} of {self.owner} was revoked at {show_instant(self.revoked_at)}: {self.reason}"
            )
        if self.valid_until and at >= self.valid_until:
            return f"key {self.keyid[:12]} of {self.owner} expired at {show_instant(self.valid_until)}"
        return ""

    def ended_at(self, now: datetime) -> datetime | None:
        """Since when it has not counted any more, revoked or expired; None while it counts."""
        return min((at for at in (self.revoked_at, self.valid_until) if at and at <= now), default=None)


class Trust(Frozen):
    """The keys that count."""

    keys: tuple[TrustedKey, ...] = ()

    @property
    def since(self) -> datetime | None:
        """From when on every sealed run must be signed: the first key's first moment."""
        return min((key.valid_from for key in self.keys), default=None)

    def key(self, keyid: str) -> TrustedKey | None:
        """The key of this id."""
        return next((key for key in self.keys if key.keyid == keyid), None)


def public_key(pem: str) -> SSlibKey:
    """A PEM public key; ValueError for what is none, or is neither ed25519 nor ECDSA over P-256."""
    try:
        found = SSlibKey.from_crypto(load_pem_public_key(pem.encode()))
    except UnsupportedAlgorithm as error:
        raise ValueError(str(error)) from error
    if found.scheme not in ("ed25519", "ecdsa-sha2-nistp256"):
        raise ValueError(f"{found.scheme} is neither ed25519 nor ecdsa-sha2-nistp256")
    return found


def load_trust(path: Path, pinned: str = "") -> Trust:
    """The trust file; ParameterError with every fault, among them that it is not the one that ``pinned`` names."""
    todo = "Compare it with the copy that is kept elsewhere; `drillbook key` writes it, and says what to pin."
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ParameterError([f"{path} can't be read: {error.strerror}"], where="trust file", todo=todo) from error
    if pinned and sha256(data) != pinned:
        faults = [f"{path} has the digest {sha256(data)}; the profile pins {pinned}"]
        raise ParameterError(faults, where="trust file", todo=todo)
    try:
        values = yaml.safe_load(data)
        return Trust.model_validate(values)
    except yaml.YAMLError as error:
        raise ParameterError([f"{path} is not YAML: {error}"], where="trust file", todo=todo) from error
    except ValidationError as error:
        faults = [f"{path} {'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()]
        raise ParameterError(faults, where="trust file", todo=todo) from error


def write_trust(path: Path, trust: Trust) -> str:
    """Put the file in its place as a whole, and give its digest; EvidenceUnwritable."""
    values: dict[str, Any] = trust.model_dump(mode="json", exclude_defaults=True)
    data = (_HEADER + yaml.safe_dump(values, sort_keys=False, allow_unicode=True)).encode()
    write_whole(path, data, 0o644)
    return sha256(data)


__all__ = ["EVIDENCE", "Trust", "TrustedKey", "load_trust", "public_key", "write_trust"]
