"""The profile's text: what was found, with comments on what to check."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import yaml

from drillbook.archive.location import PLUGIN
from drillbook.cli.init.applications import ApplicationFound
from drillbook.cli.init.choices import Choices
from drillbook.cli.init.discovery import DRILL_DATABASE, LARGEST_TABLE_BYTES, DatabaseFound, Found
from drillbook.model import ClusterRef
from drillbook.profile import show_duration

Values = dict[str, Any]
_WIDTH = 110

CAVEATS = [
    "Times are technical recovery times of a copy on this cluster's own hardware; people, approvals and the application's restart are not in them.",
    "The copy is in the same Kubernetes cluster as the source; losing the whole site is not rehearsed by it.",
]


def text(found: Found, choices: Choices, *, kubeconfig: str, context: str) -> str:
    """The whole profile; ``kubeconfig`` is relative to the profile's folder."""
    source = ClusterRef(namespace=found.namespace, name=found.name)
    parts = [
        _comment(f"Written by drillbook init from Cluster {source}. Lines that begin with CHECK want a person's eye."),
        _part({"name": choices.name, "environment": choices.environment}),
        _part({"caveats": CAVEATS}, "Printed in every report, as they are."),
        _part(
            {"kubernetes": {"kubeconfig": kubeconfig, "context": context}},
            "The ServiceAccount's own kubeconfig, next to this file. In a pod take this section out: the pod's account is used.",
        ),
        _part({"cluster": {"namespace": found.namespace, "name": found.name}}),
        _part(
            {
                "identity": {
                    "kube_system_uid": found.kube_system_uid,
                    "system_identifier": str(found.cluster["status"].get("systemID", "")),
                }
            },
            "The pin: a run begins only if this very cluster answers.",
        ),
        _part({"drillbook_namespace": choices.drillbook_namespace, "drill_namespace": choices.drill_namespace}),
        _archive(found, choices),
        _part(
            {
                "sql": {
                    "database": DRILL_DATABASE,
                    "role": "drillbook",
                    "secret": {"namespace": choices.drillbook_namespace, "name": choices.sql_secret},
                }
            },
        ),
        _part(
            {
                "objectives": {
                    "recovery_time": choices.recovery_time,
                    "recovery_point": choices.recovery_point,
                    "point_in_time_recovery": choices.point_in_time_recovery,
                    "enforce": False,
                }
            },
            "CHECK what was promised; with enforce: true a missed objective fails the run.",
        ),
        _freshness(found),
        _part(
            {"copy": {"storage_class": found.copy_class}},
            f"The source's StorageClass {found.storage_class or '(the default)'} "
            + (f"keeps volumes, so copies use {found.copy_class}." if found.copy_class else "is used for copies too."),
        ),
        _replacement(found),
        _tenants(found, choices),
    ]
    if found.notes:
        parts.append("\n".join(_comment(f"CHECK {note}").rstrip("\n") for note in found.notes) + "\n")
    return "\n".join(parts)


def _comment(sentence: str, indent: str = "") -> str:
    return "".join(
        f"{indent}# {line}\n"
        for line in textwrap.wrap(sentence, _WIDTH, break_long_words=False, break_on_hyphens=False)
    )


def _part(values: Values, *comments: str) -> str:
    dumped = yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=_WIDTH, default_flow_style=False)
    return "".join(map(_comment, comments)) + dumped


def _archive(found: Found, choices: Choices) -> str:
    configuration = found.archive.configuration
    keys = configuration.get("s3Credentials") or {}
    values: Values = {
        "reader_secret": {"name": choices.reader_secret} | ({"region": "AWS_REGION"} if "region" in keys else {})
    }
    comments = [
        f"WAL and base backups go to {found.archive.location} ({found.archive.method}). The key must be read-only, "
        "and not the cluster's own."
    ]
    if "accessKeyId" not in keys:
        template = (found.cluster["spec"].get("serviceAccountTemplate") or {}).get("metadata") or {}
        annotations = template.get("annotations") or {}
        values = {"reader_secret": None} | ({"identity": {"annotations": annotations}} if annotations else {})
        comments = [
            f"WAL and base backups go to {found.archive.location} ({found.archive.method}) by a workload's identity. CHECK that "
            "copies and this machine may read by one, too: the role should be read-only (archive.identity)."
        ]
    endpoint = configuration.get("endpointURL", "")
    comments.append(
        f"The store's address is {endpoint or 'the one of AWS'}: CHECK that it is reached from here, else give endpoint_url."
    )
    if found.archive.method == PLUGIN:
        values["object_store"] = found.archive.object_store
    else:
        values["destination"] = configuration["destinationPath"]
        if "accessKeyId" in keys:
            names = {"access_key_id": keys["accessKeyId"]["key"], "secret_access_key": keys["secretAccessKey"]["key"]}
            values["writer_secret"] = {"name": keys["accessKeyId"]["name"], **names}
    return _part({"archive": values}, *comments)


