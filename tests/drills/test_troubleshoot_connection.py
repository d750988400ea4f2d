"""Connections that are refused for a cause that the test has made: each is named with its evidence; a healthy lab is not the problem."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from fix_drills import ROOT, Drill, DrillLab, until

from drillbook import kube as k8s

pytestmark = pytest.mark.long
NOTEBOOK = ROOT / "runbooks" / "troubleshoot-connection-changed.ipynb"


def answer(run: Drill) -> str:
    assert run.verdict == "VERIFIED", run.said
    return str(run.record["facts"]["answer"])


def broken(run: Drill) -> list[str]:
    return [name.removeprefix("cause: ") for name, verdict in run.verdicts("cause: ").items() if verdict == "FAILED"]


class App:
    """The first tenant's application in the lab, and its role and database as the superuser changes them."""

    def __init__(self, lab: DrillLab) -> None:
        tenant = lab.site.tenants[0]
        assert tenant.application is not None
        self.lab, self.space, self.name = lab, tenant.application.namespace, tenant.application.deployment
        self.variable = tenant.application.address_variable
        self.role, self.database = tenant.app_role, tenant.database
        self.cluster = (k8s.CLUSTER, lab.site.cluster.namespace, lab.site.cluster.name)
        self.well()

    def ready(self) -> int:
        found = self.lab.admin.get(k8s.DEPLOYMENT, self.space, self.name) or {}
        return int((found.get("status") or {}).get("readyReplicas") or 0)

    def well(self) -> None:
        found = self.lab.admin.get(k8s.DEPLOYMENT, self.space, self.name) or {}
        until(lambda: self.ready() == found["spec"]["replicas"], "every pod of the application is ready")

    def ill(self) -> None:
        until(lambda: self.ready() == 0, "no pod of the application is ready")

    def sql(self, statement: str) -> str:
        return self.lab.sql("postgres", statement)

    def thrown_out(self) -> None:
        """Its sessions end; where a new one is refused, the application fails."""
        self.sql(f"select pg_terminate_backend(pid) from pg_stat_activity where usename = '{self.role}'")

    @contextmanager
    def altered(self, statement: str, back: str) -> Iterator[None]:
        self.sql(statement)
        try:
            self.thrown_out()
            self.ill()
            yield
        finally:
            self.sql(back)
            self.well()

    @contextmanager
    def patched(
        self, kind: k8s.Kind, space: str, name: str, change: dict[str, Any], back: dict[str, Any]
    ) -> Iterator[None]:
        self.lab.admin.patch(kind, space, name, change)
        try:
            yield
        finally:
            self.lab.admin.patch(kind, space, name, back)
            self.well()

    @contextmanager
    def addressed(self, host: str) -> Iterator[None]:
        """Its address names another host; the pods follow."""
        found = self.lab.admin.get(k8s.DEPLOYMENT, self.space, self.name) or {}
        template = found["spec"]["template"]["spec"]["containers"]
        other = [one | {"env": [self._env(entry, host) for entry in one["env"]]} for one in template]

        def spec(containers: list[Any]) -> dict[str, Any]:
            return {"spec": {"template": {"spec": {"containers": containers}}}}

        with self.patched(k8s.DEPLOYMENT, self.space, self.name, spec(other), spec(template)):
            yield

    def _env(self, entry: dict[str, Any], host: str) -> dict[str, Any]:
        if entry["name"] != self.variable:
            return entry
        return {"name": self.variable, "value": f"jdbc:postgresql://{host}:5432/{self.database}"}


@pytest.fixture
def app(drill_lab: DrillLab) -> App:
    return App(drill_lab)


def test_i17_a_role_that_may_not_log_in_is_the_cause_and_afterwards_nothing_is(app: App) -> None:
    with app.altered(f"alter role {app.role} nologin", f"alter role {app.role} login"):
        run = app.lab.run(NOTEBOOK)
    assert answer(run).startswith("THE ROLE MAY NOT LOG IN. "), run.said
    assert broken(run) == ["role"] and "ready" in run.check("symptom")["observed"]
    well = app.lab.run(NOTEBOOK)
    assert answer(well).startswith("NOT YOUR PROBLEM") and broken(well) == []
    assert well.check("symptom")["verdict"] == "n/a"


@pytest.mark.soak
def test_i17_a_database_that_allows_no_connections_is_the_cause(app: App) -> None:
    name = app.database
    with app.altered(f"alter database {name} allow_connections false", f"alter database {name} allow_connections true"):
        run = app.lab.run(NOTEBOOK)
    assert answer(run).startswith("THE DATABASE ALLOWS NO CONNECTIONS. ") and broken(run) == ["database"], run.said


@pytest.mark.soak
def test_i17_a_database_of_another_name_is_the_cause(app: App) -> None:
    name = app.database
    app.sql(f"alter database {name} allow_connections false")
    app.thrown_out()
    app.sql(f"select pg_terminate_backend(pid) from pg_stat_activity where datname = '{name}'")
    with app.altered(
        f"alter database {name} rename to renamed",
        f"alter database renamed rename to {name}; alter database {name} allow_connections true",
    ):
        run = app.lab.run(NOTEBOOK)
    assert answer(run).startswith("THE DATABASE IS NOT THERE. ") and "renamed" in answer(run), run.said


