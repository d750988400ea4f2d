"""What the catalogues promise: constraints hold, materialised views are filled, extensions and collations fit here."""

from __future__ import annotations

from collections.abc import Callable

from drillbook.errors import PostgresError
from drillbook.model import Check, Verdict
from drillbook.postgres.checks.common import CheckFrame, counted, pinned, said
from drillbook.postgres.checks.parallel import Query, Sessions, ask_each
from drillbook.postgres.checks.sequences import sequences_ahead
from drillbook.postgres.client import Database

DATABASE_COLLATIONS = 150000
"""Since this server version a database records the version of its own collation."""
_MOST_DETAILS = 12  # of a check


def catalogue_checks(db: Database, sessions: Sessions | None = None) -> list[Check]:
    """All checks of this module, in the order below; none hides another. ``sessions`` are more of them on a copy."""
    return [constraints_hold(db, sessions), *(check(db) for check in _OTHERS)]


def constraints_hold(db: Database, sessions: Sessions | None = None) -> Check:
    """Whether every validated foreign key, check and not-null constraint of the user's tables holds for every row.

    Damage can leave rows that no statement could have written. Reads each table, once a constraint; FAILED names the
    constraints that a row breaks, never the row.
    """
    frame = CheckFrame(
        "constraints", "no row breaks a constraint that it should have met", "every validated constraint holds"
    )
    try:
        with pinned(db):
            constraints = db.ask("integrity_constraints")
    except PostgresError as error:
        return frame.error(error)
    broken: dict[str, str] = {}
    unseen: dict[str, str] = {}
    asked = [Query(constraint["statement"]) for constraint in constraints]
    answers = ask_each(db, asked, sessions, begin="integrity_doubt_constraints")
    for constraint, answer in zip(constraints, answers, strict=True):
        name = f"{constraint['kind']} {constraint['name']}"
        if isinstance(answer, PostgresError):
            (broken if answer.contradicts else unseen)[name] = said(answer)
        elif answer is None:
            unseen[name] = "not looked at: the connection was lost"
        elif answer[0][0]:
            broken[name] = "at least one row breaks it"
    count = counted(len(constraints), "constraint")
    details = [*broken.items(), *unseen.items()]
    if broken:
        return frame.verdict(Verdict.FAILED, f"{len(broken)} of {count} broken: {', '.join(broken)}", details=details)
    if unseen:
        reason = "; ".join(f"{name}: {why}" for name, why in unseen.items())
        return frame.verdict(Verdict.UNPROVEN, f"{len(unseen)} of {count} not read", reason=reason, details=details)
    if not constraints:
        return frame.verdict(Verdict.NOT_APPLICABLE, "", reason="no table has a constraint")
    return frame.verdict(Verdict.VERIFIED, f"{count} hold")


def matviews_filled(db: Database) -> Check:
    """Whether every materialised view has been filled; one that isn't answers every query with an error."""
    frame = CheckFrame("materialised views", "every materialised view can be read", "all filled")
    try:
        with pinned(db):
            views = db.ask("integrity_matviews")
    except PostgresError as error:
        return frame.error(error)
    empty = [(view["name"], "not filled") for view in views if not view["filled"]]
    if empty:
        names = ", ".join(name for name, _ in empty)
        return frame.verdict(
            Verdict.FAILED, f"{len(empty)} of {counted(len(views), 'view')} not filled: {names}", details=empty
        )
    if not views:
        return frame.verdict(Verdict.NOT_APPLICABLE, "", reason="none exists")
    return frame.verdict(Verdict.VERIFIED, f"{counted(len(views), 'view')} filled")


