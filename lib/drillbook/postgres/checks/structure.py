"""Structure: what a database is made of, in names and digests, read the same way on the source and on the copy.

Only what every role may read is asked, so a role with ``pg_read_all_data`` on the source and a superuser on the copy
see the same; oids, statistics, positions of sequences, passwords, connection strings and options of foreign servers
stay out. A definition is kept as a digest: evidence needs to say that it differs, not what a function's body says.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from drillbook.model import Check, Frozen, Verdict
from drillbook.postgres.checks.common import CheckFrame, counted, pinned
from drillbook.postgres.checks.yielding import Watch, patiently
from drillbook.postgres.client import Database

OF_A_DATABASE = ("integrity_structure_relations", "integrity_structure_code", "integrity_structure_grants")
_OF_THE_CLUSTER = ("integrity_structure_cluster",)
# Differences are reported in this order, the kinds that take others with them first.
_ORDER = (
    "schema",
    "extension",
    "table",
    "view",
    "materialised view",
    "foreign table",
    "index",
    "constraint",
    "function",
)
# What a drill installs, or brings up to date, on its own copy.
_OURS = frozenset({("extension", "amcheck")})


class Structure(Frozen):
    """Objects by kind and name, each with the first 16 hexadecimal digits of its definition's SHA-256."""

    objects: dict[str, dict[str, str]]

    @classmethod
    def of(cls, rows: Iterable[Mapping[str, Any]]) -> Structure:
        """The structure that rows of ``kind``, ``name`` and ``definition`` tell of."""
        objects: dict[str, dict[str, list[str]]] = {}
        for row in rows:
            named = objects.setdefault(str(row["kind"]), {})
            named.setdefault(str(row["name"]), []).append(str(row["definition"]))
        return cls(
            objects={
                kind: {name: _digest(sorted(definitions)) for name, definitions in sorted(named.items())}
                for kind, named in sorted(objects.items())
            }
        )

    @property
    def digests(self) -> dict[str, str]:
        """One digest a kind, over its names and definitions."""
        return {kind: _digest(sorted(objects.items())) for kind, objects in sorted(self.objects.items())}

    @property
    def count(self) -> int:
        """How many objects there are."""
        return sum(len(objects) for objects in self.objects.values())


def _digest(value: object) -> str:
    return hashlib.sha256(repr(value).encode()).hexdigest()[:16]


def _read(db: Database, questions: Iterable[str]) -> Structure:
    return Structure.of([row for question in questions for row in db.ask(question)])


def structure(db: Database, watch: Watch | None = None) -> Structure:
    """Schemas, relations, columns, indexes, constraints, code, types, grants, extensions … of this database.

    Reads the catalogues in one snapshot, on the source with a ``watch`` that makes it give way; raises
    ``PostgresError``.
    """

    def look() -> Structure:
        with watch.reading(db) if watch is not None else pinned(db):
            return structure_seen(db)

    return patiently(look)


def structure_seen(db: Database) -> Structure:
    """``structure`` as the open, pinned snapshot sees it; raises ``PostgresError``."""
    return _read(db, OF_A_DATABASE)


def cluster_structure(db: Database) -> Structure:
    """Roles with attributes (no passwords), memberships, settings, databases and tablespaces of the whole cluster.

    Raises ``PostgresError``.
    """
    with pinned(db):
        return _read(db, _OF_THE_CLUSTER)


def structure_equal(
    expected: Structure,
    observed: Structure,
    *,
    name: str = "structure",
    source: str = "the source",
    copy: str = "the copy",
) -> Check:
    """Compare the source's structure with the copy's; FAILED names what is missing, different or not of the source."""
    frame = CheckFrame(
        name,
        f"no object of {source} is missing, different or new",
        f"{counted(expected.count, 'object')} as on {source}",
    )
    differences: list[tuple[str, str]] = []
    for kind in sorted({*expected.objects, *observed.objects}, key=_place):
        differences += _compare(kind, expected.objects.get(kind, {}), observed.objects.get(kind, {}), source, copy)
    if differences:
        kinds = Counter(what.partition(":")[0] for what, _ in differences)
        summary = ", ".join(f"{kind} {count}" for kind, count in kinds.items())
        return frame.verdict(
            Verdict.FAILED, f"{counted(len(differences), 'difference')}: {summary}", details=differences
        )
    if not expected.count:
        return frame.verdict(Verdict.UNPROVEN, "nothing to compare", reason=f"the structure of {source} was not read")
    details: list[tuple[str, Any]] = [
        (kind, f"{len(objects)} equal, digest {expected.digests[kind]}") for kind, objects in expected.objects.items()
    ]
    return frame.verdict(Verdict.VERIFIED, f"{counted(expected.count, 'object')} equal", details=details)


def _place(kind: str) -> tuple[int, str]:
    return (_ORDER.index(kind) if kind in _ORDER else len(_ORDER), kind)


def _compare(
    kind: str, expected: Mapping[str, str], observed: Mapping[str, str], source: str, copy: str
) -> list[tuple[str, str]]:
    found = []
    for name in sorted({*expected, *observed}):
        what = f"{kind}: {name}"
        if name not in observed:
            found.append((what, f"missing on {copy}"))
        elif (kind, name) in _OURS:
            continue
        elif name not in expected:
            found.append((what, f"not on {source}"))
        elif expected[name] != observed[name]:
            found.append((what, "defined differently"))
    return found
