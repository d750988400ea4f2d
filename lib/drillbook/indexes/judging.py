"""What an index is worth for a query: a class decided by plans, pages and rows, which repeat exactly; never by a time.

Times are shown as well, as a median with its range. A page counts each time it is visited, so an index scan may seem dearer
than a bitmap scan that reads the same pages once: fewer rows read outweigh that up to a factor of two.
"""

from __future__ import annotations

from enum import StrEnum

from drillbook.indexes.plans import Work

GAIN = 0.8
"""A fifth fewer pages or rows is a gain; a quarter more is a loss."""
LOSS = 1.25
PAGES = 8
"""Fewer pages than this are no gain, whatever the ratio: such a query takes microseconds either way."""
ROWS = 100


class IndexClass(StrEnum):
    """What a proposed index is worth, in the order in which it is decided."""

    CANNOT_CREATE = "cannot_create"
    UNUSABLE = "unusable"
    USED_NO_GAIN = "used_no_gain"
    HELPS = "helps"
    HELPS_BUT_COSTS_HOT = "helps_but_costs_hot"


class Reason(StrEnum):
    """Why an index can't be created, or is in no plan, or gains nothing."""

    NOT_IMMUTABLE = "function not immutable"
    PREDICATE_NOT_IMPLIED = "predicate not implied"
    COLUMN_MISSING = "column missing"
    ORDER_NOT_USABLE = "order not usable"
    PRECEDENCE = "precedence in the query"
    NOT_PREFERRED = "another plan is cheaper"
    NO_LESS_WORK = "no less work than without it"
    INVALID = "the index is INVALID"
    REFUSED = "refused by the server"


class Outcome(StrEnum):
    """What an index did for one variant of a query."""

    NOT_USED = "not used"
    NO_GAIN = "used, no gain"
    WORSE = "used, worse"
    HELPS = "helps"


def outcome(before: Work, after: Work, *, used: bool) -> Outcome:
    """What ``after`` gains over ``before``: pages, rows and the sort, each judged by its ratio and its amount."""
    if not used:
        return Outcome.NOT_USED
    fewer_pages = after.pages <= GAIN * before.pages and before.pages - after.pages >= PAGES
    fewer_rows = after.rows <= GAIN * before.rows and before.rows - after.rows >= ROWS
    more_pages = after.pages > LOSS * before.pages and after.pages - before.pages >= PAGES
    more_rows = after.rows > LOSS * before.rows and after.rows - before.rows >= ROWS
    sort_gone = before.sorts and not after.sorts and before.rows - before.removed >= ROWS
    far_more_pages = after.pages > 2 * before.pages + PAGES
    if (
        (fewer_pages and not more_rows)
        or (fewer_rows and not far_more_pages)
        or (sort_gone and not more_pages and not more_rows)
    ):
        return Outcome.HELPS
    return Outcome.WORSE if more_pages or more_rows else Outcome.NO_GAIN


def index_class(outcomes: list[Outcome]) -> IndexClass:
    """The class by what the index did for the variants of its queries, before its cost in writes is considered."""
    if Outcome.HELPS in outcomes:
        return IndexClass.HELPS
    if any(found is not Outcome.NOT_USED for found in outcomes):
        return IndexClass.USED_NO_GAIN
    return IndexClass.UNUSABLE
