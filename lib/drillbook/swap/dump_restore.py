"""What transfers a database: the statements that make the new one as the old one is, and the two commands between them.

A dump holds what is inside of a database; its owner, locale, limits, privileges, settings and comment are the
cluster's, and are made here from what the copy says of itself. Pure: nothing is sent.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from drillbook.postgres.client import SQL, Composed, Identifier, Literal, by_parameters_only

# Written with quotes inside of their value: they are set by value, not by literal.
_LISTS = frozenset({"local_preload_libraries", "search_path", "session_preload_libraries", "temp_tablespaces"})
_PROVIDERS = {"c": "libc", "i": "icu", "b": "builtin"}
_PRIVILEGES = frozenset({"CONNECT", "CREATE", "TEMPORARY"})

Statement = SQL | Composed


def dump(database: str) -> list[str]:
    """The command that writes the whole database to its standard output."""
    return by_parameters_only(
        ["pg_dump", "-w", "-U", "postgres", "-d", database, "-Fc", "--compress=1", "--no-subscriptions"]
    )


def restore(database: str) -> list[str]:
    """The command that fills an empty database from its standard input, and ends at the first error."""
    return by_parameters_only(["pg_restore", "-w", "-U", "postgres", "-d", database, "--exit-on-error"])


def create(name: str, found: Mapping[str, Any]) -> list[Statement]:
    """An empty database like the one that ``cutover_database`` has found; only a superuser may enter until it is whole."""
    options: list[Statement] = [
        SQL("OWNER {}").format(Identifier(found["owner"])),
        SQL("TEMPLATE template0"),
        SQL("ENCODING {}").format(Literal(found["encoding"])),
        SQL("LC_COLLATE {}").format(Literal(found["collate"])),
        SQL("LC_CTYPE {}").format(Literal(found["ctype"])),
        SQL("TABLESPACE {}").format(Identifier(found["tablespace"])),
        SQL("CONNECTION LIMIT 0"),
    ]
    provider = _PROVIDERS.get(found["provider"] or "")
    if provider:
        options.append(SQL("LOCALE_PROVIDER {}").format(Identifier(provider)))
        if found["locale"] is not None:
            word = SQL("ICU_LOCALE {}") if provider == "icu" else SQL("BUILTIN_LOCALE {}")
            options.append(word.format(Literal(found["locale"])))
        if found["icu_rules"] is not None:
            options.append(SQL("ICU_RULES {}").format(Literal(found["icu_rules"])))
    return [SQL("CREATE DATABASE {} WITH {}").format(Identifier(name), SQL(" ").join(options))]


def empty(found: Mapping[str, Any]) -> list[Statement]:
    """In the new database: what every new one has and this one hasn't."""
    gone: list[Statement] = []
    if not found["has_plpgsql"]:
        gone.append(SQL("DROP EXTENSION IF EXISTS plpgsql"))
    if not found["has_public"]:
        gone.append(SQL("DROP SCHEMA IF EXISTS public"))
    return gone


def extensions(rows: Iterable[Mapping[str, Any]]) -> list[Statement]:
    """In the new database: extensions in their own version and by their own owner, which a dump doesn't transfer."""
    made: list[Statement] = []
    for row in rows:
        create = SQL("CREATE EXTENSION IF NOT EXISTS {} WITH SCHEMA {} VERSION {}").format(
            Identifier(row["name"]), Identifier(row["schema"]), Literal(row["version"])
        )
        if row["creator"] is None:
            made.append(create)
        else:
            made += [SQL("SET ROLE {}").format(Identifier(row["creator"])), create, SQL("RESET ROLE")]
    return made


def attributes(name: str, found: Mapping[str, Any]) -> list[Statement]:
    """Privileges, settings, labels, comment and, last of all, the connection limit that lets others in."""
    target = Identifier(name)
    made: list[Statement] = [*_privileges(target, found["owner"], found["acl"])]
    for entry in found["settings"] or ():
        for setting in entry["settings"]:
            made += _setting(target, entry["role"], *setting.split("=", 1))
    for label in found["labels"] or ():
        made.append(
            SQL("SECURITY LABEL FOR {} ON DATABASE {} IS {}").format(
                Identifier(label["provider"]), target, Literal(label["label"])
            )
        )
    made.append(SQL("COMMENT ON DATABASE {} IS {}").format(target, Literal(found["comment"])))
    if found["is_template"]:
        made.append(SQL("ALTER DATABASE {} IS_TEMPLATE true").format(target))
    made.append(SQL("ALTER DATABASE {} CONNECTION LIMIT {}").format(target, Literal(found["connection_limit"])))
    return made


def _privileges(target: Identifier, owner: str, acl: Sequence[Mapping[str, Any]] | None) -> list[Statement]:
    if acl is None:
        return []  # nothing was ever granted: the built-in defaults hold
    made: list[Statement] = [
        SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(target),
        SQL("REVOKE ALL ON DATABASE {} FROM {}").format(target, Identifier(owner)),
    ]
    for entry in acl:
        if entry["privilege"] not in _PRIVILEGES:
            raise ValueError(f"a database has no privilege {entry['privilege']!r}")
        made.append(
            SQL("GRANT {} ON DATABASE {} TO {}{}").format(
                SQL(entry["privilege"]),
                target,
                SQL("PUBLIC") if entry["role"] is None else Identifier(entry["role"]),
                SQL(" WITH GRANT OPTION") if entry["grantable"] else SQL(""),
            )
        )
    return made


def _setting(target: Identifier, role: str | None, name: str, value: str) -> list[Statement]:
    whose = (
        SQL("ALTER DATABASE {}").format(target)
        if role is None
        else SQL("ALTER ROLE {} IN DATABASE {}").format(Identifier(role), target)
    )
    # A custom parameter's name has a dot and is quoted part by part.
    quoted = Identifier(*name.split("."))
    if name.lower() not in _LISTS:
        return [SQL("{} SET {} TO {}").format(whose, quoted, Literal(value))]
    return [
        SQL("BEGIN"),
        SQL("SELECT pg_catalog.set_config({}, {}, true)").format(Literal(name), Literal(value)),
        SQL("{} SET {} FROM CURRENT").format(whose, quoted),
        SQL("COMMIT"),
    ]
