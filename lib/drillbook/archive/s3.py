"""S3 and what speaks its protocol; the only user of boto3, with the evidence store's bucket that is made of it.

Read only: ListObjectsV2 limited by prefix, GetObject and HeadObject; so a key that may list and get is enough (and
barman's HeadBucket is not asked for). Errors carry S3's own code and never a credential.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, ClassVar, NoReturn, Self
from urllib.parse import SplitResult, urlsplit

import boto3.session
import botocore.config
import botocore.exceptions
import botocore.loaders
import botocore.session
import urllib3.exceptions

from drillbook.archive.protocol import Level, ObjectInfo
from drillbook.errors import ObjectStoreError, ParameterError

_TODO = {
    "AccessDenied": "Give these credentials s3:ListBucket and s3:GetObject on the archive's prefix.",
    "InvalidAccessKeyId": "The access key is not known to the store: check the Secret and the endpoint.",
    "ExpiredToken": "The session token has expired: get a new one.",
    "NoSuchBucket": "Check destinationPath and endpointURL: the store has no such bucket.",
    "NoSuchKey": "The object was there when the archive was listed: see what removes it (retention, lifecycle rules).",
    "InvalidObjectState": "The object is in a cold storage class: restore it to a readable one first.",
    "SlowDown": "The store limits requests, and went on to after every attempt: try again when it has less to do.",
    "ServiceUnavailable": "The store refuses for now: try again, and see its own log if it stays so.",
    "RequestTimeTooSkewed": "This machine's clock and the store's differ by more than the store allows: set the clock.",
    "PreconditionFailed": "The object was written while it was read: read it again.",
}
_OF_REGION = frozenset(
    {"SignatureDoesNotMatch", "AuthorizationHeaderMalformed", "PermanentRedirect", "IncorrectEndpoint", "InvalidRegion"}
)
_NOT_ANSWERED = (
    "Check that the endpoint is reachable from here; if this machine sees it at another address, set "
    "{section}.endpoint_url in the profile."
)
_NOT_RESOLVED = (
    "The store's address doesn't resolve from here: set {section}.endpoint_url in the profile to its address as seen "
    "from this machine."
)
_NOT_TRUSTED = (
    "The store's certificate is not trusted here: put its CA into a Secret and name it in {section}.endpoint_ca of the "
    "profile."
)
_NO_KEY = "{secret} is null: give this machine or pod a role or a key, or name a Secret in the profile."
_KEY_OF_KMS = "The objects are encrypted with a KMS key: these credentials also need kms:Decrypt on it."
_DESCRIPTIONS = (
    botocore.loaders.create_loader()
)  # of AWS' services: each session would read its own, a fifth of a second
_TIMES = {"connect_timeout": 5, "read_timeout": 60}
_ATTEMPTS = 4
_PIECE = 1 << 20
_MOST_BREAKS = 50  # of one object's answers
_AFTER_ALL = "\U0010ffff"  # sorts after whatever else a key below a folder goes on with
_UNKNOWN_TIME = datetime(1970, 1, 1, tzinfo=UTC)
_BROKEN = (botocore.exceptions.BotoCoreError, urllib3.exceptions.HTTPError, OSError)
"""What an answer's body ends with when the connection does; a body that is too short is one of them."""


