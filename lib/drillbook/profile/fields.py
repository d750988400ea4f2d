"""What becomes of every field of a source's Cluster and ObjectStore: one table, and the walk that applies it.

Each row has a fate for a drill's copy and one for a replacement; None leaves it to the rows above or below it. A field
that is in no row (a newer operator's) is left out by its name: nothing is dropped silently.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

UNKNOWN = "not a field that this version of Drillbook knows"


@dataclass(frozen=True)
class KeptField:
    """Carried as it is."""

    why: str


@dataclass(frozen=True)
class TranslatedField:
    """Carried in another form, or in part: the builder says what of it is lost."""

    how: str


@dataclass(frozen=True)
class LeftOutField:
    """Not carried."""

    why: str


Fate = KeptField | TranslatedField | LeftOutField
Rows = Mapping[str, Fate]

_AS_SOURCE = KeptField("as in the source")
_OWN_SCHEDULING = LeftOutField("scheduling is the drill namespace's own")
_NO_UPDATE = LeftOutField("no update in a copy's short life")
_NOBODY_FOLLOWS = LeftOutField("a copy has no standby that must confirm a commit")
_NO_SERVICE = LeftOutField("only the drill reaches a copy")
_SHUTDOWN = LeftOutField("a copy is removed, not handed over")
_SECRETS = LeftOutField("may hold the source's settings or secrets")
_OTHER_VOLUME = LeftOutField("names a volume, or what to fill it from: a recovery fills its own")


def _volume(path: str) -> dict[str, tuple[Fate | None, Fate | None]]:
    template = f"{path}.pvcTemplate"
    kept = {
        name: (KeptField("volumes as in the source"), KeptField("volumes as in the source"))
        for name in (
            f"{path}.size",
            f"{path}.storageClass",
            f"{path}.resizeInUseVolumes",
            f"{template}.accessModes",
            f"{template}.resources",
            f"{template}.storageClassName",
            f"{template}.volumeAttributesClassName",
            f"{template}.volumeMode",
        )
    }
    dropped = {
        f"{template}.{name}": (_OTHER_VOLUME, _OTHER_VOLUME)
        for name in ("dataSource", "dataSourceRef", "selector", "volumeName")
    }
    return {**kept, **dropped}


# Field of Cluster.spec: its fate in a drill's copy, and in a replacement.
CLUSTER: Mapping[str, tuple[Fate | None, Fate | None]] = {
    "affinity": (_OWN_SCHEDULING, _AS_SOURCE),
    "backup": (
        LeftOutField("a copy is never backed up"),
        LeftOutField("replaced: it archives under its own serverName"),
    ),
    "bootstrap": (LeftOutField("replaced by bootstrap.recovery"), LeftOutField("replaced by bootstrap.recovery")),
    "certificates": (
        LeftOutField("CloudNativePG issues the copy's own"),
        TranslatedField("under another name only serverAltDNSNames"),
    ),
    "description": (LeftOutField("the copy has its own"), LeftOutField("the replacement has its own")),
    "enablePDB": (LeftOutField("a copy may be evicted: a drill is done again"), _AS_SOURCE),
    "enableSuperuserAccess": (
        LeftOutField("switched on, for the copy only"),
        LeftOutField("switched on for the checks; put back as in the source when the run ends"),
    ),
    "env": (TranslatedField("settings of the way to the object store only, no secrets"), _AS_SOURCE),
    "envFrom": (_SECRETS, _AS_SOURCE),
    "ephemeralVolumeSource": (KeptField("room for temporary files"), _AS_SOURCE),
    "ephemeralVolumesSizeLimit": (KeptField("shared memory and temporary files"), _AS_SOURCE),
    "externalClusters": (
        LeftOutField("replaced by the recovery source"),
        LeftOutField("replaced by the recovery source"),
    ),
    "failoverDelay": (_SHUTDOWN, _AS_SOURCE),
    "imageCatalogRef": (
        TranslatedField("the image that runs, or the reference where that has no version tag"),
        _AS_SOURCE,
    ),
    "imageName": (KeptField("the same server and extensions"), _AS_SOURCE),
    "imagePullPolicy": (KeptField("the same server and extensions"), _AS_SOURCE),
    "imagePullSecrets": (
        KeptField("the image may need them: readiness asks for each in the drill namespace"),
        _AS_SOURCE,
    ),
    "inheritedMetadata": (
        LeftOutField("the source's labels could select the copy into its Services and policies"),
        _AS_SOURCE,
    ),
    "instances": (LeftOutField("a copy has as many as its procedure needs"), _AS_SOURCE),
    "livenessProbeTimeout": (KeptField("a recovery may take as long as the source's start"), _AS_SOURCE),
    "logLevel": (LeftOutField("the recovery is followed by its log, at the operator's default level"), _AS_SOURCE),
    "managed": (
        LeftOutField("roles come from the backup; no service of the source's name"),
        TranslatedField("under another name without services"),
    ),
    "maxSyncReplicas": (_NOBODY_FOLLOWS, _AS_SOURCE),
    "minSyncReplicas": (_NOBODY_FOLLOWS, _AS_SOURCE),
    "monitoring": (LeftOutField("no PodMonitor: a copy raises no production alert"), _AS_SOURCE),
    "nodeMaintenanceWindow": (
        LeftOutField("said of the source's nodes"),
        LeftOutField("said of the old cluster's nodes"),
    ),
    "plugins": (
        LeftOutField("a copy never archives: not even an entry with enabled: false"),
        LeftOutField("replaced: it archives under its own serverName"),
    ),
    "podSecurityContext": (KeptField("file ownership, and what the namespace's admission asks for"), _AS_SOURCE),
    "podSelectorRefs": (LeftOutField("used by pg_hba, which the copy has its own of"), _AS_SOURCE),
    "postgresGID": (KeptField("file ownership"), _AS_SOURCE),
    "postgresUID": (KeptField("file ownership"), _AS_SOURCE),
    "postgresql": (None, _AS_SOURCE),
    "postgresql.enableAlterSystem": (LeftOutField("a copy's settings are not changed"), None),
    "postgresql.extensions": (
        TranslatedField("libraries and extensions by image volume, each with the image that runs"),
        None,
    ),
    "postgresql.ldap": (_NO_SERVICE, None),
    "postgresql.parameters": (TranslatedField("the server's settings, without those that act outside"), None),
    "postgresql.pg_hba": (_NO_SERVICE, None),
    "postgresql.pg_ident": (_NO_SERVICE, None),
    "postgresql.promotionTimeout": (KeptField("a large database is promoted as slowly"), None),
    "postgresql.shared_preload_libraries": (
        TranslatedField("without launchers of jobs; see drillbook.profile.preloads"),
        None,
    ),
    "postgresql.syncReplicaElectionConstraint": (_NOBODY_FOLLOWS, None),
    "postgresql.synchronous": (_NOBODY_FOLLOWS, None),
    "primaryLease": (LeftOutField("a copy has no failover"), _AS_SOURCE),
    "primaryUpdateMethod": (_NO_UPDATE, _AS_SOURCE),
    "primaryUpdateStrategy": (_NO_UPDATE, _AS_SOURCE),
    "priorityClassName": (LeftOutField("a drill does not push production pods out"), _AS_SOURCE),
    "probes": (KeptField("a recovery may take as long as the source's start"), _AS_SOURCE),
    "projectedVolumeTemplate": (
        LeftOutField("may hold the source's secrets; archive.identity gives the copy its own"),
        _AS_SOURCE,
    ),
    "replica": (
        LeftOutField("a copy follows nobody"),
        LeftOutField("a recovered cluster follows nobody: its history has parted from the source's"),
    ),
    "replicationSlots": (LeftOutField("a copy serves no replica"), _AS_SOURCE),
    "resources": (KeptField("comparable speed"), _AS_SOURCE),
    "schedulerName": (_OWN_SCHEDULING, _AS_SOURCE),
    "seccompProfile": (KeptField("what the namespace's admission asks for"), _AS_SOURCE),
    "securityContext": (KeptField("what the namespace's admission asks for"), _AS_SOURCE),
    "serviceAccountName": (LeftOutField("the source's identity; archive.identity gives the copy its own"), _AS_SOURCE),
    "serviceAccountTemplate": (
        LeftOutField("the source's identity; archive.identity gives the copy its own"),
        _AS_SOURCE,
    ),
    "smartShutdownTimeout": (_SHUTDOWN, _AS_SOURCE),
    "startDelay": (KeptField("a recovery may take as long as the source's start"), _AS_SOURCE),
    "stopDelay": (_SHUTDOWN, _AS_SOURCE),
    **_volume("storage"),
    "superuserSecret": (LeftOutField("the copy gets its own superuser password"), _AS_SOURCE),
    "switchoverDelay": (_SHUTDOWN, _AS_SOURCE),
    "tablespaces[].name": (KeptField("volumes as in the source"), KeptField("volumes as in the source")),
    "tablespaces[].owner": (KeptField("the role comes with the backup"), _AS_SOURCE),
    "tablespaces[].temporary": (KeptField("volumes as in the source"), KeptField("volumes as in the source")),
    **_volume("tablespaces[].storage"),
    "topologySpreadConstraints": (_OWN_SCHEDULING, _AS_SOURCE),
    **_volume("walStorage"),
}

_ONLY_WRITING = LeftOutField("only a backup or an archiver uses it")

# Field of ObjectStore.spec: its fate in a drill's copy. In-tree, spec.backup.barmanObjectStore has the same shape below
# ``configuration``.
OBJECT_STORE: Rows = {
    "configuration.azureCredentials": LeftOutField("only S3 is read"),
    "configuration.data.additionalCommandArgs": _ONLY_WRITING,
    "configuration.data.compression": KeptField("as the backups were made"),
    "configuration.data.encryption": LeftOutField("the store decrypts what it gives"),
    "configuration.data.immediateCheckpoint": _ONLY_WRITING,
    "configuration.data.jobs": KeptField("as fast as the source"),
    "configuration.data.restoreAdditionalCommandArgs": KeptField("barman's own options of a restore"),
    "configuration.destinationPath": KeptField("the source's place"),
    "configuration.endpointCA": TranslatedField("the Secret of the drill namespace"),
    "configuration.endpointURL": TranslatedField("a short name is completed by the source's namespace"),
    "configuration.googleCredentials": LeftOutField("only S3 is read"),
    "configuration.historyTags": _ONLY_WRITING,
    "configuration.s3Credentials": TranslatedField("the read-only key of the drill namespace, or archive.identity"),
    "configuration.serverName": LeftOutField("given by the recovery source"),
    "configuration.tags": _ONLY_WRITING,
    "configuration.wal.archiveAdditionalCommandArgs": _ONLY_WRITING,
    "configuration.wal.compression": KeptField("as the WAL was archived"),
    "configuration.wal.encryption": LeftOutField("the store decrypts what it gives"),
    "configuration.wal.maxParallel": KeptField("as fast as the source"),
    "configuration.wal.restoreAdditionalCommandArgs": KeptField("barman's own options of a restore"),
    "instanceSidecarConfiguration.additionalContainerArgs": KeptField("the sidecar's own options"),
    "instanceSidecarConfiguration.env": TranslatedField("settings of the way to the object store only, no secrets"),
    "instanceSidecarConfiguration.logLevel": LeftOutField("the recovery is followed by its log, at the default level"),
    "instanceSidecarConfiguration.resources": KeptField("comparable speed"),
    "instanceSidecarConfiguration.retentionPolicyIntervalSeconds": LeftOutField("a copy removes no backup"),
    "retentionPolicy": LeftOutField("a copy removes no backup"),
}

COPY: Rows = {path: fates[0] for path, fates in CLUSTER.items() if fates[0] is not None}
REPLACEMENT: Rows = {path: fates[1] for path, fates in CLUSTER.items() if fates[1] is not None}

Notes = list[tuple[str, str]]


def carried(rows: Rows, spec: Mapping[str, Any]) -> tuple[dict[str, Any], Notes]:
    """What of ``spec`` is kept or translated, and each field that is not with its reason.

    Translated fields come as they are in the source: the builder changes them.
    """
    notes: Notes = []
    found = _walk(rows, "", "", dict(spec), notes)
    return found or {}, notes


def covers(rows: Rows, path: str) -> bool:
    """Whether a field (``a.b[].c``) has its own fate, by a row above it, or by rows for all that is known below."""
    parts = path.replace("[]", ".[]").split(".")
    above = (".".join(parts[: end + 1]).replace(".[]", "[]") for end in range(len(parts)))
    return any(name in rows for name in above) or _opens(rows, path)


def _opens(rows: Rows, path: str) -> bool:
    return any(row.startswith((f"{path}.", f"{path}[]")) for row in rows)


def _walk(rows: Rows, path: str, shown: str, value: Any, notes: Notes) -> Any:
    """The part of a value that is carried; None for nothing."""
    fate = rows.get(path)
    if isinstance(fate, LeftOutField):
        notes.append((shown, fate.why))
        return None
    if fate is not None:
        return value
    if path and not _opens(rows, path):
        notes.append((shown, UNKNOWN))
        return None
    if isinstance(value, dict):
        kept = {}
        for name, item in value.items():
            below = f"{path}.{name}" if path else name
            if (
                item is not None
                and (part := _walk(rows, below, f"{shown}.{name}" if shown else name, item, notes)) is not None
            ):
                kept[name] = part
        return kept if kept or not value else None
    if isinstance(value, list):
        named = [item.get("name", number) if isinstance(item, dict) else number for number, item in enumerate(value)]
        parts = (
            _walk(rows, f"{path}[]", f"{shown}[{name}]", item, notes) for name, item in zip(named, value, strict=True)
        )
        return [part for part in parts if part is not None]
    return value


# -- environment -------------------------------------------------------------------------------------------------------

STORE_SETTINGS = frozenset(
    {
        "AWS_REGION",
        "AWS_DEFAULT_REGION",
        "AWS_REQUEST_CHECKSUM_CALCULATION",
        "AWS_RESPONSE_CHECKSUM_VALIDATION",
        "AWS_MAX_ATTEMPTS",
        "AWS_RETRY_MODE",
        "AWS_ENDPOINT_URL",
        "AWS_ENDPOINT_URL_S3",
        "AWS_ENDPOINT_URL_STS",
        "AWS_STS_REGIONAL_ENDPOINTS",
        "AWS_S3_US_EAST_1_REGIONAL_ENDPOINT",
        "AWS_USE_DUALSTACK_ENDPOINT",
        "AWS_USE_FIPS_ENDPOINT",
        "AWS_EC2_METADATA_DISABLED",
        "AWS_METADATA_SERVICE_TIMEOUT",
        "AWS_METADATA_SERVICE_NUM_ATTEMPTS",
        "AWS_S3_ADDRESSING_STYLE",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "NO_PROXY",
        "http_proxy",
        "https_proxy",
        "no_proxy",
    }
)
"""The variables that say how boto3, and so barman, talks to a store: none of them is a secret or an identity."""

_IDENTITY = (
    "AWS_ROLE",
    "AWS_WEB_IDENTITY",
    "AWS_CONTAINER_",
    "AWS_PROFILE",
    "AWS_CONFIG_FILE",
    "AWS_SHARED_CREDENTIALS",
)


def store_settings(entries: Iterable[Mapping[str, Any]], where: str) -> tuple[dict[str, str], Notes]:
    """Of a container's ``env``: the settings of the way to the store, and each other entry with its reason."""
    found: dict[str, str] = {}
    notes: Notes = []
    for entry in entries:
        name = str(entry["name"])
        if name not in STORE_SETTINGS:
            identity = name.startswith(_IDENTITY)
            why = "the source's identity; archive.identity gives the copy its own" if identity else _SECRETS.why
            notes.append((f"{where}[{name}]", why))
        elif "value" not in entry:
            notes.append((f"{where}[{name}]", "its value is in another object; give it in archive.environment"))
        elif "@" in str(entry["value"]):
            notes.append((f"{where}[{name}]", "its address holds a user or password"))
        else:
            found[name] = str(entry["value"])
    return found, notes


def as_env(settings: Mapping[str, str]) -> list[dict[str, str]]:
    """Settings as a container's ``env``."""
    return [{"name": name, "value": value} for name, value in settings.items()]
