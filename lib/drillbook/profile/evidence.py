"""What a profile says of evidence: who signs it, where it is locked away, and who stamps its time."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from drillbook.model import Frozen
from drillbook.profile.archive import EndpointCa
from drillbook.profile.texts import HttpUrl, ObjectName, Text, matches


class EvidenceSecret(Frozen):
    """The Secret in Drillbook's own namespace with the key to the evidence bucket, and the names of its keys."""

    name: ObjectName
    access_key_id: Text = "AWS_ACCESS_KEY_ID"
    secret_access_key: Text = "AWS_SECRET_ACCESS_KEY"  # noqa: S105 - the name of a key in a Secret
    session_token: str = ""
    region: str = ""


class EvidenceArchive(Frozen):
    """The bucket with Object Lock that each sealed run is copied to before its verdict is announced.

    ``secret: null`` is boto3's default chain of credentials; ``endpoint_ca`` is a Secret of Drillbook's namespace.
    ``mode`` and ``years`` say how each object is kept, counted from the seal; ``legal_hold`` keeps it until somebody
    releases the hold, besides. Mode and years have no default: they are a decision of those who answer for the evidence.
    """

    bucket: Annotated[str, matches(r"[a-z0-9][-.a-z0-9]{1,61}[a-z0-9]", "a bucket's name")]
    prefix: Annotated[str, matches(r"([^/\s]+(/[^/\s]+)*)?", "a path in the bucket (no '/' at its ends, no blank)")] = (
        ""
    )
    endpoint_url: HttpUrl = ""
    region: str = ""
    secret: EvidenceSecret | None = None
    endpoint_ca: EndpointCa | None = None
    mode: Literal["GOVERNANCE", "COMPLIANCE"]
    years: Annotated[int, Field(ge=1, le=100)]
    legal_hold: bool = False

    @property
    def location(self) -> str:
        """``s3://bucket/prefix``."""
        return f"s3://{self.bucket}/{self.prefix}".removesuffix("/")

    def until(self, since: datetime) -> datetime:
        """Until when that must be kept which was sealed at ``since``, to the second, as S3 keeps it."""
        day = 28 if (since.month, since.day) == (2, 29) else since.day
        return since.replace(year=since.year + self.years, day=day, microsecond=0)


class EvidenceTimestamp(Frozen):
    """The authority that stamps the ledger's head by RFC 3161: its address, and the file with its CA, as PEM.

    ``ca`` is relative to the profile's folder. What is sent is one digest.
    """

    url: Annotated[str, matches(r"https?://[^\s/@]+(/\S*)?", "an http:// or https:// address without a user")]
    ca: Text


class EvidenceSettings(Frozen):
    """How evidence is signed; without a key it is sealed by digests and ledger alone, and the record says so.

    ``key`` is where the private key is: ``file:PATH`` (from the trust file's folder), ``env:NAME``, or a KMS as
    ``awskms:``, ``gcpkms:``, ``azurekms:``, ``hv:`` (Vault) or ``hsm:``; "" where another machine signs. ``trust`` is the
    file of the keys that count, relative to the profile's folder, and ``trust_sha256`` pins it. ``archive`` is where
    sealed runs are locked away, ``timestamp`` who says when the ledger had come so far; neither is asked for without.
    """

    key: Annotated[
        str, matches(r"((file|env|awskms|gcpkms|azurekms|hv|hsm):.+)?", "file:PATH, env:NAME or a KMS's URI")
    ] = ""
    trust: str = ""
    trust_sha256: Annotated[str, matches(r"([0-9a-f]{64})?", "a SHA-256 in lower-case hexadecimal")] = ""
    archive: EvidenceArchive | None = None
    timestamp: EvidenceTimestamp | None = None

    @model_validator(mode="after")
    def _a_key_needs_trust(self) -> Self:
        if self.key and not self.trust:
            raise ValueError("key needs trust: the file of public keys by which signatures are verified")
        if self.trust and not self.trust_sha256:
            raise ValueError("trust needs trust_sha256, the digest that pins it (`drillbook key` says it)")
        return self
