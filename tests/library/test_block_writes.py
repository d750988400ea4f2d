"""Writes are blocked for every role, whatever settings it has of its own; and all of them are as before afterwards."""

from __future__ import annotations

from itertools import count
from typing import Any

import psycopg
import pytest
from tests.library.fix_integrity import Server, run

from drillbook.postgres.client import SQL, Identifier, Literal
from drillbook.steps.cutover.containment import BlockWrites, put_back_body
from drillbook.swap.superuser import Superuser

NAMES = count(1)
SETTING = "default_transaction_read_only"


def settings(superuser: Superuser) -> list[dict[str, Any]]:
    rows = superuser.ask(
        "postgres",
        SQL("select setdatabase::bigint, setrole::bigint, setconfig::text as value from pg_catalog.pg_db_role_setting"),
    )
    return sorted(rows, key=str)


@pytest.mark.parametrize(
    "before",
    [
        "",
        "alter role {role} set {setting} = off",
        "alter role {role} in database {name} set {setting} = off",
        "alter role {role} in database {name} set {setting} = 'FALSE'; alter role {role} set {setting} = on",
        "alter database {name} set {setting} = off; alter role {role} in database {name} set work_mem = '8MB'",
        "alter database {name} set {setting} = 'no'; alter role {role} set {setting} = 'No'",
    ],
)
def test_s14_no_setting_of_a_role_outranks_the_block_and_each_comes_back(
    server: Server, superuser: Superuser, before: str
) -> None:
    number = next(NAMES)
    name, role = f"block{number}", f"Worker {number}"
    with server.superuser("postgres") as db:
        run(db, f"create database {name}")
        run(db, f"create role \"{role}\" login superuser password 'not a secret'")
        for one in filter(None, before.split("; ")):
            run(db, one.format(name=name, role=f'"{role}"', setting=SETTING))
        ids = {row["name"]: row["id"] for row in db.ask("database_ids")}
        own = db.ask("database_setting", database=name, name=SETTING)
        roles = db.ask("database_setting_roles", database=name, name=SETTING)
    kept = settings(superuser)

    def writes() -> bool:
        address = server.address
        with psycopg.connect(
            host=address.host, port=address.port, user=role, password="not a secret", dbname=name
        ) as db:
            try:
                db.execute("create table if not exists t (n int)")
            except psycopg.errors.ReadOnlySqlTransaction:
                return False
            return True

    assert writes()
    superuser.run("postgres", *BlockWrites(None, name)._statements())  # type: ignore[arg-type]
    assert not writes()
    with server.superuser("postgres") as db:
        strongest = {row["role"]: row["value"] for row in db.ask("database_setting_roles", database=name, name=SETTING)}
    assert set(strongest.values()) <= {"on"}
    # As the promise is made of what was read before.
    values = {"": str(own[0]["value"]) if own else ""} | {str(row["role"]): "" for row in roles}
    values |= {str(row["role"]): str(row["value"]) for row in roles if row["in_database"]}
    body = put_back_body(int(ids[name]), {**values, "gone since": "off"})
    superuser.run(
        "postgres", SQL("alter database {} rename to {}").format(Identifier(name), Identifier(f"{name}_before"))
    )
    superuser.run("postgres", SQL("do {}").format(Literal(body)))
    assert settings(superuser) == kept
