"""Where the source archives, by its Cluster and ObjectStore, and the way to it from here."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, TypeVar

from drillbook import kube as k8s
from drillbook.archive import ObjectStore, S3Store, not_s3
from drillbook.archive.retrieval import LongTermStore, Retriever
from drillbook.errors import KubernetesError, NotReady, PreconditionError, TargetOutsideWindow
from drillbook.model import show_instant
from drillbook.profile import ArchiveReader, EndpointCa, LongTerm, RetrievalSecret, ServerPeriod, Site
from drillbook.profile.fields import store_settings

BARMAN_PLUGIN = "barman-cloud.cloudnative-pg.io"
PLUGIN, IN_TREE = "plugin", "barmanObjectStore"  # CloudNativePG's own words for the methods of backup


@dataclass(frozen=True)
class SourceArchive:
    """Where the source archives. Both methods have one layout and one shape of configuration.

    ``server_name`` is the folder it archives to now; ``periods`` are those of the profile, where its history is in
    several. ``retention_policy`` is CloudNativePG's, such as 30d, "" for none.
    """

    method: str
    configuration: dict[str, Any]
    server_name: str
    retention_policy: str = ""
    periods: tuple[ServerPeriod, ...] = ()
    timeline: int = 0  # the cluster's own by the profile, for the day on which nothing else says it
    object_store: str = ""  # the plugin's; "" in-tree, and where only the profile knows the archive
    # How the source's own pods talk to the store: the rest of the ObjectStore's spec, or in-tree the Cluster's env.
    store_spec: dict[str, Any] = field(default_factory=dict)
    env: tuple[dict[str, Any], ...] = ()

    def settings(self, site: Site) -> dict[str, str]:
        """The variables that say how the store is talked to (region, checksums, attempts): the source's, then the profile's."""
        return store_settings(self.env, "")[0] | site.archive.environment

    @property
    def location(self) -> str:
        """The folder in the object store that holds ``base/`` and ``wals/``."""
        return str(self.configuration["destinationPath"]).removesuffix("/") + "/" + self.server_name

    @property
    def folders(self) -> tuple[ServerPeriod, ...]:
        """Every folder that the cluster's history is in, oldest first; the last is the one archived to now."""
        return self.periods or (ServerPeriod(name=self.server_name),)

    def timeline_in(self, server_name: str, said: int = 0) -> int:
        """The cluster's own timeline in a folder: in the one archived to now as the cluster ``said``, else by the profile.

        0: neither says it, and the archive has to leave no doubt.
        """
        if server_name == self.server_name and said:
            return said
        period = next((period for period in self.periods if period.name == server_name), None)
        return (
            period.timeline if period and period.timeline else self.timeline if server_name == self.server_name else 0
        )

    def server_at(self, instant: datetime | None) -> str:
        """The folder that holds the WAL of an instant; ``None`` is now. TargetOutsideWindow: it is between two."""
        if instant is None or not self.periods:
            return self.server_name
        for period in self.periods:
            if period.holds(instant):
                return period.name
        before = [period for period in self.periods if period.until is not None and period.until <= instant]
        nearest = f"just before {show_instant(before[-1].until)}" if before and before[-1].until else "later"
        raise TargetOutsideWindow(
            f"{show_instant(instant)} is in none of the periods of archive.server_names",
            todo=f"Give a target_time {nearest}, or correct the periods in the profile.",
        )


