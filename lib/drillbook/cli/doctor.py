"""Is this machine, site and cluster ready for a drill, and what to do if not. Reads only."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from drillbook import archive as objectstore
from drillbook import kube as k8s
from drillbook.archive.location import open_retriever
from drillbook.engine.step import Context, NullRecorder
from drillbook.errors import ParameterError, RunbookError
from drillbook.evidence_store import open_bucket
from drillbook.manifests import cleanup
from drillbook.model import show_seconds
from drillbook.profile import Site, load_site
from drillbook.steps.archive.reading import read_archive
from drillbook.steps.finish.remains import remains
from drillbook.steps.long_term.audit import ReadLongTermBackups
from drillbook.steps.long_term.location import place
from drillbook.steps.preflight.readiness import CheckReadiness
from drillbook.steps.recovery import known_faults
from drillbook.steps.recovery.egress import ways_out

# A run keeps its journal, logs, notebook and report: megabytes. Less free space than this is a machine in trouble.
FREE_BYTES = 200 * 1024 * 1024


@dataclass(frozen=True)
class Item:
    """One thing that was looked at: ``ok`` is None where it only ought to be known."""

    what: str
    ok: bool | None
    found: str
    todo: str = ""


def examine(site: str, outputs: Path) -> Iterator[Item]:
    """Looks at machine, profile, cluster, rights, passwords and archive, in this order, and goes on where it can."""
    yield _python()
    yield _writable(outputs)
    try:
        profile = load_site(site)
    except ParameterError as error:
        yield Item("site profile", False, error.what, error.todo)
        return
    pinned = profile.identity.pinned
    yield Item("site profile", True, f"{profile.name} ({profile.environment}), digest {profile.digest[:12]}")
    yield from _evidence_store(profile)
    ctx = Context(site=profile, run_id="", mode="plan", recorder=NullRecorder(), mask=lambda secret: None)
    try:
        try:
            actor = ctx.kube.whoami()
            yield Item("API server", True, f"{actor.username}, Kubernetes {ctx.kube.server_version()}")
        except RunbookError as error:
            yield Item("API server", False, error.what, error.todo)
            return
        if not pinned:
            yield _pin(ctx)
        yield _readiness(ctx)
        yield from _operator(ctx)
        yield from _questions(ctx)
        yield from _passwords(ctx)
        yield _archive(ctx)
        yield from _copys_reach(ctx)
        yield _damages(ctx)
        yield from _long_term(ctx)
        yield _left_behind(ctx)
        yield from _on_production(ctx)
    finally:
        ctx.close()


def _python() -> Item:
    version = ".".join(str(part) for part in sys.version_info[:3])
    enough = sys.version_info >= (3, 11)
    return Item("Python", enough, version, "" if enough else "Use Python 3.11 or newer.")


def _writable(outputs: Path) -> Item:
    existing = next(folder for folder in (outputs, *outputs.resolve().parents) if folder.exists())
    try:
        with tempfile.TemporaryFile(dir=existing) as file:
            file.write(b"x")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        found = f"{outputs} can't be written ({error.strerror})"
        return Item("evidence", False, found, "Make it writable: no run begins without it.")
    free = shutil.disk_usage(existing).free
    enough = free >= FREE_BYTES
    return Item("evidence", enough, f"{outputs}, {free // 1024**2} MiB free", "" if enough else "Free some space.")


def _evidence_store(profile: Site) -> Iterator[Item]:
    """Where the profile names a bucket: whether what is put there can be locked, as it says."""
    settings = profile.evidence.archive
    if settings is None:
        return
    try:
        with open_bucket(profile) as bucket:
            usual = bucket.require_lock()
    except RunbookError as error:
        yield Item("evidence archive", False, error.what, error.todo)
        return
    by_itself = f"; the bucket's own default is {usual}" if usual else ""
    yield Item("evidence archive", True, f"{settings.location}: {settings.mode} for {settings.years} years{by_itself}")


def _pin(ctx: Context) -> Item:
    try:
        namespace = ctx.kube.get(k8s.NAMESPACE, "", "kube-system") or {"metadata": {"uid": ""}}
        system_id = ctx.cluster_object(ctx.source_ref).get("status", {}).get("systemID", "")
    except RunbookError as error:
        return Item("identity pin", None, error.what, error.todo)
    pin = f'identity: {{kube_system_uid: "{namespace["metadata"]["uid"]}", system_identifier: "{system_id}"}}'
    return Item("identity pin", None, "the profile pins no identity", f"If this is the right cluster, write {pin}")


def _readiness(ctx: Context) -> Item:
    try:
        found = CheckReadiness().do(ctx)
    except RunbookError as error:
        return Item("cluster", False, error.what, error.todo)
    return Item("cluster", True, f"{found.ref}, PostgreSQL {found.server_version // 10000}, timeline {found.timeline}")


def _operator(ctx: Context) -> Iterator[Item]:
    """Only where something is known of the operator's release."""
    try:
        primary = str(ctx.cluster_object(ctx.source_ref).get("status", {}).get("currentPrimary", ""))
        pod = ctx.kube.get(k8s.POD, ctx.source_ref.namespace, primary) if primary else None
    except RunbookError:
        return  # the readiness has said it
    known, todo = known_faults.of_operator(known_faults.operator_version(pod or {}))
    if known:
        yield Item("operator", None, known, todo)


