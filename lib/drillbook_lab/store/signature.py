"""AWS Signature Version 4, checked with botocore's own signer: signed again, the request must come out the same."""

from __future__ import annotations

import datetime
import hmac
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

_SKEW = datetime.timedelta(minutes=15)
_STAMP = "%Y%m%dT%H%M%SZ"


class Refused(Exception):
    """An S3 error: HTTP status, code and message."""

    def __init__(self, status: int, code: str, message: str) -> None:
        self.status = status
        self.code = code
        self.message = message
        super().__init__(f"{code}: {message}")


@dataclass(frozen=True)
class Claim:
    """What a request says about who signed it."""

    access_key: str
    region: str
    service: str
    signed_headers: tuple[str, ...]
    signature: str
    stamp: str
    presigned: bool

    @property
    def signed_at(self) -> datetime.datetime:
        """When, by the signer's clock."""
        return datetime.datetime.strptime(self.stamp, _STAMP).replace(tzinfo=datetime.UTC)


def read_claim(headers: Mapping[str, str], query: str) -> Claim:
    """From the Authorization header, or from a presigned URL."""
    authorization = headers.get("Authorization", "")
    if authorization.startswith("AWS4-HMAC-SHA256 "):
        fields = dict(
            part.strip().partition("=")[::2] for part in authorization.removeprefix("AWS4-HMAC-SHA256 ").split(",")
        )
        names = ("Credential", "SignedHeaders", "Signature")
        stamp = headers.get("X-Amz-Date", "")
    else:
        fields = dict(parse_qsl(query))
        names = ("X-Amz-Credential", "X-Amz-SignedHeaders", "X-Amz-Signature")
        stamp = fields.get("X-Amz-Date", "")
    try:
        credential, signed, signature = (fields[name] for name in names)
        access_key, _, region, service, _ = credential.rsplit("/", 4)
        datetime.datetime.strptime(stamp, _STAMP).replace(tzinfo=datetime.UTC)
    except (KeyError, ValueError):
        raise Refused(403, "AccessDenied", "Access Denied") from None
    return Claim(access_key, region, service, tuple(signed.split(";")), signature, stamp, not authorization)


def verify(
    method: str,
    raw_path: str,
    headers: Mapping[str, str],
    secret_of: Callable[[str], str | None],
    now: datetime.datetime,
) -> str:
    """The access key that signed the request; Refused, in S3's words, if none did."""
    path, _, query = raw_path.partition("?")
    claim = read_claim(headers, query)
    secret = secret_of(claim.access_key)
    if secret is None:
        raise Refused(403, "InvalidAccessKeyId", "The AWS Access Key Id you provided does not exist in our records.")
    if not claim.presigned and abs(now - claim.signed_at) > _SKEW:
        raise Refused(
            403, "RequestTimeTooSkewed", "The difference between the request time and the current time is too large."
        )
    if claim.presigned:
        lasts = datetime.timedelta(seconds=int(dict(parse_qsl(query)).get("X-Amz-Expires", "0")))
        if now > claim.signed_at + lasts:
            raise Refused(403, "AccessDenied", "Request has expired")
        query = "&".join(part for part in query.split("&") if not part.startswith("X-Amz-Signature="))
    request = AWSRequest(method=method, url=f"http://{headers['Host']}{path}?{query}")
    for name in claim.signed_headers:
        request.headers[name] = headers.get(name, "")
    # The body is taken at its declared digest: it is passed on as a stream, unread. UNSIGNED-PAYLOAD and the
    # STREAMING-* values are such declarations as well.
    del request.headers["X-Amz-Content-SHA256"]
    request.headers["X-Amz-Content-SHA256"] = headers.get("X-Amz-Content-SHA256", "UNSIGNED-PAYLOAD")
    request.context["timestamp"] = claim.stamp
    auth = _Signer(Credentials(claim.access_key, secret), claim.service, claim.region)
    canonical = auth.canonical(request, claim.signed_headers)
    expected = auth.signature(auth.string_to_sign(request, canonical), request)
    if not hmac.compare_digest(expected, claim.signature):
        raise Refused(
            403,
            "SignatureDoesNotMatch",
            "The request signature we calculated does not match the signature you provided. "
            "Check your key and signing method.",
        )
    return claim.access_key


class _Signer(S3SigV4Auth):  # type: ignore[misc]
    """botocore's signer, told which headers the other side has signed."""

    def canonical(self, request: AWSRequest, signed: tuple[str, ...]) -> str:
        self._signed = frozenset(signed)
        return str(self.canonical_request(request))

    def headers_to_sign(self, request: AWSRequest) -> object:
        chosen = super().headers_to_sign(request)
        for name in list(chosen):
            if name.lower() not in self._signed:
                del chosen[name]
        return chosen
