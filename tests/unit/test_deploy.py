"""What an operator applies: rights that can do little, SQL that a server accepts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from drillbook.steps.connections.change import POOL_RIGHTS
from drillbook.steps.preflight.old_cluster import RIGHTS

DEPLOY = Path(__file__).parents[2] / "deploy"
NAMES = {
    "SITE": "ledger",
    "SOURCE_NAMESPACE": "databases",
    "DRILL_NAMESPACE": "copies",
    "DRILLBOOK_NAMESPACE": "proof",
    "APP_NAMESPACE": "shop",
    "ARGOCD_NAMESPACE": "argocd",
    "APPLICATION": "shop-backend",
    "DRILLBOOK_IMAGE": "registry.example/drillbook:0.1.0",
}
FILES = sorted(path for path in DEPLOY.rglob("*.yaml") if path.parent.name != "monitoring")  # that is one for all sites


def objects(*paths: Path, **changes: str) -> list[dict[str, Any]]:
    # Concatenated, as the README pipes them into kubectl: a file without its separator would merge with its neighbour.
    text = "".join(path.read_text(encoding="utf-8") for path in paths)
    text = re.sub(r"\$\{(\w+)\}", lambda found: (NAMES | changes)[found[1]], text)
    return [item for item in yaml.safe_load_all(text) if item]


RECOVER = DEPLOY / "recover" / "rbac.yaml"


def rules(namespace: str = "", *, recover: bool = False) -> Iterator[dict[str, Any]]:
    """The rules of drills and backups, or of recoveries alone."""
    kind = "Role" if namespace else "ClusterRole"
    files = [RECOVER] if recover else sorted((DEPLOY / "rbac").glob("*.yaml"))
    for item in objects(*files):
        if item["kind"] == kind and item["metadata"].get("namespace", "") == namespace:
            yield from item["rules"]


def verbs(resource: str, namespace: str = "", *, recover: bool = False) -> set[str]:
    found = rules(namespace, recover=recover)
    return {verb for rule in found if resource in rule["resources"] for verb in rule["verbs"]}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(DEPLOY)))
def test_only_known_placeholders_are_left_open(path: Path) -> None:
    assert set(re.findall(r"\$\{(\w+)\}", path.read_text(encoding="utf-8"))) <= set(NAMES)


def test_the_files_can_be_applied_in_one_stream() -> None:
    paths = [DEPLOY / "namespaces.yaml", *sorted((DEPLOY / "rbac").glob("*.yaml"))]
    together = objects(*paths)
    assert len(together) == sum(len(objects(path)) for path in paths)
    assert all(item["metadata"]["name"] for item in together)


def test_no_right_is_given_by_a_wildcard() -> None:
    for item in objects(*sorted((DEPLOY / "rbac").glob("*.yaml"))):
        for rule in item.get("rules", []):
            assert "*" not in [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]


def test_every_binding_leads_to_a_role_and_to_the_one_account() -> None:
    items = objects(*sorted((DEPLOY / "rbac").glob("*.yaml")))
    roles = {(item["kind"], item["metadata"].get("namespace"), item["metadata"]["name"]) for item in items}
    for item in items:
        if item["kind"].endswith("Binding"):
            reference = item["roleRef"]
            assert (reference["kind"], item["metadata"].get("namespace"), reference["name"]) in roles
            assert item["subjects"] == [{"kind": "ServiceAccount", "name": "drillbook", "namespace": "proof"}]


def identities(*paths: Path, **changes: str) -> list[tuple[str, str, str]]:
    """Kind, namespace and name of all that is a site's own: namespaces and the one account may be shared."""
    return [
        (item["kind"], item["metadata"].get("namespace", ""), item["metadata"]["name"])
        for item in objects(*paths, **changes)
        if item["kind"] not in ("Namespace", "ServiceAccount") and "kind" in item
    ]


@pytest.mark.parametrize(
    "path", [path for path in FILES if path.name != "managed-role.yaml"], ids=lambda path: str(path.relative_to(DEPLOY))
)
@pytest.mark.parametrize(
    "changes", [{}, {"SOURCE_NAMESPACE": "others"}], ids=["in the same namespaces", "of another namespace"]
)
def test_f15_what_is_applied_for_a_second_site_takes_nothing_from_the_first(
    path: Path, changes: dict[str, str]
) -> None:
    assert not set(identities(path)) & set(identities(path, SITE="shop", **changes))


def test_f15_no_two_files_of_a_site_make_one_object_where_its_namespaces_are_one() -> None:
    places = {name: "databases" for name in NAMES if name.endswith("_NAMESPACE")}
    paths = [path for path in FILES if path.name != "managed-role.yaml" and "argocd" not in path.parts]
    found = identities(*paths, **places)
    assert len(found) == len(set(found))