def _questions(ctx: Context) -> Iterator[Item]:
    """What would leave a check UNPROVEN: a tenant without tables or login, SQL of the profile that this role may not run, databases nobody names.

    A query is explained, not run: that asks for the same rights and reads no row.
    """
    for tenant in ctx.site.tenants:
        asked = [("pending_events", tenant.pending_events)] if tenant.pending_events else []
        asked += [(f"question {one.name!r}", one.sql) for one in tenant.questions]
        if not tenant.digest_tables:
            todo = (
                "Name some in the profile (tenants[].digest_tables): without them the rows of this tenant are UNPROVEN."
            )
            yield Item(f"rows {tenant.database}", None, "the profile names no digest_tables", todo)
        wrong: list[str] = []
        try:
            with ctx.source(tenant.database) as db:
                for name, text in asked:
                    try:
                        db.ask_text(f"explain {text}")
                    except RunbookError as error:
                        wrong.append(f"{name}: {error.what}")
        except RunbookError as error:
            yield Item(f"SQL {tenant.database}", False, error.what, error.todo)
            continue
        if wrong:
            todo = "Grant what is missing (deploy/sql/drillbook-tenant.sql, once for each schema, public too), or correct the profile."
            yield Item(f"SQL {tenant.database}", False, "; ".join(wrong), todo)
        elif asked:
            yield Item(f"SQL {tenant.database}", True, f"{len(asked)} queries of the profile may be run")
    try:
        with ctx.source() as db:
            there = [str(row["name"]) for row in db.ask("databases") if not row["is_template"]]
    except RunbookError:
        return  # the cluster's own line has said it
    named = {tenant.database for tenant in ctx.site.tenants} | {"postgres", ctx.site.sql.database}
    if strangers := sorted(set(there) - named):
        todo = "Add them as tenants: their structure, rows and login are not checked, and their loss in a recovery is not shown by name."
        yield Item("databases", None, f"the profile does not name {', '.join(strangers)}", todo)


def _passwords(ctx: Context) -> Iterator[Item]:
    for tenant in ctx.site.tenants:
        if tenant.app_login is None:
            yield Item(f"login {tenant.database}", None, "not in the profile: the application's login is not tested")
            continue
        where = f"Secret {tenant.app_login.namespace}/{tenant.app_login.name}"
        try:
            secret = ctx.kube.secret(tenant.app_login.namespace, tenant.app_login.name)
        except RunbookError as error:
            yield Item(f"login {tenant.database}", False, error.what, error.todo)
            continue
        complete = {"username", "password"} <= set(secret)
        todo = "" if complete else "Make it a basic-auth Secret with username and password."
        yield Item(f"login {tenant.database}", complete, where if complete else f"{where} is incomplete", todo)


