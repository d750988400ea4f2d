"""What can't be changed in a Cluster that exists, and what the webhook warns about.

Changing `bootstrap` or a storage class is taken silently: it has no effect on what is there.
"""

from __future__ import annotations

from collections.abc import Iterator

from drillbook_lab.api.cluster_rules import major, size_of
from drillbook_lab.api.errors import Fault, Object
from drillbook_lab.api.schema import denied_value
from drillbook_lab.quantities import quantity


def faults(new: Object, old: Object) -> Iterator[Fault]:
    """Everything that the change from the stored Cluster may not be."""
    after, before = new["spec"], old["spec"]
    if (old.get("status") or {}).get("pgDataImageInfo"):  # before there is a data directory any version is taken
        yield from _image(after, before)
    yield from _shrunk("spec.storage", after.get("storage") or {}, before.get("storage") or {})
    if before.get("walStorage") is not None and after.get("walStorage") is None:
        yield denied_value("spec.walStorage", None, "walStorage cannot be disabled once configured")
    elif before.get("walStorage") is not None:
        yield from _shrunk("spec.walStorage", after["walStorage"], before["walStorage"])
    yield from _tablespaces(after, before)
    for field, name in (("postgresGID", "GID"), ("postgresUID", "UID")):
        if after.get(field) != before.get(field):
            yield denied_value(f"spec.{field}", after.get(field), f"{name} is an immutable field in the spec")
    yield from _slots(after.get("replicationSlots"), before.get("replicationSlots"))
    levels = [((spec.get("postgresql") or {}).get("parameters") or {}).get("wal_level") for spec in (before, after)]
    if levels[1] == "minimal" and levels[0] not in (None, "", "minimal"):
        yield denied_value(
            "spec.postgresql.parameters.wal_level",
            "minimal",
            f"Change of `wal_level` to `minimal` not allowed on an existing cluster (from {levels[0]})",
        )


def _image(after: Object, before: Object) -> Iterator[Fault]:
    path = "spec.imageCatalogRef.major" if after.get("imageCatalogRef") else "spec.imageName"
    was, now = major(before), major(after)
    if was is None or now is None:
        return
    if now < was:
        yield denied_value(path, str(now), f"can't downgrade from major {was} to {now}")
    elif was < now < 16:
        yield denied_value(path, str(now), "major upgrades are only supported to version 16 or higher")


def _tablespaces(after: Object, before: Object) -> Iterator[Fault]:
    if before.get("tablespaces") and after.get("tablespaces") is None:
        yield denied_value("spec.tablespaces", None, "tablespaces section cannot be deleted once created")
        return
    kept = {entry["name"]: entry for entry in after.get("tablespaces") or ()}
    for index, entry in enumerate(before.get("tablespaces") or ()):
        path = f"spec.tablespaces[{index}]"
        if entry["name"] in kept:
            yield from _shrunk(path, kept[entry["name"]]["storage"], entry["storage"])
        else:
            yield denied_value(path, list(kept), "no tablespace can be deleted once created")


def _shrunk(path: str, after: Object, before: Object) -> Iterator[Fault]:
    was, now = quantity(size_of(before)), quantity(size_of(after))
    if was is not None and now is not None and now < was:
        why = f"can't shrink existing storage from {size_of(before)} to {size_of(after)}"
        yield denied_value(path, size_of(after), why)


def _slots(after: Object | None, before: Object | None) -> Iterator[Fault]:
    was = (before or {}).get("highAvailability") or {}
    now = (after or {}).get("highAvailability") or {}
    prefix = "spec.replicationSlots.highAvailability.slotPrefix"
    if was.get("enabled", False) and now.get("slotPrefix", "_cnpg_") != was.get("slotPrefix", "_cnpg_"):
        yield denied_value(
            prefix, now.get("slotPrefix"), "Cannot change replication slot prefix while highAvailability is enabled"
        )


def warnings(cluster: Object) -> list[str]:
    """What is allowed, but not for long or not to any effect."""
    spec = cluster["spec"]
    backup, told = spec.get("backup") or {}, []
    if spec.get("nodeMaintenanceWindow") is not None:
        told.append("Consider using `.spec.enablePDB` instead of the node maintenance window feature")
    found = ["spec.backup.barmanObjectStore"] if backup.get("barmanObjectStore") is not None else []
    for index, entry in enumerate(spec.get("externalClusters") or ()):
        if entry.get("barmanObjectStore") is not None:
            found.append(f"spec.externalClusters.{index}.barmanObjectStore")
    if found:
        told.append(
            "Native support for Barman Cloud backups and recovery is deprecated and will be completely removed in "
            f"CloudNativePG 1.31.0. Found usage in: {', '.join(found)}. Please migrate existing clusters to the new "
            "Barman Cloud Plugin to ensure a smooth transition."
        )
    if backup.get("retentionPolicy") and backup.get("barmanObjectStore") is None:
        told.append(
            "Retention policies specified in .spec.backup.retentionPolicy are only used by the in-tree barman-cloud "
            "support, which is not being used in this cluster. Please use a backup plugin and migrate this "
            "configuration to the plugin configuration"
        )
    for path in ("storage", "walStorage"):
        told.extend(_twice(f"spec.{path}", spec.get(path) or {}))
    buffers = ((spec.get("postgresql") or {}).get("parameters") or {}).get("shared_buffers", "")
    if buffers.isdigit():
        told.append(
            f"`shared_buffers` value '{buffers}' is missing a unit (e.g., MB, GB). While this is currently allowed, "
            "future releases will require an explicit unit. Please update your configuration to specify a valid unit, "
            f"such as '{buffers}MB'."
        )
    if (spec.get("monitoring") or {}).get("enablePodMonitor"):
        told.append(
            "spec.monitoring.enablePodMonitor is deprecated and will be removed in a future release. Please migrate "
            "to manually managing your PodMonitor resources. Set this field to false and create a PodMonitor resource "
            "for your cluster as described in the documentation."
        )
    return told


def _twice(path: str, storage: Object) -> Iterator[str]:
    template = storage.get("pvcTemplate") or {}
    requested = ((template.get("resources") or {}).get("requests") or {}).get("storage")
    pairs = (
        ("storageClass", "storageClassName", template.get("storageClassName")),
        ("size", "resources.requests.storage", requested),
    )
    for ours, theirs, value in pairs:
        if storage.get(ours) and value:
            yield f"{path}.{ours} and {path}.pvcTemplate.{theirs} are both specified, {path}.{ours} value will be used."
