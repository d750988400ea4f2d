"""What a cut notes of the service before it, and an undo without that run's evidence puts back: on a real API."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError
from tests.lab.fix_apiserver import Api
from tests.library.fix_integrity import Server, run

import drillbook_lab
from drillbook import kube as k8s
from drillbook.engine import undo as restoring
from drillbook.engine.observations import Observations
from drillbook.engine.step import Context, Obligation
from drillbook.evidence import Masker
from drillbook.kube import Kube
from drillbook.kube.reconcilers import TRACKING, reconcilers_on
from drillbook.model import ClusterRef
from drillbook.postgres.client import SQL, Identifier, Literal
from drillbook.profile import load_site
from drillbook.steps.cutover.containment import BlockWrites, put_back_body, writes_again
from drillbook.steps.cutover.drain import BLOCKED, DrainApplication, before_the_cut, promises_of_the_cut
from drillbook.steps.cutover.swap_check import AppFits
from drillbook.steps.preflight.readiness import SourceCluster
from drillbook.swap import rename
from drillbook.swap.names import Before, Names, RetainedDatabase
from drillbook.swap.superuser import Superuser

PROFILE = """\
name: shop
environment: test
kubernetes: {{kubeconfig: {kubeconfig}, context: lab-admin}}
cluster: {{namespace: default, name: shop-db}}
tenants:
  - database: shop
    app_role: shop_app
    application: {{namespace: default, deployment: {name}, pooler: {name}}}
"""
NUMBERS = count(1)
RUN = "20261101T101500Z-1a2b3c"
CRDS = Path(drillbook_lab.__file__).parent / "crds"
SYNCS = {"automated": {"selfHeal": True, "prune": False}}


class Service:
    """An application with its Pooler and the Argo CD Application that holds it; contexts of several runs on it."""

    def __init__(self, api: Api, kube: Kube, folder: Path) -> None:
        self.api, self.kube, self.folder, self.name = api, kube, folder, f"drained{next(NUMBERS)}"
        self.opened: list[Context] = []
        api.registry.register_crd(yaml.safe_load((CRDS / "optional" / "application.yaml").read_text(encoding="utf-8")))
        if kube.get(k8s.NAMESPACE, "", "argocd") is None:
            kube.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "argocd"}})
        labels, tracked = {"app": self.name}, {TRACKING: f"{self.name}:apps/Deployment:default/{self.name}"}
        place = {"name": self.name, "namespace": "default"}
        kube.create(
            {
                "apiVersion": "apps/v1",
                "kind": "Deployment",
                "metadata": place | {"annotations": tracked},
                "spec": {
                    "replicas": 3,
                    "selector": {"matchLabels": labels},
                    "template": {
                        "metadata": {"labels": labels},
                        "spec": {"containers": [{"name": "main", "image": "x"}]},
                    },
                },
            }
        )
        kube.create(
            {
                "apiVersion": "postgresql.cnpg.io/v1",
                "kind": "Pooler",
                "metadata": place,
                "spec": {
                    "cluster": {"name": "shop-db"},
                    "instances": 1,
                    "type": "rw",
                    "pgbouncer": {"poolMode": "session"},
                },
            }
        )
        kube.create(
            {
                "apiVersion": k8s.APPLICATION.api_version,
                "kind": "Application",
                "metadata": {"name": self.name, "namespace": "argocd"},
                "spec": {
                    "project": "default",
                    "syncPolicy": SYNCS,
                    "source": {"repoURL": "https://git.example/shop"},
                    "destination": {"server": "https://kubernetes.default.svc", "namespace": "default"},
                },
            }
        )
        self.cluster = SourceCluster.model_construct(ref=ClusterRef(namespace="default", name="shop-db"))

    def context(self) -> Context:
        """Its own run: it knows nothing of another one's evidence."""
        path = self.folder / f"{self.name}.yaml"
        path.write_text(PROFILE.format(kubeconfig=self.api.kubeconfig, name=self.name), encoding="utf-8")
        home = self.folder / f"run{len(self.opened)}"
        home.mkdir()
        seen = Observations(home, Masker())
        made = Context(site=load_site(path), run_id=RUN, mode="apply", recorder=seen, mask=seen.masker.add)
        self.opened.append(made)
        return made

    def fits(self, before: Before | None = None) -> AppFits:
        reconcilers = reconcilers_on(self.kube, self.kube.get(k8s.DEPLOYMENT, "default", self.name) or {})
        return AppFits(names=Names.of("shop", RUN), app_role="shop_app", reconcilers=tuple(reconcilers), before=before)

    def spec(self, kind: k8s.Kind) -> Any:
        return (self.kube.get(kind, "argocd" if kind is k8s.APPLICATION else "default", self.name) or {})["spec"]

    def state(self) -> tuple[Any, ...]:
        return (
            self.spec(k8s.DEPLOYMENT)["replicas"],
            self.spec(k8s.POOLER)["pgbouncer"].get("paused"),
            (self.spec(k8s.APPLICATION)["syncPolicy"] or {}).get("automated"),
        )

    def drain(self, ctx: Context) -> AppFits:
        """What the step changes, in its order; nobody is connected here."""
        fits, step = self.fits(), DrainApplication(self.cluster, self.fits())
        for touch in step.plan(ctx).touches:
            step._change(ctx, touch)
        return fits