def source_archive(kube: k8s.Kube, site: Site, cluster: dict[str, Any]) -> SourceArchive:
    """How and where the Cluster archives: through the Barman Cloud Plugin, or in-tree.

    PreconditionError: it archives nowhere. NotReady: to a store that isn't S3, or under another name than the
    profile's newest; nothing was asked of the store.
    """
    name = f"{site.source}"
    spec = cluster.get("spec", {})
    for plugin in spec.get("plugins", []):
        if plugin.get("name") == BARMAN_PLUGIN and plugin.get("isWALArchiver") and plugin.get("enabled", True):
            parameters = plugin.get("parameters", {})
            store = _object_store(kube, site, parameters.get("barmanObjectName", ""))
            policy = str(store["spec"].get("retentionPolicy", ""))
            found = _archive(site, PLUGIN, store["spec"]["configuration"], parameters, policy)
            return replace(found, object_store=store["metadata"]["name"], **_identity(store["spec"]))
    section = spec.get("backup", {}).get("barmanObjectStore")
    if section:
        found = _archive(site, IN_TREE, section, section, str(spec["backup"].get("retentionPolicy", "")))
        return replace(found, env=tuple(spec.get("env") or ()))
    raise PreconditionError(
        f"Cluster {name} archives no WAL: spec.plugins has no enabled entry of {BARMAN_PLUGIN} with "
        "isWALArchiver, and spec.backup no barmanObjectStore",
        todo="Configure the plugin and an ObjectStore (in-tree barmanObjectStore is deprecated since CNPG 1.26).",
    )


def _identity(spec: dict[str, Any]) -> dict[str, Any]:
    """What an ObjectStore says besides its configuration."""
    rest = {name: value for name, value in spec.items() if name != "configuration"}
    return {"store_spec": rest, "env": tuple((rest.get("instanceSidecarConfiguration") or {}).get("env") or ())}


def of_store(store: dict[str, Any], folder: str, periods: tuple[ServerPeriod, ...], timeline: int = 0) -> SourceArchive:
    """The archive of an ObjectStore whose Cluster is gone; ``timeline`` is the Cluster's own by the profile, 0 if it doesn't say."""
    spec = store["spec"]
    policy = str(spec.get("retentionPolicy", ""))
    return SourceArchive(
        PLUGIN, spec["configuration"], folder, policy, periods, timeline, store["metadata"]["name"], **_identity(spec)
    )


def _object_store(kube: k8s.Kube, site: Site, name: str) -> dict[str, Any]:
    found = kube.get(k8s.OBJECT_STORE, site.cluster.namespace, name)
    if found is None:
        raise PreconditionError(
            f"ObjectStore {site.cluster.namespace}/{name} does not exist, though the Cluster names it",
            todo="Create it: while it is missing CloudNativePG stalls silently.",
        )
    return found


def _archive(
    site: Site, method: str, configuration: dict[str, Any], section: dict[str, Any], retention_policy: str
) -> SourceArchive:
    faults = [f"it archives to {other}: only S3 and what speaks it is read" for other in not_s3(configuration)]
    configured = str(section.get("serverName") or site.cluster.name)
    periods = site.archive.server_names
    if periods and periods[-1].name != configured:
        faults.append(
            f"it archives under {configured}, and the newest of the profile's archive.server_names is "
            f"{periods[-1].name}: add the new name with its since"
        )
    if faults:
        raise NotReady(faults, where=f"Cluster {site.source}")
    folder = configured if periods else str(site.archive.server_name or configured)
    return SourceArchive(method, configuration, folder, retention_policy, periods, site.archive.timeline)


def endpoint_ca(site: Site, configuration: dict[str, Any]) -> EndpointCa | None:
    """The Secret of the drill namespace with the store's private CA: the profile's, else one as the source names it."""
    named = configuration.get("endpointCA")
    if site.archive.endpoint_ca is not None or not named:
        return site.archive.endpoint_ca
    return EndpointCa(name=named["name"], key=named["key"])


@dataclass(frozen=True)
class StoreKey:
    """A Secret with a key to an object store, and its namespace; the names of its keys are by `S3Store.open`'s arguments."""

    namespace: str
    name: str
    keys: dict[str, str]

    @classmethod
    def of(cls, namespace: str, secret: ArchiveReader | RetrievalSecret | None) -> StoreKey | None:
        """The profile's Secret in ``namespace``; None is boto3's default chain."""
        if secret is None:
            return None
        keys = {name: key for name in _OF_KEY if (key := getattr(secret, name))}
        return cls(namespace, secret.name, keys)


_OF_KEY = ("access_key_id", "secret_access_key", "session_token", "region")
S = TypeVar("S", bound=S3Store)


