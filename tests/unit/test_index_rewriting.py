"""What an index migration's rules make of a query and a definition, and how its claims are drawn."""

from __future__ import annotations

import re

import pytest

from drillbook.indexes import rewriting
from drillbook.indexes.judging import IndexClass, Outcome, index_class, outcome
from drillbook.indexes.plans import Work, read, times_apart
from drillbook.report import claims


def rules(index: str, query: str, *, creatable: bool = True) -> dict[str, str]:
    found = rewriting.candidates(index, query, creatable=creatable)
    return {
        item.rule: f"{re.split(' ON ', item.sql, maxsplit=1, flags=re.IGNORECASE)[1]} {item.query}".strip()
        for item in found
    }


@pytest.mark.parametrize(
    ("index", "query", "creatable", "rule", "made"),
    [
        (
            "create index i on t (a)",
            "select * from t where a = 1 or a = 2 and b = 3",
            True,
            "parenthesise the OR",
            "t (a) SELECT * FROM t WHERE (a = 1 OR a = 2) AND b = 3",
        ),
        (
            "create index i on t (a) where b > now()",
            "select * from t where a = $1",
            False,
            "drop the predicate that is not immutable",
            "t USING btree (a)",
        ),
        (
            "create index i on t (a) where b <> 'x'",
            "select * from t x where a = $1 and x.b in ('y', 'z')",
            True,
            "a predicate that the query implies",
            "t USING btree (a) WHERE b IN ('y', 'z')",
        ),
        (
            "create index i on t (a, c)",
            "select * from t where a = $1 and b = $2 order by c",
            True,
            "the missing equality column",
            "t USING btree (a, b, c)",
        ),
        (
            "create index i on t (c, a)",
            "select * from t where a = $1 order by c desc",
            True,
            "equality columns first, then sort",
            "t USING btree (a, c DESC)",
        ),
        (
            "create index i on t (c, a)",
            "select * from t where a = $1 and c between $2 and $3",
            True,
            "equality columns first, then range",
            "t USING btree (a, c)",
        ),
        (
            "create index i on t (a)",
            "select * from t where a = $1 or b = $2 order by c",
            True,
            "split the OR",
            't (a) (SELECT * FROM t WHERE a = $1) UNION ALL (SELECT * FROM t WHERE b = $2 AND a = $1 IS NOT TRUE) ORDER BY "c"',
        ),
    ],
)
def test_a14_each_rule_makes_its_candidate(index: str, query: str, creatable: bool, rule: str, made: str) -> None:
    found = rules(index, query, creatable=creatable)
    assert found[rule] == made
    assert len(found) <= rewriting.MOST


def test_a14_a_split_query_sorts_by_a_column_of_any_name_and_is_left_alone_where_nulls_have_a_place() -> None:
    query = 'select * from t where a = $1 or b = $2 order by "C ""x"" d"'
    assert rules("create index i on t (a)", query)["split the OR"].endswith('ORDER BY "C ""x"" d"')
    assert "split the OR" not in rules("create index i on t (a)", f"{query} desc nulls last")


@pytest.mark.parametrize(
    "query",
    [
        "select * from t, u where t.a = u.a",
        "select * from t join u using (a) where a = $1 order by b",
        "select * from (select * from t) x where a = $1 order by b",
    ],
)
def test_a14_a_query_of_several_tables_is_left_alone(query: str) -> None:
    assert rules("create index i on t (b)", query) == {}


@pytest.mark.parametrize(
    ("query", "mixed"),
    [
        ("select * from t where a = 1 or a = 2 and b = 3", True),
        ("select * from t where (a = 1 or a = 2) and b = 3", False),
        ("select * from t where a = 1 or (b = 2 and c = 3)", False),
        ("select * from t where a = 1 or b = 2", False),
        ("select * from t where a = 1 and b = 2 or a = 3 and b = 4", False),
    ],
)
def test_a14_precedence_is_seen_only_where_a_condition_reads_as_if_for_every_arm(query: str, mixed: bool) -> None:
    assert rewriting.precedence_is_mixed(query) is mixed