def extensions_fit(db: Database) -> Check:
    """Whether this server has the files of every installed extension in the very version that is installed."""
    frame = CheckFrame(
        "extensions", "the server has what the installed extensions need", "every installed version available"
    )
    try:
        with pinned(db):
            extensions = db.ask("integrity_extensions")
    except PostgresError as error:
        return frame.error(error)
    lacking = [
        (row["name"], f"{row['version']} is installed; this server has {row['on_this_server'] or 'none'}")
        for row in extensions
        if not row["here"]
    ]
    if lacking:
        names = ", ".join(name for name, _ in lacking)
        return frame.verdict(
            Verdict.FAILED, f"{counted(len(lacking), 'extension')} without files: {names}", details=lacking
        )
    return frame.verdict(
        Verdict.VERIFIED,
        f"{counted(len(extensions), 'extension')} available",
        details=[(row["name"], row["version"]) for row in extensions],
    )


def collations_fit(db: Database) -> Check:
    """Whether the collation rules here have the version that the database was built with.

    Under other rules the order of text in an index is wrong, and lookups miss rows.
    """
    frame = CheckFrame(
        "collations", "text sorts here as where the indexes were built", "recorded versions are the server's"
    )
    try:
        with pinned(db):
            collations = db.ask("integrity_collations")
            if int(db.ask_one("server_facts")["server_version_num"]) >= DATABASE_COLLATIONS:
                collations = db.ask("integrity_collations_database") + collations
    except PostgresError as error:
        return frame.error(error)
    versioned = [row for row in collations if row["recorded"] is not None]
    other = [
        (row["name"], f"recorded {row['recorded']}, here {row['actual']}")
        for row in versioned
        if row["actual"] is not None and row["recorded"] != row["actual"]
    ]
    if other:
        names = ", ".join(name for name, _ in other)
        return frame.verdict(
            Verdict.FAILED, f"{counted(len(other), 'collation')} of another version: {names}", details=other
        )
    unseen = [str(row["name"]) for row in versioned if row["actual"] is None]
    if unseen:
        reason = f"this server can't say the version of: {', '.join(unseen)}"
        return frame.verdict(
            Verdict.UNPROVEN, f"{counted(len(unseen), 'collation')} without a version here", reason=reason
        )
    if not versioned:
        return frame.verdict(Verdict.NOT_APPLICABLE, "", reason="the database's collations have no versions")
    return frame.verdict(Verdict.VERIFIED, f"{counted(len(versioned), 'collation')} of the recorded version")


def indexes_valid(db: Database) -> Check:
    """Whether every index is valid and maintained. Not required: a half-built index is production's, and no row is lost."""
    frame = CheckFrame("indexes", "no index was left half-built", "every index valid and ready")
    try:
        with pinned(db):
            broken = [(row["name"], row["state"]) for row in db.ask("integrity_invalid_indexes")]
    except PostgresError as error:
        return frame.error(error)
    verdict = Verdict.FAILED if broken else Verdict.VERIFIED
    observed = ", ".join(name for name, _ in broken) or "all valid"
    return frame.verdict(verdict, observed, details=broken).model_copy(update={"required": False})


def so_in_production_too(copy: Check, source: Check) -> Check:
    """The copy's check, VERIFIED if each of its faults is the source's as well, in the same words where versions are compared.

    A list of faults that may have been cut short excuses nothing.
    """
    by_name = copy.name in ("sequences", "materialised views")  # how far behind differs while the source goes on
    faults, known = (
        {(name if by_name else (name, words)) for name, words in check.details} for check in (copy, source)
    )
    if source.verdict is not Verdict.FAILED or not faults <= known or not 0 < len(copy.details) < _MOST_DETAILS:
        return copy
    return copy.model_copy(
        update={"verdict": Verdict.VERIFIED, "reason": "so in production too: no fault of this recovery"}
    )


CHEAP: dict[str, Callable[[Database], Check]] = {
    "materialised views": matviews_filled,
    "extensions": extensions_fit,
    "collations": collations_fit,
    "indexes": indexes_valid,
    "sequences": sequences_ahead,
}
"""What may be asked of a source in production as well, by the check's name: catalogues, and one value a sequence."""
_OTHERS: tuple[Callable[[Database], Check], ...] = (matviews_filled, extensions_fit, collations_fit, indexes_valid)