def open_store(kube: k8s.Kube, site: Site, archive: SourceArchive) -> ObjectStore:
    """The source's archive by the read-only credentials of the drill namespace, or the default chain's.

    PreconditionError names every entry of a Secret that is missing. Asks nothing of the store yet.
    """
    key = StoreKey.of(site.drill_namespace, site.archive.reader_secret)
    return open_by(S3Store, kube, site, archive, key, seen_at=site.archive.endpoint_url)


def open_by(
    kind: type[S], kube: k8s.Kube, site: Site, archive: SourceArchive, key: StoreKey | None, *, seen_at: str = ""
) -> S:
    """An archive as a store of this ``kind``, by this key; ``seen_at`` is its endpoint as seen from here, "" as the source's.

    PreconditionError names every entry of a Secret that is missing. Asks nothing of the store yet.
    """
    destination = archive.configuration
    ca = endpoint_ca(site, destination)
    wanted: list[tuple[str, str, str, str]] = []  # argument, namespace, Secret, key
    if key is not None:
        wanted += [(argument, key.namespace, key.name, name) for argument, name in key.keys.items()]
    if ca is not None:
        wanted.append(("ca_pem", site.drill_namespace, ca.name, ca.key))
    places = dict.fromkeys((where, name) for _, where, name, _ in wanted)
    secrets = {(where, name): _secret(kube, where, name) for where, name in places}
    missing = [
        f"Secret {where}/{name} has no key {entry}"
        for _, where, name, entry in wanted
        if entry not in secrets[where, name]
    ]
    if missing:
        raise PreconditionError(
            "; ".join(missing),
            todo="Add the credentials of the archive, and its private CA, under the keys that are named.",
        )
    settings = archive.settings(site)
    given = {argument: secrets[where, name][entry] for argument, where, name, entry in wanted}
    # Without a region boto3 signs for us-east-1, and a store elsewhere says that the key is wrong.
    given.setdefault("region", settings.get("AWS_REGION") or settings.get("AWS_DEFAULT_REGION", ""))
    return kind.open(
        destination["destinationPath"],
        endpoint_url=seen_at or destination.get("endpointURL", ""),
        default_chain=key is None,
        **given,
    )


def long_term_archive(site: Site, archive: SourceArchive, long_term: LongTerm) -> SourceArchive:
    """Where the long-term backups lie, in the terms of the source's own archive, from which the rest is taken."""
    configuration = dict(archive.configuration)
    if long_term.destination:
        configuration["destinationPath"] = long_term.destination
    if long_term.endpoint_url:
        configuration["endpointURL"] = long_term.endpoint_url
    return replace(
        archive, configuration=configuration, server_name=long_term.server_name, retention_policy="", periods=()
    )


def open_long_term(kube: k8s.Kube, site: Site, archive: SourceArchive, long_term: LongTerm) -> LongTermStore:
    """The long-term location by the archive's reader; raises what `open_by` raises."""
    key = StoreKey.of(site.drill_namespace, site.archive.reader_secret)
    return open_by(LongTermStore, kube, site, archive, key, seen_at=_seen_at(site, long_term))


def open_retriever(kube: k8s.Kube, site: Site, archive: SourceArchive, long_term: LongTerm) -> Retriever:
    """The long-term location by the key that may ask for objects; raises what `open_by` raises."""
    key = StoreKey.of(site.drillbook_namespace, long_term.secret)
    return open_by(Retriever, kube, site, archive, key, seen_at=_seen_at(site, long_term))


def _seen_at(site: Site, long_term: LongTerm) -> str:
    return "" if long_term.endpoint_url else site.archive.endpoint_url


def _secret(kube: k8s.Kube, namespace: str, name: str) -> dict[str, str]:
    try:
        return kube.secret(namespace, name)
    except KubernetesError as error:
        if error.status != 404:
            raise
        raise PreconditionError(
            f"Secret {namespace}/{name} does not exist",
            todo="Make it there: the key of the store that the profile names by it, or a copy of the Secret with the store's private CA.",
        ) from error