def _freshness(found: Found) -> str:
    lag = max(timedelta(minutes=10), timedelta(seconds=2 * found.archive_timeout_seconds))
    schedules = f"ScheduledBackups: {', '.join(found.schedules)}" if found.schedules else "there is no ScheduledBackup"
    timeout = (
        f"{found.archive_timeout_seconds} s"
        if found.archive_timeout_seconds
        else "off, so a quiet cluster archives nothing for long"
    )
    return _part(
        {"freshness": {"backup_age": "24h", "archive_lag": show_duration(lag)}},
        f"How old the newest base backup and the newest archived WAL may be. CHECK backup_age: {schedules}. archive_timeout is {timeout}.",
    )


def _replacement(found: Found) -> str:
    spec = found.cluster["spec"]
    storage = spec.get("storage") or {}
    claimed = ((storage.get("pvcTemplate") or {}).get("resources") or {}).get("requests") or {}
    values = {
        "instances": int(spec.get("instances", 1)),
        "storage_size": str(storage.get("size") or claimed.get("storage") or ""),
        "storage_class": found.storage_class,
    }
    return _part(
        {"replacement": values}, "Should the Cluster object itself be lost: what to make again of the archive."
    )


def _tenants(found: Found, choices: Choices) -> str:
    lines = "tenants:\n"
    for database in found.databases:
        values: Values = {"database": database.name, "app_role": database.owner}
        comments = list(_remarks(database))
        if database.login:
            values["app_login"] = {
                "namespace": choices.drillbook_namespace,
                "name": choices.login_secret(database.name),
            }
        if database.applications:
            values["application"] = _application(database.applications[0])
        if database.events is not None:
            values["pending_events"] = f"select count(*) from {database.events.name} where completion_date is null"  # noqa: S608 - the server quoted the name
        values["digest_tables"] = [table.name for table in database.digest_tables]
        dumped = yaml.safe_dump([values], sort_keys=False, allow_unicode=True, width=_WIDTH)
        lines += "".join(_comment(remark, "  ") for remark in comments) + textwrap.indent(dumped, "  ")
    return lines


def _application(app: ApplicationFound) -> Values:
    values: Values = {"namespace": app.namespace, "deployment": app.deployment}
    values |= {"port": app.port} if app.port else {}
    values |= {"health_path": app.health_path} if app.health_path else {}
    values |= {"address_variable": app.variables[0]}
    return values | ({"pooler": app.pooler} if app.pooler else {})


def _remarks(database: DatabaseFound) -> Iterator[str]:
    mib = database.size_bytes / 1024**2
    digested = database.digest_tables
    yield f"{database.name}: {mib:,.0f} MiB, {len(database.tables)} tables and views. CHECK digest_tables, and add questions of your own."
    if not digested:
        yield (
            f"CHECK there is no ordinary table with a primary key below {LARGEST_TABLE_BYTES // 1024**2} MiB: "
            "without digest_tables the rows of this tenant are UNPROVEN."
        )
    if not database.login:
        yield f"CHECK no Secret with the password of {database.owner} was found: give app_login, or the login is not tested."
    if not database.applications:
        yield "No Deployment was found that uses it: recoveries of this tenant need application."
    for app in database.applications[:1]:
        if not app.health_path:
            yield f"CHECK {app.deployment} has no readiness probe by HTTP: its health_path is a guess (/health)."
        for other in app.variables[1:]:
            yield f"CHECK {app.deployment} is also given the address in {other}."
        if app.service.endswith(("-ro", "-r")):
            yield f"CHECK {app.deployment} uses {app.service}, which only reads: the application that writes was not found."
    for app in database.applications[1:]:
        yield f"CHECK Deployment {app.namespace}/{app.deployment} uses it too (by {app.service}); a profile has one application a tenant."
