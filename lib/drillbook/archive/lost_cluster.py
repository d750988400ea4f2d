"""What is known of a Cluster whose object no longer exists: what a run kept of it, and what the profile says."""

from __future__ import annotations

import json
from typing import Any

from drillbook import kube as k8s
from drillbook.archive.location import PLUGIN, SourceArchive, of_store, source_archive
from drillbook.errors import KubernetesError, PreconditionError
from drillbook.profile import Site

MADE_BY = "drillbook.io/made-by"
"""The label of what a run made and means to stay; what is to be cleaned up with its run has ``drillbook.io/run``."""

KEPT_CLUSTER = "drillbook.io/kept-cluster"
"""The label of the ConfigMap that holds a Cluster's object after a run removed it; its value is the Cluster's name."""


MADE_AGAIN = "made_again"
"""The entry of that ConfigMap by which its run says that the Cluster is there again: what it kept is history then."""


def kept_cluster(kube: k8s.Kube, site: Site, run_id: str = "") -> dict[str, Any] | None:
    """The source's Cluster as the run that removed it last kept it, None if none did, or if that run made it again.

    To that run itself (``run_id``) it stays what it was.
    """
    newest = _newest_note(kube, site)
    if newest is None or (MADE_AGAIN in newest["data"] and newest["data"]["run"] != run_id):
        return None
    found: dict[str, Any] = json.loads(newest["data"]["cluster"])
    return found


def _newest_note(kube: k8s.Kube, site: Site) -> dict[str, Any] | None:
    try:
        notes = kube.list(k8s.CONFIG_MAP, site.cluster.namespace, labels=f"{KEPT_CLUSTER}={site.cluster.name}")
    except KubernetesError as error:
        if error.status != 403:
            raise
        raise PreconditionError(
            f"Cluster {site.source} does not exist, and whether a run that removed it has kept it can't be read: "
            f"the right to list configmaps in {site.cluster.namespace} is missing",
            todo="Check the profile's cluster and context. If the Cluster is lost, read with the rights of deploy/recover/rbac.yaml.",
        ) from error
    return max(notes, key=lambda item: str(item["metadata"]["creationTimestamp"]), default=None)


def archive_of(kube: k8s.Kube, site: Site, run_id: str = "") -> SourceArchive:
    """Where the source archives: by its Cluster, else as the run that removed it kept it, else as the profile says.

    To the run that has made the Cluster again (``run_id``) its source is still the one that it removed.
    PreconditionError: it archives nowhere, or nothing says where it did. NotReady: see `source_archive`.
    """
    cluster = kube.get(k8s.CLUSTER, site.cluster.namespace, site.cluster.name)
    if cluster is None or (run_id and (cluster["metadata"].get("labels") or {}).get(MADE_BY) == run_id):
        cluster = kept_cluster(kube, site, run_id)
    return _by_profile(kube, site) if cluster is None else source_archive(kube, site, cluster)


def _by_profile(kube: k8s.Kube, site: Site) -> SourceArchive:
    said, periods = site.archive, site.archive.server_names
    folder = periods[-1].name if periods else said.server_name or site.cluster.name
    made = (_newest_note(kube, site) or {"data": {}})["data"]
    if MADE_AGAIN in made and made["server_name"] != folder:
        raise PreconditionError(
            f"run {made['run']} made Cluster {site.source} again, which archived under serverName {made['server_name']} since; "
            f"the profile knows {folder}",
            todo=f"Add it to archive.server_names, as logs/git.patch.yaml of run {made['run']} says: under {folder} lies "
            "only what was before.",
        )
    found = kube.get(k8s.OBJECT_STORE, site.cluster.namespace, said.object_store) if said.object_store else None
    if found is not None:
        return of_store(found, folder, periods, said.timeline)
    if not said.destination:
        raise PreconditionError(
            f"Cluster {site.source} does not exist, and the profile does not say where it archived",
            todo="Check the profile's cluster and context; if the Cluster is lost, set archive.object_store or "
            "archive.destination.",
        )
    endpoint = {"endpointURL": said.endpoint_url} if said.endpoint_url else {}
    return SourceArchive(PLUGIN, {"destinationPath": said.destination} | endpoint, folder, "", periods, said.timeline)