def work(pages: int = 0, rows: int = 0, *, sorts: bool = False, ms: float = 1.0) -> Work:
    return Work(shape="x", pages=pages, rows=rows, sorts=sorts, ms=ms, ms_low=ms, ms_high=ms)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (work(100, 1000), work(79, 1000), Outcome.HELPS),
        (work(100, 1000), work(81, 1000), Outcome.NO_GAIN),
        (work(10, 50), work(3, 10), Outcome.NO_GAIN),  # too little to tell
        (work(100, 1000), work(190, 200), Outcome.HELPS),  # an index scan visits a page again and again
        (work(100, 1000), work(900, 200), Outcome.WORSE),
        (work(100, 1000, sorts=True), work(110, 1000), Outcome.HELPS),
        (work(100, 1000, sorts=True), work(180, 1000), Outcome.WORSE),
        (work(100, 1000), work(100, 2000), Outcome.WORSE),
        # However fast it was: a time decides nothing.
        (work(100, 1000, ms=90), work(100, 1000, ms=1), Outcome.NO_GAIN),
    ],
)
def test_a14_an_outcome_rests_on_pages_rows_and_sorts(before: Work, after: Work, expected: Outcome) -> None:
    assert outcome(before, after, used=True) is expected
    assert outcome(before, after, used=False) is Outcome.NOT_USED


def test_a14_a_class_is_the_best_that_any_variant_shows() -> None:
    assert index_class([Outcome.NOT_USED, Outcome.HELPS, Outcome.WORSE]) is IndexClass.HELPS
    assert index_class([Outcome.NOT_USED, Outcome.WORSE]) is IndexClass.USED_NO_GAIN
    assert index_class([Outcome.NOT_USED]) is IndexClass.UNUSABLE


def test_a14_a_plan_is_read_without_its_conditions() -> None:
    scan = {
        "Node Type": "Index Scan",
        "Relation Name": "t",
        "Index Name": "i",
        "Scan Direction": "Backward",
        "Index Cond": "(a = 'secret'::text)",
        "Actual Rows": 2.5,
        "Actual Loops": 4,
        "Rows Removed by Filter": 10,
    }
    root = {"Node Type": "Sort", "Shared Hit Blocks": 7, "Shared Read Blocks": 5, "Plans": [scan]}
    found = read({"Plan": root, "Execution Time": 1.5})
    assert (found.pages, found.rows, found.removed, found.sorts, found.indexes) == (12, 50, 40, True, ("i",))
    assert found.shape == "Sort (Index Scan backward i)"
    assert "secret" not in found.model_dump_json()
    assert times_apart(work(ms=1), work(ms=2)) and not times_apart(work(ms=1), work(ms=1))


def test_a14_the_claims_are_drawn_with_a_picture_for_each_table() -> None:
    row = {
        "index": "i<1>",
        "claim": "50 % faster",
        "class": "helps_but_costs_hot",
        "why": "",
        "variant": "q",
        "measured": "100 → 10 pages",
        "pages_before": 100,
        "pages_after": 10,
        "only_limited": True,
        "used_with_all": False,
        "unstable": ["a, then b"],
        "hot": [["u", 1.0, 0.0]],
        "wal_bytes": 40.0,
        "size_bytes": 8192,
        "build_seconds": 1.5,
        "lock": "ShareLock",
        "costs_unproven": "",
        "corrected": "",
        "corrected_query": "",
        "rule": "",
    }
    never = {"class": "unproven", "pages_before": 0, "variant": "", "why": "no key", "wal_bytes": None, "lock": ""}
    data = {
        "migration": "V1",
        "server_version": "18.6",
        "rows": [row | {"table": "s.t"}, row | {"table": "s.u"}, row | {"table": "s.u"} | never],
    }
    drawn = claims.bundle(data)
    assert drawn["text/html"].count("<svg") == 2
    for part in (
        "i&lt;1&gt;",
        "50 % faster",
        "helps, costs HOT updates",
        "100 % → 0 %",
        "only with LIMIT",
        "PostgreSQL 18.6",
    ):
        assert part in drawn["text/html"], part
    assert "claimed 50 % faster; helps_but_costs_hot" in drawn["text/plain"]
