"""The files of ``deploy/`` with a site's names in them; no I/O but reading those files."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from string import Template
from typing import Any

import yaml

from drillbook.archive.location import BARMAN_PLUGIN
from drillbook.cli.init.choices import Choices
from drillbook.cli.init.discovery import DatabaseFound, Found
from drillbook.errors import ParameterError

ROLE = "drillbook"


def deploy_folder(root: Path) -> Path:
    """``deploy/`` of the checkout at ``root``. ParameterError if it isn't there."""
    found = root / "deploy"
    if not (found / "rbac").is_dir():
        raise ParameterError(
            [f"there is no deploy/rbac/ in {root}"],
            where="drillbook init",
            todo="Run it in a clone of Drillbook's repository.",
        )
    return found


def manifests(paths: Sequence[Path], found: Found, choices: Choices) -> str:
    """The manifests in one stream. What belongs into the application's namespace is there once for each application's."""
    names = {
        "SITE": choices.name,
        "SOURCE_NAMESPACE": found.namespace,
        "DRILLBOOK_NAMESPACE": choices.drillbook_namespace,
        "DRILL_NAMESPACE": choices.drill_namespace,
    }
    homes = sorted({app.namespace for database in found.databases for app in database.applications[:1]})
    documents = []
    for path in paths:
        for part in path.read_text(encoding="utf-8").split("---\n"):
            if part.strip():
                places = homes if "${APP_NAMESPACE}" in part else [""]
                documents += [Template(part).substitute(names | {"APP_NAMESPACE": home}) for home in places]
    return "".join(f"---\n{document}" for document in documents)


def grants(stream: str) -> list[str]:
    """What the roles of a stream of manifests allow, a line for each rule."""
    lines = []
    for item in filter(None, yaml.safe_load_all(stream)):
        for rule in item.get("rules") or []:
            where = (
                f"in `{item['metadata']['namespace']}`" if "namespace" in item["metadata"] else "in the whole cluster"
            )
            only = f", only {', '.join(rule['resourceNames'])}" if "resourceNames" in rule else ""
            lines.append(f"{where}: {', '.join(rule['verbs'])} on {', '.join(rule['resources'])}{only}")
    return lines


def tenant_sql(database: DatabaseFound, template: str) -> str:
    """The psql script for one database: ``drillbook-tenant.sql`` once for each schema and each role that makes tables there."""
    # The first paragraph is the template's own heading.
    body = template.split("\n\n", 1)[1].strip()
    schemas = database.schemas
    lines = [
        f"-- Lets the role {ROLE} read what the profile asks of this database: {', '.join(schemas) or 'no schema'}."
    ]
    if database.unread_schemas:
        lines += [f"-- Not asked for, so not granted: {', '.join(database.unread_schemas)}."]
    lines = [line.replace("\n", " ") for line in lines]
    if not schemas:
        lines.append(f'GRANT CONNECT ON DATABASE :"DBNAME" TO {ROLE};')
    for schema, owners in schemas.items():
        for owner in owners:
            lines += ["", f"\\set schema {_psql_text(schema)}", f"\\set owner {_psql_text(owner)}", body]
    return "\n".join(lines) + "\n"


def _psql_text(value: str) -> str:
    """A value for ``\\set``: in quotes, where a backslash escapes and two quotes are one."""
    return "'" + value.replace("\\", "\\\\").replace("'", "''").replace("\n", "\\n") + "'"


def managed_entry(cluster: dict[str, Any]) -> dict[str, Any] | None:
    """The Cluster's own entry of the role, if it has one already."""
    roles = (cluster["spec"].get("managed") or {}).get("roles") or []
    return next((role for role in roles if role["name"] == ROLE), None)


def managed_patch(cluster: dict[str, Any], template: str, secret: str) -> str:
    """The JSON patch that adds the role to the Cluster's, and leaves those that are there."""
    (entry,) = yaml.safe_load(template)["spec"]["managed"]["roles"]
    entry = {**entry, "passwordSecret": {"name": secret}}
    managed = cluster["spec"].get("managed")
    patch: dict[str, Any]
    if not managed:
        patch = {"op": "add", "path": "/spec/managed", "value": {"roles": [entry]}}
    elif not managed.get("roles"):
        patch = {"op": "add", "path": "/spec/managed/roles", "value": [entry]}
    else:
        patch = {"op": "add", "path": "/spec/managed/roles/-", "value": entry}
    return json.dumps([patch], indent=2) + "\n"


def backup(found: Found, name: str) -> str:
    """A Backup by the method that the Cluster archives with."""
    plugin = {"pluginConfiguration": {"name": BARMAN_PLUGIN}} if found.archive.object_store else {}
    document = {
        "apiVersion": "postgresql.cnpg.io/v1",
        "kind": "Backup",
        "metadata": {"name": name, "namespace": found.namespace},
        "spec": {"cluster": {"name": found.name}, "method": found.archive.method, **plugin},
    }
    return yaml.safe_dump(document, sort_keys=False)


def kubeconfig(found: Found, context: str, token_file: str) -> str:
    """A kubeconfig for the ServiceAccount: the same API server, and a token that is read from a file next to it."""
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": context, "cluster": found.entry}],
        "users": [{"name": context, "user": {"tokenFile": token_file}}],
        "contexts": [{"name": context, "context": {"cluster": context, "user": context}}],
        "current-context": context,
    }
    return yaml.safe_dump(document, sort_keys=False)


def secret_keys(found: Found) -> Iterator[tuple[str, str, str]]:
    """The keys of the archive's reader, each with the Secret and key that the cluster itself uses for it."""
    credentials = found.archive.configuration.get("s3Credentials") or {}
    wanted = (
        ("AWS_ACCESS_KEY_ID", "accessKeyId"),
        ("AWS_SECRET_ACCESS_KEY", "secretAccessKey"),
        ("AWS_REGION", "region"),
    )
    for key, field in wanted:
        if field in credentials:
            yield key, credentials[field]["name"], credentials[field]["key"]
