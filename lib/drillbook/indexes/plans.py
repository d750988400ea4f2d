"""What a query's plan does, read from EXPLAIN's JSON: which indexes, how many pages and rows, and whether it sorts.

Pages and rows repeat exactly from run to run on any machine, times do not. Nothing of a condition is kept: those hold the
values that were bound.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any

from drillbook.model import Frozen

_SORTS = ("Sort", "Incremental Sort")


class Work(Frozen):
    """A plan and what it did: pages are 8 kB ones that were asked of shared buffers, each visit counted.

    ``rows`` are those that its scans read, ``removed`` those of them that a filter or recheck threw away. Milliseconds are
    the server's Execution Time over ``runs`` executions; all figures are 0 for a plan that was only shown.
    """

    shape: str
    indexes: tuple[str, ...] = ()
    sorts: bool = False
    pages: int = 0
    rows: int = 0
    removed: int = 0
    temp_pages: int = 0
    runs: int = 0
    ms: float = 0.0
    ms_low: float = 0.0
    ms_high: float = 0.0


def read(explained: Mapping[str, Any]) -> Work:
    """The one element of EXPLAIN (FORMAT JSON)'s list, with or without ANALYZE and BUFFERS."""
    root = explained["Plan"]
    nodes = list(_nodes(root))
    scans = [node for node in nodes if "Relation Name" in node]
    took = float(explained.get("Execution Time", 0.0))
    removed = sum(_removed(node) for node in scans)
    return Work(
        shape=_shape(root),
        indexes=tuple(sorted({node["Index Name"] for node in nodes if "Index Name" in node})),
        sorts=any(node["Node Type"] in _SORTS for node in nodes),
        pages=int(root.get("Shared Hit Blocks", 0)) + int(root.get("Shared Read Blocks", 0)),
        rows=removed + round(sum(node.get("Actual Rows", 0) * node.get("Actual Loops", 0) for node in scans)),
        removed=removed,
        temp_pages=int(root.get("Temp Read Blocks", 0)) + int(root.get("Temp Written Blocks", 0)),
        runs=int("Execution Time" in explained),
        ms=took,
        ms_low=took,
        ms_high=took,
    )


def timed(runs: Sequence[Work]) -> Work:
    """Several executions of one plan as one: the first's work, with median and range of all the times."""
    times = [run.ms for run in runs]
    return runs[0].model_copy(
        update={"runs": len(runs), "ms": median(times), "ms_low": min(times), "ms_high": max(times)}
    )


def times_apart(one: Work, other: Work) -> bool:
    """Whether the ranges of two plans' times do not overlap."""
    return one.ms_high < other.ms_low or other.ms_high < one.ms_low


def _nodes(node: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield node
    for child in node.get("Plans", ()):
        yield from _nodes(child)


def _removed(node: Mapping[str, Any]) -> int:
    each = node.get("Rows Removed by Filter", 0) + node.get("Rows Removed by Index Recheck", 0)
    return round(float(each * node.get("Actual Loops", 0)))


def _shape(node: Mapping[str, Any]) -> str:
    """The plan as nested names, without costs and conditions: equal shapes are the same plan."""
    named = node.get("Index Name") or node.get("Relation Name") or ""
    backward = " backward" if node.get("Scan Direction") == "Backward" else ""
    own = f"{node['Node Type']}{backward}" + (f" {named}" if named else "")
    below = ", ".join(_shape(child) for child in node.get("Plans", ()))
    return f"{own} ({below})" if below else own
