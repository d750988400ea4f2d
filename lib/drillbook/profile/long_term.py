"""What a profile says of long-term backups: where they lie, how long they are kept, and what it costs to read one."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Literal

from pydantic import Field

from drillbook.model import Frozen, Instant
from drillbook.profile.texts import HttpUrl, ObjectName, Text, matches
from drillbook.profile.units import Duration

Money = Annotated[float, Field(ge=0)]


class RetrievalSecret(Frozen):
    """The Secret in Drillbook's own namespace with the key that may s3:RestoreObject, and the names of its keys."""

    name: ObjectName
    access_key_id: Text = "AWS_ACCESS_KEY_ID"
    secret_access_key: Text = "AWS_SECRET_ACCESS_KEY"  # noqa: S105 - the name of a key in a Secret
    session_token: str = ""
    region: str = ""


class RetrievalCost(Frozen):
    """What the provider charges, each without tax; the zeros of the default make every estimate 0.

    ``per_gb`` is for a GB (2**30 bytes) retrieved by the profile's tier, ``per_1000_requests`` for the requests to
    restore, ``per_gb_month`` for a GB of the restored duplicate, which lies in STANDARD for as long as it is kept.
    """

    currency: Text = "USD"
    per_gb: Money = 0.0
    per_1000_requests: Money = 0.0
    per_gb_month: Money = 0.0


class LongTerm(Frozen):
    """The long-term backups, for ``drill-annual-archive-restore``; they have the layout that barman-cloud leaves.

    ``destination`` and ``endpoint_url`` "" are the main archive's; ``server_name`` is their folder there. One must
    exist of each complete calendar month or year (``every``, UTC) within the last ``years``, or since ``since`` where
    that is later. ``tier`` is how they are asked for, ``days`` how long what was restored stays readable, ``wait`` how
    long a run waits for it before it stops and is to be resumed. ``secret: null`` is boto3's default chain;
    ``archive.reader_secret`` reads. ``objective`` is what was promised for retrieval and recovery together.
    ``images`` are the images for backups of other major versions than the source's, by the major version.
    """

    destination: Annotated[str, matches(r"(s3://[^/\s]+(/\S*)?)?", "an s3://bucket/path")] = ""
    endpoint_url: HttpUrl = ""
    server_name: Annotated[str, matches(r"[^/\s]+", "a folder's name (no '/', no blank)")]
    years: Annotated[int, Field(strict=True, ge=1, le=100)] = 7
    every: Literal["month", "year"] = "year"
    since: Instant | None = None
    tier: Literal["Expedited", "Standard", "Bulk"] = "Standard"
    days: Annotated[int, Field(strict=True, ge=1, le=365)] = 2
    wait: Duration = timedelta(minutes=30)
    objective: Duration = timedelta(hours=6)
    cost: RetrievalCost = RetrievalCost()
    secret: RetrievalSecret | None = None
    images: dict[Annotated[str, matches(r"[1-9][0-9]", "a major version")], Text] = Field(default_factory=dict)


__all__ = ["LongTerm", "RetrievalCost", "RetrievalSecret"]
