"""What an error means, by its words and by what is full; the words themselves are provoked in the library's tests."""

from __future__ import annotations

import pytest

from drillbook.connections.diagnosis import Cause, Seen, diagnose

ROLE = 'FATAL:  too many connections for role "app"'
HIKARI = "HikariPool-1 - Connection is not available, request timed out after 5002ms (total=20, active=20, idle=0, waiting=7)"
POOLED = Seen(
    through_pooler=True, pooler_expected=True, role_sessions=10, role_limit=50, sessions=20, slots=197, waiting=0
)


@pytest.mark.parametrize(
    ("text", "sqlstate", "seen", "cause"),
    [
        (ROLE, "53300", Seen(through_pooler=False), Cause.ROLE),
        (ROLE, "08P01", POOLED, Cause.ROLE),
        (f"server login has been failing, cached error: {ROLE} (server_login_retry)", "08P01", POOLED, Cause.ROLE),
        (ROLE, "53300", Seen(through_pooler=False, pooler_expected=True), Cause.NO_POOLER),
        ('too many connections for database "shop"', "53300", POOLED, Cause.DATABASE),
        ("sorry, too many clients already", "53300", POOLED, Cause.CLUSTER),
        (
            "remaining connection slots are reserved for non-replication superuser connections",
            "53300",
            POOLED,
            Cause.CLUSTER,
        ),
        (
            "remaining connection slots are reserved for roles with the SUPERUSER attribute",
            "",
            Seen(through_pooler=False, pooler_expected=True),
            Cause.NO_POOLER,
        ),
        ("no more connections allowed (max_client_conn)", "08P01", POOLED, Cause.CLIENTS),
        ("client connections exceeded (max_user_client_connections)", "08P01", POOLED, Cause.CLIENTS),
        ("query_wait_timeout", "08P01", POOLED, Cause.POOL),
        ("query_wait_timeout", "08P01", POOLED.model_copy(update={"role_sessions": 50}), Cause.ROLE),
        ("query_wait_timeout", "08P01", POOLED.model_copy(update={"sessions": 197}), Cause.CLUSTER),
        ("client_login_timeout (server down)", "08P01", POOLED, Cause.POOL),
        (HIKARI, "", POOLED, Cause.APP_POOL),
        (HIKARI, "", POOLED.model_copy(update={"waiting": 4}), Cause.POOL),
        (HIKARI, "", POOLED.model_copy(update={"role_sessions": 50}), Cause.ROLE),
        (
            HIKARI,
            "",
            Seen(through_pooler=False, pooler_expected=True, role_sessions=50, role_limit=50),
            Cause.NO_POOLER,
        ),
        ("couldn't get a connection after 5.00 sec", "", POOLED, Cause.APP_POOL),
        ("zu viele Verbindungen", "53300", POOLED, Cause.CLUSTER),
        ("zu viele Verbindungen", "53300", POOLED.model_copy(update={"role_sessions": 50}), Cause.ROLE),
        ('password authentication failed for user "app"', "28P01", POOLED, Cause.UNKNOWN),
    ],
)
def test_an_error_has_one_cause(text: str, sqlstate: str, seen: Seen, cause: Cause) -> None:
    found = diagnose(text, sqlstate, seen)
    assert found.cause is cause, found
    assert found.because and found.todo
