"""The files of `deploy/`, applied as they are: what the lab runs with is what a site is reported to install."""

from __future__ import annotations

import os
from pathlib import Path
from string import Template
from typing import Any

import yaml

from drillbook_lab.api.errors import Object
from drillbook_lab.errors import LabError
from drillbook_lab.site.site import LabSite

VARIABLE = "DRILLBOOK_LAB_DEPLOY"


def folder() -> Path:
    """Where `deploy/` lies: in the checkout, or where `DRILLBOOK_LAB_DEPLOY` says."""
    chosen = os.environ.get(VARIABLE)
    found = Path(chosen) if chosen else Path(__file__).resolve().parents[3] / "deploy"
    if not (found / "rbac").is_dir():
        raise LabError(
            "the deployment files are not there",
            f"no rbac/ in {found}",
            f"run the lab from a checkout, or set {VARIABLE} to its deploy/ folder",
        )
    return found


def manifests(site: LabSite) -> list[Object]:
    """Namespaces and RBAC, with the site's namespaces in the places of the placeholders."""
    root = folder()
    found = _documents(site, [root / "namespaces.yaml", *sorted((root / "rbac").glob("*.yaml"))])
    # An account before what is bound to it, a namespace before all.
    order = {"Namespace": 0, "ServiceAccount": 1}
    return sorted(found, key=lambda document: order.get(document["kind"], 2))


def recovery(site: LabSite) -> list[Object]:
    """What the recover- runbooks need next to it, and no drill may have."""
    root = folder()
    return _documents(site, [*sorted((root / "recover").glob("*.yaml")), *sorted((root / "replace").glob("*.yaml"))])


def changes(site: LabSite) -> list[Object]:
    """What change-connections and its way back need."""
    return _documents(site, sorted((folder() / "change").glob("*.yaml")))


def _documents(site: LabSite, paths: list[Path]) -> list[Object]:
    names = {
        "SITE": site.profile,
        "SOURCE_NAMESPACE": site.source_namespace,
        "DRILL_NAMESPACE": site.drill_namespace,
        "DRILLBOOK_NAMESPACE": site.drillbook_namespace,
        "APP_NAMESPACE": site.app.namespace,
    }
    found: list[Object] = []
    for path in paths:
        text = Template(path.read_text(encoding="utf-8")).substitute(names)
        found += [document for document in yaml.safe_load_all(text) if document]
    return found


def managed_role(site: LabSite) -> Object:
    """The `managed.roles` entry of the drill role, with the site's Secret."""
    document = yaml.safe_load((folder() / "sql" / "managed-role.yaml").read_text(encoding="utf-8"))
    (entry,) = document["spec"]["managed"]["roles"]
    role: dict[str, Any] = {**entry, "passwordSecret": {"name": site.sql_secret}}
    return role


def sql(name: str) -> str:
    """One of the psql scripts."""
    return (folder() / "sql" / name).read_text(encoding="utf-8")
