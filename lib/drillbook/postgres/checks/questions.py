"""The site's own questions: read-only SQL with an expected answer."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date, datetime
from decimal import Decimal
from typing import Any

from drillbook.errors import PostgresError
from drillbook.model import Check, Verdict
from drillbook.postgres.checks.common import CheckFrame
from drillbook.postgres.client import Database
from drillbook.profile import Question

_LONGEST_ANSWER = 80


def questions(db: Database, asked: Iterable[Question]) -> list[Check]:
    """Ask each question; a wrong answer is FAILED with both shown, an error or an answer of another shape UNPROVEN.

    An answer is one row of one column. No row, or NULL, is an answer and a wrong one. SQLSTATE XX and 58 are FAILED.
    """
    return [_ask(db, question) for question in asked]


def _ask(db: Database, question: Question) -> Check:
    frame = CheckFrame(f"question: {question.name}", "the data answers as the site expects", str(question.expect))
    try:
        rows = db.ask_text(question.sql)
    except PostgresError as error:
        return frame.error(error)
    if len(rows) > 1 or any(len(row) != 1 for row in rows):
        # More than one value might be a row of the database: it isn't shown.
        shape = f"{len(rows)} rows of {len(rows[0])} columns"
        return frame.verdict(Verdict.UNPROVEN, shape, reason="the answer to a question is one row of one column")
    if not rows:
        return frame.verdict(Verdict.FAILED, "no row")
    answer = _plain(rows[0][0])
    verdict = Verdict.VERIFIED if question.expect.met_by(answer) else Verdict.FAILED
    return frame.verdict(verdict, _shown(answer))


def _plain(answer: Any) -> Any:
    """The answer as a profile can write it: numbers, text, true and false; anything else as PostgreSQL's text."""
    if answer is None or isinstance(answer, bool | int | float | str):
        return answer
    if isinstance(answer, Decimal):
        return int(answer) if answer == answer.to_integral_value() else float(answer)
    return answer.isoformat() if isinstance(answer, date | datetime) else str(answer)


def _shown(answer: Any) -> str:
    text = "NULL" if answer is None else str(answer)
    return text if len(text) <= _LONGEST_ANSWER else f"{text[: _LONGEST_ANSWER - 1]}…"