def test_in_the_sources_namespace_a_drill_reads_forwards_asks_for_backups_and_nothing_else() -> None:
    allowed = {"pods/portforward": {"create"}, "backups": {"create"}}
    for rule in rules("databases"):
        changing = set(rule["verbs"]) - {"get", "list", "watch"}
        assert all(changing <= allowed.get(resource, set()) for resource in rule["resources"])
    assert not verbs("secrets", "databases")
    assert not verbs("pods/exec", "databases")


def test_a_recovery_adds_exec_and_pooler_on_the_source_and_the_applications_deployment() -> None:
    assert verbs("pods/exec", "databases", recover=True) == {"get", "create"}
    assert verbs("poolers", "databases", recover=True) == {"get", "patch"}
    assert verbs("deployments", "shop", recover=True) == {"get", "patch"}
    for namespace in ("databases", "shop"):
        granted = list(rules(namespace, recover=True))
        assert not any({"delete", "deletecollection", "*"} & set(rule["verbs"]) for rule in granted)
        assert not any("secrets" in rule["resources"] for rule in granted)
    assert not list(rules(recover=True))


def test_a_replacement_asks_beforehand_for_all_that_it_changes_and_for_nothing_that_is_not_granted() -> None:
    replace = DEPLOY / "replace" / "rbac.yaml"
    asked = {(verb, f"{kind.plural}/{sub}".rstrip("/")) for verb, kind, sub in RIGHTS}

    def granted(*files: Path) -> set[tuple[str, str]]:
        mine = [
            item for item in objects(*files) if item["kind"] == "Role" and item["metadata"]["namespace"] == "databases"
        ]
        found = [rule for item in mine for rule in item["rules"]]
        return {(verb, name) for rule in found for name in rule["resources"] for verb in rule["verbs"]}

    assert asked <= granted(replace, RECOVER, *(DEPLOY / "rbac").glob("*.yaml"))
    assert {(verb, name) for verb, name in granted(replace) if verb in ("create", "patch", "delete")} <= asked


CHANGE = DEPLOY / "change" / "rbac.yaml"


def test_k15_a_change_of_connections_is_granted_what_it_asks_for_and_nothing_more() -> None:
    granted: dict[str, set[tuple[str, str]]] = {}
    for item in objects(CHANGE):
        for rule in item.get("rules", ()):
            pairs = {(verb, name) for name in rule["resources"] for verb in rule["verbs"]}
            granted.setdefault(item["metadata"]["namespace"], set()).update(pairs)
    asked = {(verb, f"{kind.plural}/{sub}".rstrip("/")) for verb, kind, sub in POOL_RIGHTS}
    # A port-forward over WebSocket is authorised as get; newer servers ask for create.
    assert granted["shop"] == asked | {("get", "pods/portforward")}
    assert granted["databases"] == {(verb, name) for verb in ("get", "patch") for name in ("clusters", "poolers")}


def test_k15_only_pgbouncers_console_needs_exec_and_that_is_granted_by_a_file_of_its_own() -> None:
    (role,) = [item for item in objects(DEPLOY / "change" / "pooler-console.yaml") if item["kind"] == "Role"]
    assert role["rules"] == [{"apiGroups": [""], "resources": ["pods/exec"], "verbs": ["get", "create"]}]
    assert not any(
        "exec" in name for item in objects(CHANGE) for rule in item.get("rules", ()) for name in rule["resources"]
    )


def test_argo_cds_application_may_be_patched_by_its_name_only() -> None:
    (role,) = [item for item in objects(DEPLOY / "argocd" / "application.yaml") if item["kind"] == "Role"]
    (rule,) = role["rules"]
    assert rule["resourceNames"] == ["shop-backend"] and set(rule["verbs"]) == {"get", "patch"}


def test_no_secret_can_be_read_across_namespaces_or_listed_beside_the_drills() -> None:
    assert not verbs("secrets")
    assert verbs("secrets", "proof") == {"get"}


def test_no_volume_is_deleted_by_hand() -> None:
    assert "delete" not in verbs("persistentvolumeclaims", "copies")


def test_the_managed_role_can_do_nothing_but_log_in() -> None:
    (role,) = objects(DEPLOY / "sql" / "managed-role.yaml")[0]["spec"]["managed"]["roles"]
    assert role["name"] == "drillbook"
    assert role["login"] is True
    assert not any(role[right] for right in ("superuser", "createdb", "createrole", "replication", "bypassrls"))
    assert not role.get("inRoles")
