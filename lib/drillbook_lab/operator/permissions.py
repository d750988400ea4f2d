"""What a Cluster's instances may do at the API server: its ServiceAccount, its Role, and the plugin's Role.

The lab's instances don't use them; they are there, with their events, as on a real cluster.
"""

from __future__ import annotations

from drillbook_lab.api.errors import Object
from drillbook_lab.operator import object_store, objects
from drillbook_lab.operator.context import Operator

_RBAC = "rbac.authorization.k8s.io"
_CNPG = "postgresql.cnpg.io"
_READS, _FOLLOWS, _WRITES = ["get", "watch"], ["get", "list", "watch"], ["get", "patch", "update"]


def ensure(operator: Operator, cluster: Object) -> None:
    """The ServiceAccount, the Role and the RoleBinding; a Role whose Secrets have changed is brought up to date."""
    meta = cluster["metadata"]
    name, namespace = meta["name"], meta["namespace"]
    if operator.find("ServiceAccount", namespace, name) is None:
        operator.event(cluster, "CreatingServiceAccount", "Creating ServiceAccount")
        operator.registry.create(_owned(cluster, "ServiceAccount", "v1"))
    role = {**_owned(cluster, "Role", f"{_RBAC}/v1"), "rules": _rules(cluster)}
    found = operator.find("Role", namespace, name)
    if found is None:
        operator.event(cluster, "CreatingRole", "Creating Cluster Role")
        operator.registry.create(role)
    elif found.get("rules") != role["rules"]:
        operator.event(cluster, "UpdatingRole", "Updating Cluster Role")
        operator.registry.update({**found, "rules": role["rules"]})
    operator.ensure(_binding(cluster, _owned(cluster, "RoleBinding", f"{_RBAC}/v1")))


def ensure_plugin(operator: Operator, cluster: Object) -> None:
    """What the barman plugin's container reads: the Cluster's ObjectStores and the Secrets that they name."""
    stores = sorted(object_store.needed_stores(cluster))
    if not stores:
        return
    namespace = cluster["metadata"]["namespace"]
    found = [store for name in stores if (store := operator.find("ObjectStore", namespace, name)) is not None]
    references = [(store["spec"]["configuration"].get("s3Credentials") or {}).values() for store in found]
    secrets = {entry["name"] for section in references for entry in section if isinstance(entry, dict)}
    rules = [
        _rule(["get", "watch", "list"], "barmancloud.cnpg.io", "objectstores", *stores),
        _rule(["update"], "barmancloud.cnpg.io", "objectstores/status", *stores),
        _rule(["get", "watch", "list"], "", "secrets", *sorted(secrets)),
    ]
    role = {**_plugins(cluster, "Role"), "rules": rules}
    known = operator.ensure(role)
    if known.get("rules") != rules:
        operator.registry.update({**known, "rules": rules})
    operator.ensure(_binding(cluster, _plugins(cluster, "RoleBinding")))


def _owned(cluster: Object, kind: str, version: str) -> Object:
    meta = cluster["metadata"]
    labels = {"app.kubernetes.io/managed-by": "cloudnative-pg", "cnpg.io/cluster": meta["name"]}
    return {
        "apiVersion": version,
        "kind": kind,
        "metadata": {
            "name": meta["name"],
            "namespace": meta["namespace"],
            "labels": labels,
            "ownerReferences": [objects.owner_reference(cluster)],
        },
    }


def _plugins(cluster: Object, kind: str) -> Object:
    made = _owned(cluster, kind, f"{_RBAC}/v1")
    name = cluster["metadata"]["name"]
    made["metadata"]["name"] = f"{name}-barman-cloud"
    made["metadata"]["labels"] = {
        "app.kubernetes.io/component": "database",
        "app.kubernetes.io/instance": name,
        "app.kubernetes.io/managed-by": "plugin-barman-cloud",
        "app.kubernetes.io/name": "barman-cloud-plugin",
        "app.kubernetes.io/version": objects.PLUGIN_VERSION,
        "barmancloud.cnpg.io/cluster": name,
    }
    return made


def _binding(cluster: Object, made: Object) -> Object:
    meta = cluster["metadata"]
    subject = {"kind": "ServiceAccount", "name": meta["name"], "namespace": meta["namespace"]}
    reference = {"apiGroup": _RBAC, "kind": "Role", "name": made["metadata"]["name"]}
    return {**made, "subjects": [subject], "roleRef": reference}


def _rule(verbs: list[str], group: str, resource: str, *names: str) -> Object:
    rule: Object = {"verbs": verbs, "apiGroups": [group], "resources": [resource]}
    return {**rule, "resourceNames": list(names)} if names else rule


def _rules(cluster: Object) -> list[Object]:
    name = cluster["metadata"]["name"]
    secrets = {
        objects.app_secret_name(cluster),
        *(f"{name}-{part}" for part in ("ca", "replication", "server", "superuser")),
    }
    for role in (cluster["spec"].get("managed") or {}).get("roles") or ():
        secrets |= {(role.get("passwordSecret") or {}).get("name") or ""}
    rules = [
        _rule(_READS, "", "configmaps", name),
        _rule(_READS, "", "secrets", *sorted(filter(None, secrets))),
        _rule(_FOLLOWS, _CNPG, "clusters", name),
        _rule([*_WRITES, "watch"], _CNPG, "clusters/status", name),
        _rule(["list", "get", "delete"], _CNPG, "backups"),
        _rule(_WRITES, _CNPG, "backups/status"),
        _rule(["create", "patch"], "", "events"),
        _rule(["get", "update"], "coordination.k8s.io", "leases", name),
    ]
    for kind in ("databases", "publications", "subscriptions"):
        rules += [_rule(["get", "update", "list", "watch"], _CNPG, kind), _rule(_WRITES, _CNPG, f"{kind}/status")]
    return rules