def _archive(ctx: Context) -> Item:
    try:
        said = (ctx.kube.get(k8s.CLUSTER, ctx.source_ref.namespace, ctx.source_ref.name) or {}).get("status", {})
        system_id = str(said.get("systemID", "")) or ctx.site.identity.system_identifier
        catalogue = objectstore.catalogue(ctx.store, ctx.archive.server_name, system_id=system_id)
    except RunbookError as error:
        return Item("archive", False, error.what, error.todo)
    if not catalogue.usable:
        return Item(
            "archive", False, f"no usable base backup of {ctx.archive.server_name}", "Take a base backup first."
        )
    newest = catalogue.usable[-1]
    age = newest.age_seconds(datetime.now(UTC))
    fresh = age <= ctx.site.freshness.backup_age.total_seconds()
    count = len(catalogue.usable)
    found = f"{count} usable base backup{'' if count == 1 else 's'}, the newest, {newest.backup_id}, is {show_seconds(age)} old"
    return Item("archive", fresh, found, "" if fresh else "Find out why the schedule made none.")


def _copys_reach(ctx: Context) -> Iterator[Item]:
    """Whether the copy's pods can reach the archive as Drillbook itself does: by network, and by who they are."""
    archive = ctx.site.archive
    if archive.reader_secret is None and archive.identity is None:
        yield Item(
            "copy's credentials",
            None,
            "archive.reader_secret is null and archive.identity says nothing: the copy can read the archive only by a "
            "role of its nodes, whatever Drillbook itself reads it by",
            "Give archive.identity (annotations or service_account), or archive.reader_secret.",
        )
    try:
        ways = ways_out(ctx.kube, ctx.site, ctx.archive)
    except RunbookError as error:
        yield Item("copy's network", None, error.what, error.todo)
        return
    said = "; ".join(f"{what}: {where}" for what, where in ways.said)
    todo = f"By port only: {', '.join(ways.wide)}. Grant the right that is named, or name the place in copy.egress."
    yield Item("copy's network", None if ways.wide else True, said, todo if ways.wide else "")


def _damages(ctx: Context) -> Item:
    """By listings and the ends of the base backups alone: the check runbook and `drillbook window` read on."""
    try:
        found = read_archive(ctx, samples=0, checked=0, read_through=0)
    except RunbookError as error:
        return Item("archive: damages", False, error.what, error.todo)
    more = "drillbook window lists each with what to do."
    if found.damages:
        count = len(found.damages)
        told = f"{count} {'damage' if count == 1 else 'damages'}, the first: {found.damages[0].what}"
        return Item("archive: damages", False, told, more)
    doubt = (*found.passing, *found.spare)
    if doubt:
        return Item("archive: damages", None, f"none, but {len(doubt)} to know of: {doubt[0].what}", more)
    return Item("archive: damages", True, "none that listings and the ends of the base backups show")


def _long_term(ctx: Context) -> Iterator[Item]:
    """Where the profile names long-term backups: what retention promises, by listings and descriptions; nothing is asked for."""
    if (section := ctx.site.long_term) is None:
        return
    try:
        with open_retriever(ctx.kube, ctx.site, place(ctx), section):
            pass  # its key is there; whether it may restore is seen by asking, behind the gate
        found = ReadLongTermBackups().do(ctx)
    except RunbookError as error:
        yield Item("long-term backups", False, error.what, error.todo)
        return
    said = f"{len(found.backups)} in {found.location}"
    if found.audit.gaps:
        gaps = ", ".join(map(str, found.audit.gaps))
        todo = f"drill-annual-archive-restore would be FAILED: find out where they went, or correct long_term.since and every ({section.every})."
        yield Item("long-term backups", None, f"{said}; none of {gaps}", todo)
    else:
        yield Item("long-term backups", True, f"{said}; one of each complete {section.every} that is owed")


def _left_behind(ctx: Context) -> Item:
    try:
        left = cleanup.left_of(ctx.kube, ctx.site.drill_namespace)
    except RunbookError as error:
        return Item("left behind", False, error.what, error.todo)
    if not left:
        return Item("left behind", True, f"nothing in {ctx.site.drill_namespace}")
    names = ", ".join(f"{item['kind']}/{item['metadata']['name']}" for item in left[:4])
    return Item("left behind", None, f"{len(left)} objects of earlier runs: {names}", "drillbook cleanup removes them.")


def _on_production(ctx: Context) -> Iterator[Item]:
    """What earlier runs, or people, have left on the source itself."""
    found = remains(ctx)
    for one in found:
        yield Item("on production", None, one.what, one.todo)
    if not found:
        yield Item("on production", True, "no database put aside or read only, no fence, no suspended schedule")