@pytest.fixture
def service(api: Api, kube: Kube, tmp_path: Path) -> Iterator[Service]:
    made = Service(api, kube, tmp_path)
    yield made
    for ctx in made.opened:
        ctx.close()


def told(before: Before) -> Before:
    """The note as it comes back from a database's comment."""
    said = rename.note(RUN, "x", "me", datetime(2026, 11, 15, tzinfo=UTC), before) | {
        "lsn": "0/1",
        "at": "2026-11-01T10:15:00Z",
    }
    kept = RetainedDatabase.read(json.dumps({"drillbook": said}))
    assert kept is not None and kept.before is not None
    return kept.before


def test_s10_an_undo_on_another_machine_puts_back_what_the_stopped_run_drained(service: Service) -> None:
    before = service.state()
    stopped = service.context()
    fits = service.drain(stopped)
    assert service.state() == (0, True, None)
    noted = told(before_the_cut(stopped, fits, service.cluster))
    undo = service.context()
    step = DrainApplication(service.cluster, service.fits(noted))
    for touch in step.plan(undo).touches:  # it is drained already: nothing of it is this run's
        step._change(undo, touch)
    assert not undo.recorder.promises()
    for promise in promises_of_the_cut(undo, service.fits(noted), service.cluster):
        restoring.restore(undo, promise)
    assert service.state() == before


@pytest.mark.parametrize(
    ("kind", "patch"),
    [
        (k8s.DEPLOYMENT, {"spec": {"replicas": 7}}),
        (k8s.POOLER, {"spec": {"pgbouncer": {"paused": False}}}),
        (k8s.APPLICATION, {"spec": {"syncPolicy": {"automated": {"prune": True}}}}),
    ],
)
def test_s10_what_somebody_has_changed_since_is_left_as_it_is(
    service: Service, kind: k8s.Kind, patch: dict[str, Any]
) -> None:
    stopped = service.context()
    noted = told(before_the_cut(stopped, service.drain(stopped), service.cluster))
    service.kube.patch(kind, "argocd" if kind is k8s.APPLICATION else "default", service.name, patch)
    left = service.spec(kind)
    undo = service.context()
    for promise in promises_of_the_cut(undo, service.fits(noted), service.cluster):
        restoring.restore(undo, promise)
    assert service.spec(kind) == left


