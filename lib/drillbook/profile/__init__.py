"""The site's profile: one YAML file says all that differs between one site and the next.

An unknown key is an error, ``extends: other.yaml`` takes over another profile, and all faults are reported together
with file, line and key. No secret is in a profile, only the names of Secrets.
"""

from drillbook.profile.archive import Archive, ArchiveReader, EndpointCa, ServerPeriod
from drillbook.profile.loading import DEFAULT_SITE, SITE_VARIABLE, files_of, load_site
from drillbook.profile.long_term import LongTerm, RetrievalCost, RetrievalSecret
from drillbook.profile.schema import (
    CheckSettings,
    CopySettings,
    Digests,
    Expectation,
    Freshness,
    Identity,
    Kubernetes,
    Limits,
    Objectives,
    Question,
    SecretRef,
    Site,
    Sql,
    Tenant,
)
from drillbook.profile.units import parse_duration, show_duration, size_bytes

__all__ = [
    "DEFAULT_SITE",
    "SITE_VARIABLE",
    "Archive",
    "ArchiveReader",
    "CheckSettings",
    "CopySettings",
    "Digests",
    "EndpointCa",
    "Expectation",
    "Freshness",
    "Identity",
    "Kubernetes",
    "Limits",
    "LongTerm",
    "Objectives",
    "Question",
    "RetrievalCost",
    "RetrievalSecret",
    "SecretRef",
    "ServerPeriod",
    "Site",
    "Sql",
    "Tenant",
    "files_of",
    "load_site",
    "parse_duration",
    "show_duration",
    "size_bytes",
]
