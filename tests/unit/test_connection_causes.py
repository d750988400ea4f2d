"""Why an application can't connect, from what Kubernetes and PostgreSQL say: each cause alone, and the one that hides others."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from drillbook.steps.troubleshoot.connection_causes import AppState, PoolerState, RoleState, Seen, checked, symptoms
from drillbook.steps.troubleshoot.connection_changed import refusals

NOW = datetime(2026, 11, 2, 12, tzinfo=UTC)
WELL = RoleState(may_log_in=True, databases=("orders",), login="")
DIRECT = AppState(
    deployment="shop/backend",
    variable="DATABASE_URL",
    wanted=3,
    ready=3,
    started=NOW - timedelta(days=3),
    hosts=("orders-rw.db.svc",),
    kind="Cluster",
    name="orders",
    role="rw",
    service="db/orders-rw",
    backends=1,
)
POOLED = DIRECT.model_copy(update={"kind": "Pooler", "name": "pool", "service": "db/pool", "role": ""})
POOL = PoolerState(name="pool", cluster="orders")


def seen(**changes: Any) -> Seen:
    annotations = changes.pop("annotations", {})
    status = {"phase": "Cluster in healthy state", "currentPrimary": "orders-1", "targetPrimary": "orders-1"}
    known: dict[str, Any] = {
        "now": NOW,
        "cluster": {
            "metadata": {"name": "orders", "namespace": "db", "annotations": annotations},
            "status": status | changes.pop("status", {}),
        },
        "role": "orders_app",
        "database": "orders",
        "app": DIRECT,
        "server": WELL,
    }
    return Seen(**known | changes)


def app(base: AppState = DIRECT, **changes: Any) -> AppState:
    return base.model_copy(update=changes)


def server(**changes: Any) -> RoleState:
    return WELL.model_copy(update=changes)


FAILED = 'password authentication failed for user "orders_app"'
CAUSES: dict[str, tuple[Seen, str]] = {
    "scaled": (seen(app=app(wanted=0, ready=0)), "the application runs no pod"),
    "hibernated": (seen(annotations={"cnpg.io/hibernation": "on"}), "the cluster is hibernated"),
    "fenced": (seen(annotations={"cnpg.io/fencedInstances": '["*"]'}), "the primary is fenced"),
    "fenced by name": (seen(annotations={"cnpg.io/fencedInstances": '["orders-1"]'}), "the primary is fenced"),
    "no primary": (seen(status={"currentPrimary": ""}), "the cluster has no primary"),
    "switchover": (seen(status={"targetPrimary": "orders-2"}), "the cluster has no primary"),
    "another cluster": (seen(app=app(name="orders-old", service="db/orders-old-rw")), "leads to another cluster"),
    "replicas": (seen(app=app(role="ro", service="db/orders-ro")), "the address leads to replicas"),
    "no Service": (seen(app=app(kind="outside", service="", hosts=("order-rw.db",))), "the address names no Service"),
    "nobody behind": (seen(app=app(backends=0)), "the Service has nobody behind it"),
    "pooler gone": (seen(app=POOLED, pooler=None), "the Pooler is gone"),
    "pooler paused": (seen(app=POOLED, pooler=POOL.model_copy(update={"paused": True})), "the Pooler is paused"),
    "pooler elsewhere": (
        seen(app=POOLED, pooler=POOL.model_copy(update={"cluster": "orders-old"})),
        "the Pooler is over another cluster",
    ),
    "pooler inactive": (
        seen(app=POOLED, pooler=POOL.model_copy(update={"phase": "inactive"})),
        "the Pooler serves nobody",
    ),
    "pooler without pods": (seen(app=POOLED, pooler=POOL.model_copy(update={"pods": 0})), "the Pooler serves nobody"),
    "database gone": (
        seen(server=server(allows_connections=None, may_connect=None, databases=("orders_before",))),
        "the database is not there",
    ),
    "database closed": (seen(server=server(allows_connections=False)), "the database allows no connections"),
    "role gone": (seen(server=server(may_log_in=None, may_connect=None)), "the role is not there"),
    "nologin": (seen(server=server(may_log_in=False)), "the role may not log in"),
    "valid until": (seen(server=server(expired=True)), "the role's password has expired"),
    "no right": (seen(server=server(may_connect=False)), "the role may not connect to the database"),
    "role's limit": (seen(server=server(role_limit=50, role_sessions=50)), "the role's connection limit is reached"),
    "role's limit of none": (seen(server=server(role_limit=0)), "the role's connection limit is reached"),
    "database's limit": (
        seen(server=server(database_limit=9, database_sessions=9)),
        "the database's connection limit is reached",
    ),
    "max_connections": (seen(server=server(slots=97, sessions=97)), "the server's max_connections is reached"),
    "limit, by the log": (
        seen(words=('too many connections for role "orders_app"',)),
        "a connection limit is reached",
    ),
    "full, and nobody gets in": (
        seen(server=None, unreachable="sorry, too many clients already", words=("sorry, too many clients already",)),
        "a connection limit is reached",
    ),
    "pg_hba": (
        seen(words=('no pg_hba.conf entry for host "10.0.0.7", user "orders_app", database "orders", no encryption',)),
        "pg_hba.conf refuses the application",
    ),
    "pg_hba, by the login": (
        seen(server=server(login='pg_hba.conf rejects connection for host "127.0.0.1", user "orders_app"')),
        "pg_hba.conf refuses the application",
    ),
    "rotated in the role": (seen(server=server(login=FAILED), words=(FAILED,)), "the password is not the role's"),
    "rotated in the Secret": (seen(words=(FAILED,)), "the application holds another password"),
    "certificate": (seen(expired=("Secret orders-server: until 2026-11-01",)), "a certificate has expired"),
    "another CA": (
        seen(words=("could not accept SSL connection: tlsv1 alert unknown ca",)),
        "the application does not trust the certificate",
    ),
    "a replica": (seen(words=("cannot execute INSERT in a read-only transaction",)), "an instance that is no primary"),
}


@pytest.mark.parametrize("case", CAUSES)
def test_i17_each_cause_of_a_refused_connection_is_named_with_its_evidence_and_its_fix(case: str) -> None:
    state, name = CAUSES[case]
    found = [cause for _, cause in checked(state) if cause]
    assert found and name in found[0].name, found
    assert found[0].seen and found[0].fix and symptoms(state)


@pytest.mark.parametrize(
    ("fenced", "left"), [('["*"]', None), ('["orders-1"]', None), ('["orders-2", "orders-1"]', '["orders-2"]')]
)
def test_i17_the_fence_of_the_primary_is_lifted_and_no_other(fenced: str, left: str | None) -> None:
    (cause,) = [one for _, one in checked(seen(annotations={"cnpg.io/fencedInstances": fenced})) if one]
    assert cause.patch is not None
    assert cause.patch.merge == {"metadata": {"annotations": {"cnpg.io/fencedInstances": left}}}


def test_i17_only_what_is_one_change_of_one_object_can_be_fixed_by_a_run() -> None:
    found = [next(cause for _, cause in checked(state) if cause) for state, _ in CAUSES.values()]
    kinds = {cause.name: cause.patch.kind for cause in found if cause.patch}
    assert kinds == {
        "the cluster is hibernated": "Cluster",
        "the primary is fenced": "Cluster",
        "the Pooler is paused": "Pooler",
        "the application holds another password": "Deployment",
    }
    # Pods that hold an old password start again only once a login has shown that the Secret's is right.
    (held,) = [cause for _, cause in checked(seen(server=server(login=None), words=(FAILED,))) if cause]
    assert held.patch is None


@pytest.mark.parametrize("state", [seen(), seen(app=POOLED, pooler=POOL), seen(server=server(login=None))])
def test_i17_nothing_is_found_where_the_application_is_well(state: Seen) -> None:
    assert symptoms(state) == [] and not [cause for _, cause in checked(state) if cause]


def test_i17_an_address_outside_the_cluster_or_unread_is_no_cause() -> None:
    for state in (
        seen(app=app(kind="outside", service="", hosts=("db.example.com",))),
        seen(app=app(kind="outside", service="", hosts=("10.1.2.3",))),
        seen(app=app(kind="outside", service="", hosts=(), unread="kept in a Secret")),
        seen(app=app(kind="other pods", name="", service="db/proxy")),
    ):
        assert not [cause for _, cause in checked(state) if cause]


def test_i17_what_is_broken_on_the_way_hides_what_lies_behind_it() -> None:
    both = seen(
        annotations={"cnpg.io/fencedInstances": '["*"]'}, server=None, unreachable="no answer", app=app(backends=0)
    )
    assert [cause.name for _, cause in checked(both) if cause] == [
        "the primary is fenced",
        "the Service has nobody behind it",
    ]
    closed = seen(
        server=server(allows_connections=False, login='database "orders" is not currently accepting connections')
    )
    assert [cause.name for _, cause in checked(closed) if cause] == ["the database allows no connections"]


def test_i17_what_can_not_be_explained_about_a_connection_is_said_to_be_so() -> None:
    strange = seen(app=app(ready=1))
    assert symptoms(strange) == ["1 of 3 pods of Deployment shop/backend are ready"]
    assert not [cause for _, cause in checked(strange) if cause]


def record(message: str, ts: str = "2026-11-02T12:00:00.5Z", **changes: str) -> str:
    known = {
        "user_name": "orders_app",
        "database_name": "orders",
        "connection_from": "10.0.0.7:40000",
        "error_severity": "FATAL",
        "sql_state_code": "28P01",
        "message": message,
    }
    return json.dumps({"ts": ts, "logger": "postgres", "msg": "record", "record": known | changes})


def test_i17_of_the_log_only_refusals_of_this_role_or_database_count() -> None:
    text = "\n".join(
        [
            "not json",
            json.dumps({"msg": "starting"}),
            json.dumps({"record": "text"}),
            record("too early", ts="2026-11-02T11:50:00Z"),
            record(FAILED),
            record("another's", user_name="billing", database_name="billing"),
            record("duplicate key value", sql_state_code="23505", error_severity="ERROR"),
            record("permission denied for table bills", sql_state_code="42501", error_severity="ERROR"),
            record("in a read-only transaction", sql_state_code="25006", error_severity="ERROR"),
            record("too many", sql_state_code="53300", user_name=""),
            record(FAILED),
        ]
    )
    since = NOW - timedelta(minutes=2)
    at = NOW + timedelta(seconds=0.5)
    assert refusals(text, "orders_app", "orders", since) == [(at, FAILED), (at, "too many"), (at, FAILED)]
    on_a_replica = [message for _, message in refusals(text, "orders_app", "orders", since, replica=True)]
    assert on_a_replica == [FAILED, "in a read-only transaction", "too many", FAILED]


def test_i17_only_the_newest_refusal_is_in_the_way() -> None:
    """What was refused before it is over: else a fix would bring back the cause before."""
    state = seen(server=server(login=FAILED), words=('too many connections for role "orders_app"', FAILED))
    assert [cause.name for _, cause in checked(state) if cause] == ["the password is not the role's"]
