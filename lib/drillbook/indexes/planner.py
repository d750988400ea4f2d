"""Whether two servers plan alike: the same major version, and the same settings of everything that a planner reckons with."""

from __future__ import annotations

from drillbook.postgres.client import Database


def differences(production: Database, copy: Database) -> tuple[list[str], int]:
    """What differs between the two sessions, in words, and how many settings were compared."""
    source, other = _settings(production), _settings(copy)
    found = [
        f"{name}: {source.get(name, 'not there')} in production, {other.get(name, 'not there')} on the copy"
        for name in sorted({*source, *other})
        if source.get(name) != other.get(name)
    ]
    there, here = _major(production), _major(copy)
    if there != here:
        found.insert(0, f"PostgreSQL {there} in production, {here} on the copy")
    return found, len(source)


def _settings(db: Database) -> dict[str, str]:
    return {str(row["name"]): str(row["setting"]) for row in db.ask("planner_settings")}


def _major(db: Database) -> int:
    return int(db.ask_one("server_facts")["server_version_num"]) // 10_000
