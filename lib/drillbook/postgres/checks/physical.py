"""Physical soundness: amcheck over heaps and B-tree indexes, and what page checksums have said.

A physical backup carries the source's damage with it, and replay doesn't look: this is where it shows.
"""

from __future__ import annotations

from drillbook.errors import PostgresError
from drillbook.model import Check, Verdict
from drillbook.postgres.checks.common import CheckFrame, counted, pinned, said
from drillbook.postgres.checks.parallel import Query, Sessions, ask_each
from drillbook.postgres.client import Database


def amcheck(db: Database, sessions: Sessions | None = None) -> Check:
    """Check every heap and every valid B-tree index of this database with amcheck, the system's catalogues too.

    ``db`` is a superuser's session on a copy that may be written to: extension ``amcheck`` is created there, or brought
    to its newest version. ``sessions`` are more of them, which check side by side. Each relation has a statement, and a
    statement time limit, of its own: one that is damaged
    (SQLSTATE XX or 58, or corruption reported for a heap) makes the check FAILED and is named; one that could not be
    looked at leaves it UNPROVEN; neither hides the others. B-trees are checked against their heaps, and for uniqueness
    where the version can. Indexes of other kinds are counted, not checked.
    """
    frame = CheckFrame("amcheck", "heaps and B-tree indexes are not corrupt", "every heap and B-tree index sound")
    try:
        db.run("integrity_amcheck_install")
        with pinned(db):
            relations = db.ask("integrity_amcheck_relations")
            beyond = db.ask("integrity_amcheck_beyond")
    except PostgresError as error:
        return frame.error(error)
    damaged: dict[str, str] = {}
    unseen: dict[str, str] = {}
    checked = {"heap": 0, "index": 0}
    asked = [Query(relation["statement"], (relation["id"],), relation["pages"]) for relation in relations]
    answers = ask_each(db, asked, sessions)
    for relation, answer in zip(relations, answers, strict=True):
        name, kind = f"{relation['kind']} {relation['name']}", relation["kind"]
        if isinstance(answer, PostgresError):
            (damaged if answer.contradicts else unseen)[name] = said(answer)
            continue
        if answer is None:
            continue
        checked[kind] += 1
        if reports := [(block, message) for block, message in answer if message]:
            block, message = reports[0]
            more = f" and {len(reports) - 1} more" if len(reports) > 1 else ""
            damaged[name] = f"block {block}: {message}{more}"
    if left := answers.count(None):
        unseen[f"{counted(left, 'relation')} after it"] = "not looked at: the connection was lost"
    observed = (
        f"{counted(checked['heap'], 'heap')} and {counted(checked['index'], 'B-tree index', 'B-tree indexes')} read"
    )
    details = [*damaged.items(), *unseen.items()]
    details += [(f"not checked: {row['why']}", counted(row["indexes"], "index", "indexes")) for row in beyond]
    if damaged:
        return frame.verdict(Verdict.FAILED, f"{observed}; damaged: {', '.join(damaged)}", details=details)
    if unseen or not checked["heap"]:
        reason = "; ".join(f"{name}: {why}" for name, why in unseen.items()) or "no relation was read"
        return frame.verdict(Verdict.UNPROVEN, observed, reason=reason, details=details)
    return frame.verdict(Verdict.VERIFIED, observed, details=details)


def page_checksums(db: Database) -> Check:
    """Whether a page that was read so far, by whomever, failed its checksum; ``n/a`` where pages carry none.

    It says nothing of pages that nobody read: ask it after ``amcheck``, which reads every heap and B-tree.
    """
    frame = CheckFrame("page checksums", "no page read so far failed its checksum", "0 failures")
    try:
        row = db.ask_one("integrity_checksums")
    except PostgresError as error:
        return frame.error(error)
    if row["data_checksums"] != "on":
        return frame.verdict(
            Verdict.NOT_APPLICABLE, "", reason="the source's pages carry no checksums (data_checksums is off)"
        )
    if row["failures"]:
        return frame.verdict(Verdict.FAILED, f"{counted(row['failures'], 'failure')} in {row['databases']}")
    return frame.verdict(Verdict.VERIFIED, "0 failures")