@pytest.mark.soak
def test_i17_a_connection_limit_that_is_reached_is_the_cause(app: App) -> None:
    before = app.sql(f"select rolconnlimit from pg_roles where rolname = '{app.role}'")
    with app.altered(f"alter role {app.role} connection limit 0", f"alter role {app.role} connection limit {before}"):
        run = app.lab.run(NOTEBOOK)
    assert answer(run).startswith("THE ROLE'S CONNECTION LIMIT IS REACHED. ") and "limits" in broken(run), run.said


@pytest.mark.soak
def test_i17_a_password_that_was_changed_in_the_role_is_the_cause(app: App) -> None:
    before = app.sql(f"select rolpassword from pg_authid where rolname = '{app.role}'")
    with app.altered(f"alter role {app.role} password 'another-one'", f"alter role {app.role} password '{before}'"):
        run = app.lab.run(NOTEBOOK)
    assert answer(run).startswith("THE PASSWORD IS NOT THE ROLE'S. ") and broken(run) == ["password"], run.said
    assert "another-one" not in run.said


@pytest.mark.soak
def test_i17_a_password_that_the_pods_have_not_read_again_is_the_cause(app: App) -> None:
    """Rotated in PostgreSQL and in the Secret that the profile knows; the pods hold the one that they began with."""
    login = app.lab.site.tenants[0].app_login
    assert login is not None
    before = app.sql(f"select rolpassword from pg_authid where rolname = '{app.role}'")
    old = app.lab.admin.secret(login.namespace, login.name)["password"]

    def password(text: str) -> dict[str, Any]:
        return {"data": {"password": base64.b64encode(text.encode()).decode()}}

    secret = app.patched(k8s.SECRET, login.namespace, login.name, password("rotated-one"), password(old))
    with (
        secret,
        app.altered(f"alter role {app.role} password 'rotated-one'", f"alter role {app.role} password '{before}'"),
    ):
        run = app.lab.run(NOTEBOOK)
        with app.lab.recovering():
            waits = app.lab.run(NOTEBOOK, fix="true")
            assert waits.code == 3 and "restartedAt" in waits.said, waits.said
            app.lab.drillbook("abandon", waits.folder.name)
    assert answer(run).startswith("THE APPLICATION HOLDS ANOTHER PASSWORD. "), run.said
    assert "the Secret's password is right" in answer(run) and broken(run) == ["password"]


@pytest.mark.soak
def test_i17_a_rule_of_pg_hba_is_the_cause(app: App) -> None:
    def rules(text: list[str] | None) -> dict[str, Any]:
        return {"spec": {"postgresql": {"pg_hba": text}}}

    reject = f"host all {app.role} all reject"
    with app.patched(*app.cluster, rules([reject]), rules(None)):
        until(
            lambda: "reject" in app.sql("select string_agg(auth_method, ',') from pg_hba_file_rules"),
            "the rule is there",
        )
        app.thrown_out()
        app.ill()
        run = app.lab.run(NOTEBOOK)
    assert answer(run).startswith("PG_HBA.CONF REFUSES THE APPLICATION. ") and broken(run) == ["pg_hba"], run.said


@pytest.mark.soak
def test_i17_a_primary_that_is_fenced_is_the_cause(app: App) -> None:
    def fence(text: str | None) -> dict[str, Any]:
        return {"metadata": {"annotations": {"cnpg.io/fencedInstances": text}}}

    with app.patched(*app.cluster, fence('["*"]'), fence(None)):
        app.ill()
        run = app.lab.run(NOTEBOOK)
        assert answer(run).startswith("THE PRIMARY IS FENCED. "), run.said
        assert run.check("after the fix")["verdict"] == "UNPROVEN", "nothing was fixed"
        with app.lab.recovering():
            fixed = app.lab.go_on(app.lab.run(NOTEBOOK, fix="true"))
        assert fixed.verdict == "VERIFIED" and fixed.check("after the fix")["verdict"] == "VERIFIED", fixed.said
        app.well()


@pytest.mark.soak
def test_i17_an_address_that_names_no_service_is_the_cause(app: App) -> None:
    with app.addressed(f"gone-rw.{app.cluster[1]}.svc"):
        run = app.lab.run(NOTEBOOK)
    assert answer(run).startswith("THE ADDRESS NAMES NO SERVICE. ") and broken(run) == ["address"], run.said


@pytest.mark.soak
def test_i17_a_pooler_that_is_paused_is_the_cause(app: App) -> None:
    pooler = app.lab.admin.create(
        {
            "apiVersion": "postgresql.cnpg.io/v1",
            "kind": "Pooler",
            "metadata": {"name": "t17-pooler", "namespace": app.cluster[1]},
            "spec": {"cluster": {"name": app.cluster[2]}, "type": "rw", "pgbouncer": {"poolMode": "transaction"}},
        }
    )
    try:
        with app.addressed(f"t17-pooler.{app.cluster[1]}.svc"):
            app.lab.admin.patch(k8s.POOLER, app.cluster[1], "t17-pooler", {"spec": {"pgbouncer": {"paused": True}}})
            run = app.lab.run(NOTEBOOK)
            with app.lab.recovering():
                fixed = app.lab.go_on(app.lab.run(NOTEBOOK, fix="true"))
    finally:
        app.lab.admin.delete(k8s.POOLER, app.cluster[1], "t17-pooler", uid=pooler["metadata"]["uid"])
    assert answer(run).startswith("THE POOLER IS PAUSED. ") and "pooler" in broken(run), run.said
    assert fixed.verdict == "VERIFIED" and fixed.check("after the fix")["verdict"] == "VERIFIED", fixed.said
