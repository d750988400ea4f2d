"""S3 and what speaks its protocol; the only user of boto3.

Read only: ListObjectsV2 limited by prefix, GetObject and HeadObject; so a key that may list and get is enough (and
barman's HeadBucket is not asked for). Errors carry S3's own code and never a credential.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, NoReturn, Self
from urllib.parse import SplitResult, urlsplit

import boto3.session
import botocore.config
import botocore.exceptions
import urllib3.exceptions

from drillbook.errors import ObjectStoreError, ParameterError
from drillbook.objectstore.protocol import Level, ObjectInfo

_TODO = {
    "AccessDenied": "Give these credentials s3:ListBucket and s3:GetObject on the archive's prefix.",
    "InvalidAccessKeyId": "The access key is not known to the store: check the Secret and the endpoint.",
    "SignatureDoesNotMatch": "The secret key is not the access key's: check the Secret.",
    "ExpiredToken": "The session token has expired: get a new one.",
    "NoSuchBucket": "Check destinationPath and endpointURL: the store has no such bucket.",
    "NoSuchKey": "The object was there when the archive was listed: see what removes it (retention, lifecycle rules).",
    "InvalidObjectState": "The object lies in a cold storage class: restore it to a readable one first.",
}
_NOT_ANSWERED = (
    "Check that the endpoint is reachable from here; if this machine sees it at another address, set "
    "archive.endpoint_url in the profile."
)
_NOT_RESOLVED = (
    "The cluster's own address of the store doesn't resolve from here: set archive.endpoint_url in the profile to its "
    "address as seen from this machine."
)
_NOT_TRUSTED = (
    "The store's certificate is not trusted here: put its CA into a Secret of the drill namespace and name it in "
    "archive.endpoint_ca of the profile."
)
_NO_KEY = "archive.reader_secret is null: give this machine or pod a role or a key, or name a Secret in the profile."
_KEY_OF_KMS = "The objects are encrypted with a KMS key: these credentials also need kms:Decrypt on it."
_TIMES = {"connect_timeout": 5, "read_timeout": 60}
_ATTEMPTS = 4


class S3Store:
    """A bucket, or a prefix in it. Safe to use from several threads; ``close`` or ``with`` ends its connections."""

    def __init__(self, client: Any, session: Any, bucket: str, prefix: str, *, endpoint_url: str, ca: _CaFile) -> None:
        self._client = client
        self._session = session
        self._bucket = bucket
        self._prefix = prefix
        self._endpoint = endpoint_url
        self._ca = ca

    @classmethod
    def open(
        cls,
        destination_path: str,
        *,
        access_key_id: str = "",
        secret_access_key: str = "",
        default_chain: bool = False,
        endpoint_url: str = "",
        session_token: str = "",
        region: str = "",
        ca_pem: str = "",
    ) -> Self:
        """The store at ``s3://bucket/prefix``; asks nothing of it yet.

        ``default_chain`` takes the credentials that boto3 finds by itself (environment, files, a role) and no others;
        ``ca_pem`` are the certificates to trust in place of the system's. The usual proxy variables of the environment
        are heeded. ParameterError: what is given can't be right.
        """
        faults: list[str] = []
        place, endpoint = _address(destination_path, faults), _address(endpoint_url, faults)
        if place.scheme != "s3" or not place.netloc:
            faults.append(f"destinationPath {destination_path!r} is not s3://bucket/prefix")
        if default_chain and (access_key_id or secret_access_key or session_token):
            faults.append("a key is given, and the default chain of credentials is asked for")
        if not default_chain and not (access_key_id and secret_access_key):
            faults.append("access key or secret key is empty")
        if endpoint_url and (endpoint.scheme not in {"http", "https"} or not endpoint.hostname):
            faults.append("endpointURL is not http:// or https:// with a host")
        if endpoint.username or endpoint.password:
            faults.append("endpointURL holds a user or password: credentials belong in the Secret")
        if faults:
            raise ParameterError(faults, where="object store")
        config = botocore.config.Config(
            **_TIMES,
            signature_version="s3v4",
            retries={"mode": "standard", "total_max_attempts": _ATTEMPTS},
            max_pool_connections=16,
            ignore_configured_endpoint_urls=True,
            # What isn't AWS often knows no virtual hosts and none of the newer checksums.
            s3={"addressing_style": "path" if endpoint_url else "auto"},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        ca = _CaFile(ca_pem)
        try:
            session = boto3.session.Session(
                aws_access_key_id=access_key_id or None,
                aws_secret_access_key=secret_access_key or None,
                aws_session_token=session_token or None,
            )
            client = session.client(
                "s3",
                region_name=region or (default_chain and session.region_name) or "us-east-1",
                endpoint_url=endpoint_url or None,
                verify=ca.path or None,
                config=config,
            )
        except (botocore.exceptions.BotoCoreError, ValueError) as error:
            ca.remove()
            raise ParameterError([f"no client can be made: {type(error).__name__}"], where="object store") from None
        prefix = place.path.strip("/")
        return cls(
            client,
            session,
            place.netloc,
            f"{prefix}/" if prefix else "",
            endpoint_url=endpoint_url,
            ca=ca,
        )

    def __repr__(self) -> str:
        return f"S3Store({self.location!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the connections; safe to call twice."""
        self._client.close()
        self._ca.remove()

    @property
    def location(self) -> str:
        """``s3://bucket/prefix``."""
        return f"s3://{self._bucket}/{self._prefix}".rstrip("/")

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """All objects below ``prefix``, in key order; a page of at most 1,000 at a time."""
        for page in self._pages(prefix):
            for entry in page.get("Contents", ()):
                yield self._info(entry)

    def level(self, prefix: str) -> Level:
        """The folders and objects right below ``prefix``."""
        folders: dict[str, None] = {}
        objects = []
        for page in self._pages(prefix, Delimiter="/"):
            folders |= {self._relative(entry["Prefix"]): None for entry in page.get("CommonPrefixes", ())}
            objects += [self._info(entry) for entry in page.get("Contents", ())]
        return Level(tuple(folders), tuple(objects))

    def get(self, key: str, *, start: int = 0, length: int | None = None) -> bytes:
        """An object's bytes; a range past the end is cut at the end."""
        wanted: dict[str, str] = {}
        if length == 0:
            return b""
        if start or length is not None:
            wanted["Range"] = f"bytes={start}-{'' if length is None else start + length - 1}"
        try:
            answer = self._client.get_object(Bucket=self._bucket, Key=self._prefix + key, **wanted)
            with answer["Body"] as body:
                return bytes(body.read())
        except (botocore.exceptions.ClientError, botocore.exceptions.BotoCoreError, OSError) as error:
            self._fail(error, "reading", key)

    def stream(self, key: str, *, piece: int) -> Generator[bytes, None, None]:
        """An object's bytes as they come; closed early, the rest is not fetched."""
        try:
            answer = self._client.get_object(Bucket=self._bucket, Key=self._prefix + key)
            with closing(answer["Body"]) as body:
                yield from body.iter_chunks(piece)
        except (botocore.exceptions.ClientError, botocore.exceptions.BotoCoreError, OSError) as error:
            self._fail(error, "reading", key)

    def head(self, key: str) -> ObjectInfo | None:
        """The object's description, ``None`` on 404."""
        try:
            answer = self._client.head_object(Bucket=self._bucket, Key=self._prefix + key)
        except botocore.exceptions.ClientError as error:
            if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") == 404:
                return None
            self._fail(error, "looking at", key)
        except (botocore.exceptions.BotoCoreError, OSError) as error:
            self._fail(error, "looking at", key)
        return ObjectInfo(
            key,
            int(answer["ContentLength"]),
            _utc(answer["LastModified"]),
            str(answer.get("ETag", "")).strip('"'),
            str(answer.get("StorageClass", "STANDARD")),
        )

    def uploads(self, prefix: str) -> Sequence[str] | None:
        """Multipart uploads that were begun and not ended, at most 1,000; ``None`` without s3:ListBucketMultipartUploads."""
        try:
            answer = self._client.list_multipart_uploads(Bucket=self._bucket, Prefix=self._prefix + prefix)
        except botocore.exceptions.ClientError as error:
            if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") in {400, 403, 405, 501}:
                return None
            self._fail(error, "listing the uploads to", prefix)
        except (botocore.exceptions.BotoCoreError, OSError) as error:
            self._fail(error, "listing the uploads to", prefix)
        return [self._relative(item["Key"]) for item in answer.get("Uploads", ())]

    def _pages(self, prefix: str, **more: str) -> Iterator[dict[str, Any]]:
        token: dict[str, str] = {}
        while True:
            try:
                page = self._client.list_objects_v2(Bucket=self._bucket, Prefix=self._prefix + prefix, **more, **token)
            except (botocore.exceptions.ClientError, botocore.exceptions.BotoCoreError, OSError) as error:
                self._fail(error, "listing", prefix)
            yield page
            if not page.get("IsTruncated"):
                return
            token = {"ContinuationToken": page["NextContinuationToken"]}

    def _info(self, entry: dict[str, Any]) -> ObjectInfo:
        return ObjectInfo(
            self._relative(entry["Key"]),
            int(entry["Size"]),
            _utc(entry["LastModified"]),
            str(entry.get("ETag", "")).strip('"'),
            str(entry.get("StorageClass", "STANDARD")),
        )

    def _relative(self, key: str) -> str:
        return key.removeprefix(self._prefix)

    def _fail(self, error: Exception, doing: str, key: str) -> NoReturn:
        """Our error; not chained to botocore's, whose text and response we don't control."""
        where = f"{self.location}/{key}"
        if isinstance(error, botocore.exceptions.ClientError):
            said = error.response.get("Error", {})
            status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
            # HEAD answers have no body, so botocore gives the number instead of a code.
            code = {"403": "AccessDenied", "404": "NoSuchKey"}.get(str(said.get("Code")), str(said.get("Code", "")))
            message = self._masked(str(said.get("Message", "")))[:256]
            raise ObjectStoreError(
                f"{doing} {where}: {code} ({status}) {message}".rstrip(),
                status=status,
                reason=code,
                todo=_KEY_OF_KMS
                if code.startswith("KMS") or "kms:" in message.lower()
                else _TODO.get(code, "See what the store's own log says about this request."),
            ) from None
        if isinstance(error, botocore.exceptions.NoCredentialsError | botocore.exceptions.PartialCredentialsError):
            raise ObjectStoreError(
                f"{doing} {where}: boto3's default chain finds no credentials here",
                reason="NoCredentials",
                todo=_NO_KEY,
            ) from None
        at = f" at {self._endpoint}" if self._endpoint else ""
        raise ObjectStoreError(
            f"{doing} {where}: no answer{at} ({type(error).__name__}, {_ATTEMPTS} attempts)",
            reason=type(error).__name__,
            todo=_reach(error),
        ) from None

    def _masked(self, text: str) -> str:
        found = self._session.get_credentials()
        if found is not None:
            keys = found.get_frozen_credentials()
            for secret in filter(None, (keys.secret_key, keys.token, keys.access_key)):
                text = text.replace(secret, "***")
        return text


class _CaFile:
    """Certificates in a file of their own, because botocore takes only a path; "" is no file."""

    def __init__(self, pem: str) -> None:
        self.path = ""
        if pem:
            with NamedTemporaryFile("w", prefix="drillbook-ca-", suffix=".pem", delete=False, encoding="ascii") as file:
                file.write(pem)
            self.path = file.name

    def remove(self) -> None:
        if self.path:
            Path(self.path).unlink(missing_ok=True)


def _reach(error: Exception) -> str:
    """What to do about a store that did not answer."""
    if isinstance(error, botocore.exceptions.SSLError):
        return _NOT_TRUSTED
    cause = getattr(error, "kwargs", {}).get("error")
    return _NOT_RESOLVED if isinstance(cause, urllib3.exceptions.NameResolutionError) else _NOT_ANSWERED


def _address(text: str, faults: list[str]) -> SplitResult:
    try:
        return urlsplit(text)
    except ValueError as error:
        faults.append(f"{text!r} can't be read as an address: {error}")
        return urlsplit("")


def _utc(value: datetime) -> datetime:
    return value.astimezone(UTC)
