"""What a profile says of the archive: who reads it, where it is seen from here, and the names it has had."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Annotated, Self

from pydantic import Field, field_validator, model_validator

from drillbook.model import Frozen, Instant, show_instant
from drillbook.profile.fields import STORE_SETTINGS
from drillbook.profile.texts import HttpUrl, ObjectName, Text, matches
from drillbook.profile.units import Duration


class ArchiveReader(Frozen):
    """The Secret in the drill namespace with a read-only key to the archive, and the names of its keys."""

    name: ObjectName = "drillbook-archive-reader"
    access_key_id: Text = "AWS_ACCESS_KEY_ID"
    secret_access_key: Text = "AWS_SECRET_ACCESS_KEY"  # noqa: S105 - the name of a key in a Secret
    session_token: str = ""
    region: str = ""


class ArchiveWriter(Frozen):
    """The Secret in the source's namespace with the cluster's own key to the archive, and the names of its keys."""

    name: ObjectName
    access_key_id: Text = "AWS_ACCESS_KEY_ID"
    secret_access_key: Text = "AWS_SECRET_ACCESS_KEY"  # noqa: S105 - the name of a key in a Secret


class IdentityToken(Frozen):
    """A ServiceAccount's token as the copy's pods get it: a projected volume, found at ``/projected/<path>``."""

    audience: Text = "sts.amazonaws.com"
    path: Annotated[str, matches(r"[^/\s.][^/\s]*", "a file's name (no '/', no blank)")] = "token"
    expires: Duration = timedelta(hours=1)


class WorkloadIdentity(Frozen):
    """Who the copy's pods are to the object store, where no Secret holds a key (``reader_secret: null``).

    Either ``annotations`` of the ServiceAccount that CloudNativePG makes for the copy (its name is the copy's, new in
    each run), or ``service_account``, one that is in the drill namespace. ``token`` and ``environment`` are what a
    store of one's own with STS needs; ``environment`` holds no secret.
    """

    service_account: Annotated[str, matches(r"([a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)?", "a ServiceAccount's name")] = ""
    annotations: dict[str, str] = Field(default_factory=dict)
    token: IdentityToken | None = None
    environment: dict[str, str] = Field(default_factory=dict)

    @field_validator("environment")
    @classmethod
    def _no_secret(cls, value: dict[str, str]) -> dict[str, str]:
        allowed = re.compile(
            r"AWS_(ROLE_\w+|WEB_IDENTITY_TOKEN_FILE|CONTAINER_CREDENTIALS_\w+|CONTAINER_AUTHORIZATION_TOKEN_FILE)"
        )
        wrong = [name for name in value if name not in STORE_SETTINGS and not allowed.fullmatch(name)]
        if wrong:
            raise ValueError(f"{', '.join(wrong)}: not a setting of a workload's identity (a key belongs in a Secret)")
        return value

    @model_validator(mode="after")
    def _one_account(self) -> Self:
        if self.service_account and self.annotations:
            raise ValueError("give service_account or annotations, not both: an account that exists has its own")
        file = self.environment.get("AWS_WEB_IDENTITY_TOKEN_FILE", "")
        if file and self.token is None and not self.annotations and not self.service_account:
            raise ValueError(f"nothing puts a token at {file} (AWS_WEB_IDENTITY_TOKEN_FILE): give token")
        return self


class EndpointCa(Frozen):
    """The Secret in the drill namespace with the PEM certificates that sign the store's own, and the key in it."""

    name: ObjectName
    key: Text = "ca.crt"


class ServerPeriod(Frozen):
    """A name that the cluster has archived under, and when: ``since`` included, ``until`` not; ``None`` is open."""

    name: Annotated[str, matches(r"[^/\s]+", "a folder's name (no '/', no blank)")]
    since: Instant | None = None
    until: Instant | None = None
    # Where several timelines went on in this folder: the one that production was on.
    timeline: Annotated[int, Field(ge=0)] = 0

    def holds(self, instant: datetime) -> bool:
        """Whether the instant is in the period."""
        return (self.since is None or self.since <= instant) and (self.until is None or instant < self.until)


class Archive(Frozen):
    """The archive as a drill reads it; empty values are taken from the source's ObjectStore.

    ``reader_secret: null`` is boto3's default chain of credentials (environment, files, the pod's or machine's role);
    a copy then reads by ``inheritFromIAMRole``, as who ``identity`` says. ``environment`` is how the store is talked
    to (region, checksums, attempts), over what the source's own sidecar says. ``server_names`` are those that the
    history of this one cluster lies under, after a cut-over that gave it a new one; the newest is the current one.
    """

    reader_secret: ArchiveReader | None = ArchiveReader()
    endpoint_url: HttpUrl = ""
    endpoint_ca: EndpointCa | None = None
    environment: dict[str, str] = Field(default_factory=dict)
    identity: WorkloadIdentity | None = None
    server_name: str = ""
    server_names: tuple[ServerPeriod, ...] = ()
    # For the day on which the Cluster object no longer exists: its ObjectStore, and what to make one of.
    object_store: str = ""
    timeline: Annotated[int, Field(ge=0)] = 0  # the cluster's own, where the archive leaves a doubt about it
    destination: Annotated[str, matches(r"(s3://[^/\s]+(/\S*)?)?", "an s3://bucket/path")] = ""
    writer_secret: ArchiveWriter | None = None

    @field_validator("server_names")
    @classmethod
    def _one_after_the_other(cls, value: tuple[ServerPeriod, ...]) -> tuple[ServerPeriod, ...]:
        """Oldest first, each closed where the next begins; every fault is reported."""
        ordered = sorted(value, key=lambda period: (period.since is not None, period.since))
        faults = [f"{name} is given twice" for name in sorted({p.name for p in value if _count(value, p.name) > 1})]
        faults += [f"{p.name} ends before it begins, or as it begins" for p in value if _reversed(p)]
        faults += [f"{p.name} has no since: only the oldest may be without" for p in ordered[1:] if p.since is None]
        if ordered and ordered[-1].until is not None:
            faults.append(f"{ordered[-1].name} is the newest, so the current one, and has an until")
        closed = []
        for period, following in pairwise(ordered):
            until = period.until or following.since
            if until is not None and following.since is not None and until > following.since:
                faults.append(
                    f"{period.name} (until {show_instant(until)}) and {following.name} "
                    f"(since {show_instant(following.since)}) overlap"
                )
            closed.append(period.model_copy(update={"until": until}))
        if faults:
            raise ValueError("; ".join(faults))
        return (*closed, *ordered[-1:])

    @field_validator("environment")
    @classmethod
    def _settings_of_a_store(cls, value: dict[str, str]) -> dict[str, str]:
        wrong = sorted(set(value) - STORE_SETTINGS)
        if wrong:
            raise ValueError(f"{', '.join(wrong)}: not among {', '.join(sorted(STORE_SETTINGS))}")
        return value

    @model_validator(mode="after")
    def _one_way_of_reading(self) -> Self:
        if self.identity is not None and self.reader_secret is not None:
            raise ValueError("identity is for reader_secret: null; a copy reads by one of the two")
        return self

    @model_validator(mode="after")
    def _one_way_of_naming(self) -> Self:
        if self.server_name and self.server_names:
            raise ValueError("give server_name or server_names, not both")
        return self


def _count(periods: tuple[ServerPeriod, ...], name: str) -> int:
    return sum(period.name == name for period in periods)


def _reversed(period: ServerPeriod) -> bool:
    return period.since is not None and period.until is not None and period.until <= period.since