def test_s10_what_the_undo_has_drained_itself_is_its_own(service: Service) -> None:
    """Weeks after a recovery that ended, the application has another size: that one comes back."""
    first = service.context()
    noted = told(before_the_cut(first, service.drain(first), service.cluster))
    for promise in first.recorder.promises():
        restoring.restore(first, promise)
    service.kube.patch(k8s.DEPLOYMENT, "default", service.name, {"spec": {"replicas": 5}})
    undo = service.context()
    service.drain(undo)
    assert promises_of_the_cut(undo, service.fits(noted), service.cluster) == []
    for promise in undo.recorder.promises():
        restoring.restore(undo, promise)
    assert service.state() == (5, False, SYNCS["automated"])


def test_s10_an_application_that_was_at_zero_before_stays_there(service: Service) -> None:
    service.kube.patch(k8s.DEPLOYMENT, "default", service.name, {"spec": {"replicas": 0}})
    stopped = service.context()
    noted = told(before_the_cut(stopped, service.drain(stopped), service.cluster))
    assert noted.replicas == 0
    undo = service.context()
    assert {item.kind for item in promises_of_the_cut(undo, service.fits(noted), service.cluster)} == {
        "Pooler",
        "Application",
    }


@pytest.mark.parametrize(
    "said",
    [
        {"replicas": -1},
        {"replicas": 10**9},
        {"replicas": 1, "writes": {"": "on'; drop database shop; --"}},
        {"replicas": 1, "synced": [{"namespace": "argocd", "name": "shop", "automated": {"prune": "$(id)"}}]},
        {"replicas": 1, "sql": "drop database shop"},
    ],
)
def test_s10_a_comment_holds_values_and_never_a_statement(said: dict[str, Any]) -> None:
    """Who owns the database can write its comment; an undo acts as superuser."""
    with pytest.raises(ValidationError):
        Before.model_validate(said)


@pytest.mark.parametrize(
    "before",
    ["", "alter database {name} set {setting} = off", "alter role {role} in database {name} set {setting} = 'Of'"],
)
def test_s10_a_database_that_the_stopped_run_left_read_only_takes_writes_again(
    service: Service, server: Server, superuser: Superuser, before: str
) -> None:
    name, role, setting = f"left{next(NUMBERS)}", f"left_role{next(NUMBERS)}", "default_transaction_read_only"
    with server.superuser("postgres") as db:
        run(db, f"create database {name}")
        run(db, f"create role {role}")
        if before:
            run(db, before.format(name=name, role=role, setting=setting))
        ids = {row["name"]: int(row["id"]) for row in db.ask("database_ids")}
        own = db.ask("database_setting", database=name, name=setting)
        roles = db.ask("database_setting_roles", database=name, name=setting)
    values = {"": str(own[0]["value"]) if own else ""} | {
        str(row["role"]): str(row["value"])
        if row["in_database"]
        else ""  # other tests leave roles with a value everywhere
        for row in roles
    }
    asked = SQL(
        "select setrole::bigint, setconfig::text as value from pg_catalog.pg_db_role_setting where setdatabase = {}"
    ).format(Literal(ids[name]))
    kept = sorted(map(str, superuser.ask("postgres", asked)))
    superuser.run("postgres", *BlockWrites(None, name)._statements())  # type: ignore[arg-type]
    stopped = service.context()
    undo = {
        "verb": "sql",
        "kind": "Cluster",
        "namespace": "default",
        "name": "shop-db",
        "sql": put_back_body(ids[name], values),
        BLOCKED: values,
    }
    stopped.recorder.obligation(Obligation("Writes", "default", "shop-db.shop", "let it take writes again", undo=undo))
    noted = told(before_the_cut(stopped, service.fits(), service.cluster))
    superuser.run(
        "postgres", SQL("alter database {} rename to {}").format(Identifier(name), Identifier(f"{name}_before"))
    )
    superuser.run("postgres", *writes_again(ids[name], noted.writes))
    assert sorted(map(str, superuser.ask("postgres", asked))) == kept
