"""The migration that a run is about: the runbook's parameter, else what the profile names."""

from __future__ import annotations

from dataclasses import dataclass

from drillbook.engine.step import Context, Step
from drillbook.errors import ParameterError
from drillbook.evidence.facts import Facts
from drillbook.indexes.migration import Migration, load_migration


@dataclass(frozen=True)
class ReadMigration(Step[Migration]):
    """Read the index migration: what it makes, for which queries, and what is claimed.

    A YAML file with queries and claims, or a plain SQL file. Nothing is asked of a server yet: what a definition is in
    the end, only a catalogue says.
    """

    migration: str = ""

    def do(self, ctx: Context) -> Migration:
        path = self.migration or ctx.site.index_migration
        if not path:
            raise ParameterError(
                ["migration: none is given, and the profile names none (index_migration)"],
                where="index migration",
                todo="Give the path of a YAML or SQL file as the parameter `migration`.",
            )
        migration = load_migration(path)
        known = [tenant.database for tenant in ctx.site.tenants]
        database = migration.database or known[0]
        if database not in known:
            raise ParameterError(
                [f"database: {database!r} is no tenant's of the profile ({', '.join(known)})"],
                where=f"index migration {migration.name}",
            )
        migration = migration.model_copy(update={"database": database})
        shown = {
            "name": migration.name,
            "database": database,
            "indexes": len(migration.indexes),
            "queries": len(migration.queries),
            "sha256": migration.digest,
        }
        ctx.recorder.note(Facts(index_migration=shown))
        return migration


__all__ = ["ReadMigration"]