class S3Store:
    """A bucket, or a prefix in it. Safe to use from several threads; ``close`` or ``with`` ends its connections."""

    section: ClassVar[str] = "archive"
    key_from: ClassVar[str] = "archive.reader_secret"
    """Where the profile says how it is reached, and by which key, for those who have to correct it."""

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
        are honoured. ParameterError: what is given can't be right.
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
            described = botocore.session.get_session()
            described.register_component("data_loader", _DESCRIPTIONS)
            session = boto3.session.Session(
                botocore_session=described,
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
        # As barman joins it: slashes before it go, and one at its end is not doubled; several of them stay.
        prefix = place.path.lstrip("/")
        return cls(
            client,
            session,
            place.netloc,
            f"{prefix}/" if prefix and not prefix.endswith("/") else prefix,
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
        return f"s3://{self._bucket}/{self._prefix}".removesuffix("/")

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
        """An object's bytes; a range past the end is cut at the end. A body that breaks off is read on, see `_pieces`."""
        return b"" if length == 0 else b"".join(self._pieces(key, start, length, _PIECE))

    def stream(self, key: str, *, piece: int) -> Generator[bytes, None, None]:
        """An object's bytes as they come; closed early, the rest is not fetched. Otherwise as `get`."""
        yield from self._pieces(key, 0, None, piece)

    def _pieces(self, key: str, start: int, length: int | None, piece: int) -> Generator[bytes, None, None]:
        """A range of an object; where the connection breaks, the rest is asked for, of the same object by its ETag.

        ObjectStoreError with the reason "Interrupted": it broke `_ATTEMPTS` times without a byte more, or
        `_MOST_BREAKS` times.
        """
        at, end = start, None if length is None else start + length
        total, tag = -1, ""
        broken = stuck = 0
        while True:
            before = at
            wanted: dict[str, str] = {"IfMatch": tag} if tag and at > start else {}
            if at or end is not None:
                wanted["Range"] = f"bytes={at}-{'' if end is None else end - 1}"
            try:
                answer = self._client.get_object(Bucket=self._bucket, Key=self._prefix + key, **wanted)
            except (botocore.exceptions.ClientError, botocore.exceptions.BotoCoreError, OSError) as error:
                self._fail(error, "reading", key)
            tag = str(answer.get("ETag", ""))
            # A store that knows no ranges answers with the whole object.
            whole = bool(wanted.get("Range")) and answer["ResponseMetadata"].get("HTTPStatusCode") == 200
            skip = at if whole else 0
            if total < 0 and "ContentLength" in answer:
                size = int(answer["ContentLength"])
                total = (min(size, end) if end is not None else size) - start if whole else size
            why: Exception | None = None
            with closing(answer["Body"]) as body:
                try:
                    for part in body.iter_chunks(piece):
                        new = part[skip:] if end is None else part[skip : skip + end - at]
                        skip = max(0, skip - len(part))
                        at += len(new)
                        if new:
                            yield new
                        if end is not None and at >= end:
                            return
                except _BROKEN as error:
                    why = error
            if why is None and (total < 0 or at - start >= total):
                return
            broken, stuck = broken + 1, 0 if at > before else stuck + 1
            if stuck >= _ATTEMPTS or broken >= _MOST_BREAKS:
                name = type(why).__name__ if why else "the body was short"
                raise ObjectStoreError(
                    f"reading {self.location}/{key}: the answer broke off after {at - start:,} of {max(total, 0):,} bytes "
                    f"({name}), {broken} times",
                    reason="Interrupted",
                    todo="Look at what is between here and the store (proxy, load balancer and their time limits), and at "
                    "the store's own log; nothing was changed.",
                ) from None

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

    def safeguards(self) -> Mapping[str, str | None]:
        """Versioning, encryption, lock, replication and lifecycle of the bucket; each needs a right of its own."""
        asked: dict[str, tuple[Callable[..., dict[str, Any]], Callable[[dict[str, Any]], str]]] = {
            "versioning": (
                self._client.get_bucket_versioning,
                lambda found: str(found.get("Status", "")).replace("Suspended", ""),
            ),
            "encryption": (
                self._client.get_bucket_encryption,
                lambda found: ", ".join(
                    str(rule["ApplyServerSideEncryptionByDefault"]["SSEAlgorithm"])
                    for rule in found["ServerSideEncryptionConfiguration"]["Rules"]
                ),
            ),
            "object lock": (
                self._client.get_object_lock_configuration,
                lambda found: str(found.get("ObjectLockConfiguration", {}).get("ObjectLockEnabled", "")),
            ),
            "replication": (
                self._client.get_bucket_replication,
                lambda found: ", ".join(
                    rule["Destination"]["Bucket"]
                    for rule in found["ReplicationConfiguration"]["Rules"]
                    if rule["Status"] == "Enabled"
                ),
            ),
            "lifecycle": (
                self._client.get_bucket_lifecycle_configuration,
                lambda found: ", ".join(
                    str(rule.get("ID", "a rule")) for rule in found["Rules"] if rule["Status"] == "Enabled"
                ),
            ),
        }
        return {name: self._asked(call, words) for name, (call, words) in asked.items()}

    def _asked(self, call: Callable[..., dict[str, Any]], words: Callable[[dict[str, Any]], str]) -> str | None:
        try:
            return words(call(Bucket=self._bucket))
        except botocore.exceptions.ClientError as error:
            code, status = error.response.get("Error", {}).get("Code", ""), error.response.get("ResponseMetadata", {})
            # S3 says "not found" of a setting that was never made; what may not be asked, or is no API of this store, is not known.
            return "" if status.get("HTTPStatusCode") == 404 and code != "NoSuchBucket" else None
        except (botocore.exceptions.BotoCoreError, OSError, KeyError) as error:
            self._fail(error, "reading the bucket's settings of", "")

    def _pages(self, prefix: str, **more: str) -> Iterator[dict[str, Any]]:
        token: dict[str, str] = {}
        last = ""
        while True:
            try:
                page = self._client.list_objects_v2(Bucket=self._bucket, Prefix=self._prefix + prefix, **more, **token)
            except (botocore.exceptions.ClientError, botocore.exceptions.BotoCoreError, OSError) as error:
                self._fail(error, "listing", prefix)
            yield page
            if not page.get("IsTruncated"):
                return
            # Some stores say that there is more, and not how to ask for it.
            named = [str(entry["Key"]) for entry in page.get("Contents", ())]
            named += [str(entry["Prefix"]) + _AFTER_ALL for entry in page.get("CommonPrefixes", ())]
            following = str(page.get("NextContinuationToken") or max(named, default=""))
            if not following or following == last:
                raise ObjectStoreError(
                    f"listing {self.location}/{prefix}: the store says that there is more (IsTruncated), and gives neither a "
                    "continuation token nor a key to go on from",
                    reason="IncompleteListing",
                    todo="This store's listings can't be read to their end: update it, or tell its maintainers.",
                )
            last = following
            token = {"ContinuationToken" if page.get("NextContinuationToken") else "StartAfter": following}

    def _info(self, entry: dict[str, Any]) -> ObjectInfo:
        if "Size" not in entry:
            raise ObjectStoreError(
                f"listing {self.location}: the store names {self._relative(entry['Key'])} without its size",
                reason="IncompleteListing",
                todo="Nothing can be judged by such a listing: update the store, or tell its maintainers.",
            )
        return ObjectInfo(
            self._relative(entry["Key"]),
            int(entry["Size"]),
            _utc(entry["LastModified"]) if entry.get("LastModified") else _UNKNOWN_TIME,
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
                todo=_KEY_OF_KMS if code.startswith("KMS") or "kms:" in message.lower() else self._todo(code),
            ) from None
        if isinstance(error, botocore.exceptions.NoCredentialsError | botocore.exceptions.PartialCredentialsError):
            raise ObjectStoreError(
                f"{doing} {where}: boto3's default chain finds no credentials here",
                reason="NoCredentials",
                todo=_NO_KEY.format(secret=self.key_from),
            ) from None
        at = f" at {self._endpoint}" if self._endpoint else ""
        raise ObjectStoreError(
            f"{doing} {where}: no answer{at} ({type(error).__name__}, {_ATTEMPTS} attempts)",
            reason=type(error).__name__,
            todo=_reach(error).format(section=self.section),
        ) from None

    def _todo(self, code: str) -> str:
        if code in _OF_REGION:
            return (
                f"Requests are signed for region {self._client.meta.region_name}: if the store is in another, put its name "
                f"into the Secret under the key that {self.key_from}.region names; if it is this one, the secret key is not the "
                "access key's."
            )
        return _TODO.get(code, "See what the store's own log says about this request.")

    def _masked(self, text: str) -> str:
        found = self._session.get_credentials()
        if found is not None:
            keys = found.get_frozen_credentials()
            for secret in filter(None, (keys.secret_key, keys.token, keys.access_key)):
                text = text.replace(secret, "***")
        return text


class _CaFile:
    """Certificates in their own file, because botocore takes only a path; "" is no file."""

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
