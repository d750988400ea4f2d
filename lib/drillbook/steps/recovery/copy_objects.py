"""The objects of a recovery copy, as they follow from the source and from what the cluster says of the ways out."""

from __future__ import annotations

from typing import Any

from drillbook.archive.location import IN_TREE, SourceArchive
from drillbook.manifests import recovery as manifests
from drillbook.manifests.recovery import Copy
from drillbook.model import BaseBackup, RecoveryTarget
from drillbook.profile import Site
from drillbook.profile.fields import Notes
from drillbook.steps.recovery.egress import Egress


def copy_objects(
    copy: Copy,
    ways: Egress,
    *,
    source: dict[str, Any],
    backup: BaseBackup,
    target: RecoveryTarget,
    owner_uid: str,
    instances: int,
    archive: SourceArchive,
    site: Site,
) -> tuple[list[dict[str, Any]], Notes]:
    """In the order in which they are made, the Cluster last; and what of the fields of ``source``, the Cluster, was left out."""
    cluster, left_out = manifests.recovery_cluster(
        copy,
        site,
        source,
        archive=archive,
        backup=backup,
        target=target,
        owner_uid=owner_uid,
        instances=instances,
    )
    policy = manifests.network_policy(copy, ways.rules, owner_uid=owner_uid, instances=instances)
    if archive.method == IN_TREE:
        return [policy, cluster], left_out
    store, more = manifests.object_store(copy, site, archive, owner_uid=owner_uid)
    return [store, policy, cluster], left_out + more
