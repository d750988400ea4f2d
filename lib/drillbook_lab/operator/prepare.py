"""From a Cluster's object to what its pod's programs are given: the spec file and the mounted secrets."""

from __future__ import annotations

import functools
import json
import os
from pathlib import Path

from drillbook_lab.agent.spec import PodSpec, StoreSpec, TargetSpec
from drillbook_lab.api.errors import Object
from drillbook_lab.identity import share
from drillbook_lab.operator import fencing, in_tree, object_store, objects, replication
from drillbook_lab.operator.context import Operator
from drillbook_lab.operator.places import NotReadyYet, PodPlaces


class Preparation:
    """Writes a pod's files before it starts, and again when what they were made from has changed."""

    def __init__(self, operator: Operator) -> None:
        self._operator = operator

    def __call__(self, pod: Object, places: PodPlaces) -> None:
        """Write everything that the pod's container needs; `NotReadyYet` when an object is missing."""
        meta = pod["metadata"]
        name = (meta.get("labels") or {}).get("cnpg.io/cluster", "")
        cluster = self._operator.find("Cluster", meta["namespace"], name)
        if cluster is None:
            raise NotReadyYet(f"clusters.postgresql.cnpg.io {name!r} not found")
        fencing.mark(cluster, meta["name"], places)
        self.pod_spec(cluster, meta["name"], pod["spec"]["containers"][0]["name"], places).write(places.spec_file)

    def pod_spec(self, cluster: Object, pod: str, role: str, places: PodPlaces, *, promoted: bool = False) -> PodSpec:
        """The spec of one pod; `role` is its container's name. `promoted`: a candidate may take over now."""
        meta, settings = cluster["metadata"], self._operator.settings
        postgresql = cluster["spec"].get("postgresql") or {}
        spec = PodSpec(
            namespace=meta["namespace"],
            cluster=meta["name"],
            pod=pod,
            pgdata=str(places.pgdata),
            run_dir=str(places.run_dir),
            socket_dir=str(places.socket_dir),
            bin_dir=str(settings.bin_dir),
            listen_address=places.address,
            parameters=dict(postgresql.get("parameters") or {}),
            shared_preload_libraries=list(postgresql.get("shared_preload_libraries") or ()),
            hba=list(postgresql.get("pg_hba") or ()),
            skip_empty_archive_check=_annotation(cluster, "cnpg.io/skipEmptyWalArchiveCheck") == "enabled",
        )
        spec.archive = self._archive(cluster, role, places)
        if role in ("postgres", "join"):
            self._part(spec, cluster, places, promoted=promoted)
        if role == "join":
            return spec
        if role == "postgres":
            spec.tls_dir = str(self._tls(cluster, places)) if server_has_tls(settings.bin_dir) else None
            return spec
        spec.database, spec.owner = objects.application(cluster)
        spec.owner_password_file = str(self._owner_password(cluster, spec.owner, places))
        if cluster["spec"].get("enableSuperuserAccess"):
            spec.superuser_password_file = str(self._superuser_password(cluster, places))
        _, section = objects.bootstrap(cluster)
        if role == "initdb":
            spec.initdb = _initdb(section)
        else:
            self._recovery(spec, cluster, section, places)
        return spec

    def _part(self, spec: PodSpec, cluster: Object, places: PodPlaces, *, promoted: bool) -> None:
        """Primary or standby, and how the latter logs in to the former."""
        found = replication.replication_password(self._operator, cluster)
        line = f"*:*:*:{replication.ROLE}:{found[0]}\n" if found is not None else ""
        passfile = _private(places, "replication.pgpass", line)
        replication.assign(self._operator, cluster, spec, str(passfile), promoted=promoted)
        if spec.role == "replica":
            spec.source = spec.archive  # what the primary no longer has

    def _recovery(self, spec: PodSpec, cluster: Object, section: Object, places: PodPlaces) -> None:
        use = in_tree.recovery_use(self._operator, cluster)
        if use is None:
            raise NotReadyYet("the recovery's source names no object store")
        try:
            spec.source = self._store(cluster, use, "source", places)
        except object_store.NoCredentials as fault:
            if use.object_store is None:
                raise
            spec.source = StoreSpec("", use.server_name, fault=str(fault))  # the Job runs, and its attempts fail
        if use.object_store is None:
            spec.source.wal_max_parallel = 1  # CloudNativePG's in-tree recovery ignores `wal.maxParallel`
        target = section.get("recoveryTarget")
        pinned = in_tree.recovery_backup_id(self._operator, cluster)
        if pinned:
            target = {"backupID": pinned, **(target or {})}
        if target is not None:
            spec.target = TargetSpec(
                backup_id=target.get("backupID"),
                target_tli=target.get("targetTLI"),
                target_xid=target.get("targetXID"),
                target_name=target.get("targetName"),
                target_lsn=target.get("targetLSN"),
                target_time=target.get("targetTime"),
                target_immediate=target.get("targetImmediate"),
                exclusive=bool(target.get("exclusive", False)),
            )

    def _archive(self, cluster: Object, role: str, places: PodPlaces) -> StoreSpec | None:
        use = object_store.archive_use(cluster)
        if use is None and role == "full-recovery":
            # A disabled entry still names the destination, and the recovery Job still checks it.
            entry = object_store.plugin_entry(cluster)
            parameters = (entry or {}).get("parameters") or {}
            if parameters.get("barmanObjectName"):
                server = parameters.get("serverName") or cluster["metadata"]["name"]
                use = object_store.StoreUse(server, parameters["barmanObjectName"], {})
        return None if use is None else self._store(cluster, use, "archive", places)

    def _store(self, cluster: Object, use: object_store.StoreUse, side: str, places: PodPlaces) -> StoreSpec:
        spec, credentials = object_store.resolve(self._operator, cluster["metadata"]["namespace"], use)
        path = _private(places, f"{side}-credentials.json", json.dumps(credentials))
        spec.credentials_file = str(path)
        return spec

    def _secret(self, cluster: Object, name: str) -> dict[str, str]:
        secret = self._operator.find("Secret", cluster["metadata"]["namespace"], name)
        if secret is None:
            raise NotReadyYet(f"secret {name!r} not found")
        return objects.decoded(secret)

    def _owner_password(self, cluster: Object, owner: str, places: PodPlaces) -> Path:
        name = objects.app_secret_name(cluster)
        values = self._secret(cluster, name)
        if values.get("username") != owner:
            raise NotReadyYet(f"wrong username {values.get('username')!r} in secret {name!r}, expected {owner!r}")
        return _private(places, "owner-password", values.get("password", ""))

    def _superuser_password(self, cluster: Object, places: PodPlaces) -> Path:
        name = (cluster["spec"].get("superuserSecret") or {}).get("name") or f"{cluster['metadata']['name']}-superuser"
        return _private(places, "superuser-password", self._secret(cluster, name).get("password", ""))

    def _tls(self, cluster: Object, places: PodPlaces) -> Path:
        values = self._secret(cluster, f"{cluster['metadata']['name']}-server")
        for file, key in (("server.crt", "tls.crt"), ("server.key", "tls.key"), ("ca.crt", "ca.crt")):
            path = _private(places, f"certificates/{file}", values[key])
        return path.parent


@functools.cache
def server_has_tls(bin_dir: Path) -> bool:
    """Whether this PostgreSQL was built with TLS: the wheel's isn't, and then it serves without."""
    return b"SSL is not supported by this build" not in (bin_dir / "postgres").read_bytes()


def _initdb(section: Object) -> Object:
    names = {
        "encoding": "encoding",
        "localeCollate": "locale_collate",
        "localeCType": "locale_ctype",
        "dataChecksums": "data_checksums",
        "walSegmentSize": "wal_segment_size",
        "postInitSQL": "post_init_sql",
        "postInitApplicationSQL": "post_init_application_sql",
    }
    return {ours: section[theirs] for theirs, ours in names.items() if section.get(theirs) is not None}


def _private(places: PodPlaces, name: str, text: str) -> Path:
    """A file that only PostgreSQL's identity reads; it goes with the pod."""
    path = places.run_dir / "projected" / name
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return path
    draft = path.with_name(path.name + ".new")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8") as out:
        out.write(text)
    share(draft)  # before it takes its place: an archive command may be reading it this moment
    draft.replace(path)
    return path


def _annotation(obj: Object, name: str) -> str:
    return str((obj["metadata"].get("annotations") or {}).get(name, ""))
