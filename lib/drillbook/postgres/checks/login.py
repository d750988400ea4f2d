"""The application's role can log in, with the password it has today."""

from __future__ import annotations

from drillbook.errors import PostgresError
from drillbook.model import Check, Verdict
from drillbook.postgres.checks.common import CheckFrame, said
from drillbook.postgres.client import Address, Database

# The server's refusals of this role: authentication, an unknown database, no CONNECT privilege, a closed database.
_REFUSED = {"28000", "28P01", "3D000", "42501", "55000"}


def app_login(address: Address, user: str, password: str, dbname: str) -> Check:
    """Log in as the application does and ask who we are. A refusal is FAILED; a server that isn't reached UNPROVEN."""
    frame = CheckFrame("app login", "the application could connect as it does today", f"{user} logs in to {dbname}")
    try:
        with Database.connect(address, user=user, password=password, dbname=dbname) as db:
            row = db.ask_one("integrity_login")
    except PostgresError as error:
        if error.sqlstate in _REFUSED:
            return frame.verdict(Verdict.FAILED, said(error))
        return frame.error(error)
    if (row["role"], row["database"]) != (user, dbname):
        return frame.verdict(Verdict.FAILED, f"{row['role']} in {row['database']}")
    return frame.verdict(Verdict.VERIFIED, f"{row['role']} logged in to {row['database']}")
