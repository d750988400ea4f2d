"""What a table is at present, asked of the catalogues and the statistics: cheap, and with no lock that lasts."""

from __future__ import annotations

from drillbook.errors import PostgresError
from drillbook.postgres.checks.rows import DigestTable
from drillbook.postgres.client import Database


def signature(db: Database, table: DigestTable) -> str:
    """What the table and its partitions are made of, files and columns, as a digest. Raises ``PostgresError``."""
    return str(db.ask_one("integrity_signature", table=table.quoted)["signature"])


def writes_of(db: Database, name: str) -> str:
    """The counted writes of a table by its name in the profile; "" for none of that name. Raises ``PostgresError``."""
    return _of_name(db, "integrity_writes", name)


def about_bytes(db: Database, name: str) -> int:
    """How large a table was when it was last vacuumed or analysed; 0 for none of that name. Raises ``PostgresError``."""
    return int(_of_name(db, "integrity_table_pages", name) or 0)


def _of_name(db: Database, question: str, name: str) -> str:
    """The one answer of a question about a table's name in the profile; "" where that is no name at all."""
    try:
        return str(next(iter(db.ask_one(question, name=name).values())))
    except PostgresError as error:
        if db.closed or not error.sqlstate.startswith(("22", "42")):
            raise
        return ""
