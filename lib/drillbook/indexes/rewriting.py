"""Queries and index definitions taken apart and put together again by an enumerated list of rules.

Each rule says what it changes; what the change is worth is measured like everything else. A query of more than one table
is left alone: no rule says then which condition belongs to which index. Works on the grammar's own tree.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import postgast
from postgast import pg_query_pb2 as grammar

from drillbook.postgres.client import Identifier

MOST = 5
"""Candidates a query."""

SPLIT = "split the OR"
_EQUAL, _RANGE = ("=",), ("<", "<=", ">", ">=")


@dataclass(frozen=True)
class Candidate:
    """A corrected definition or query: the rule that made it, the CREATE INDEX, and the query if that is what changed."""

    rule: str
    sql: str
    query: str = ""


def condition_added(query: str, condition: str) -> str:
    """The SELECT with one more condition, ANDed to those that it has."""
    tree = postgast.parse(query)
    select = tree.stmts[0].stmt.select_stmt
    added = postgast.parse(f"SELECT WHERE {condition}").stmts[0].stmt.select_stmt.where_clause
    _and_to(select, added)
    return str(postgast.deparse(tree))


def update_of(sql: str, table_oid: int, tids: Sequence[str]) -> str:
    """The UPDATE restricted to the rows of one table (or partition) whose ctid is in ``tids``."""
    tree = postgast.parse(sql)
    update = tree.stmts[0].stmt.update_stmt
    target = (update.relation.alias.aliasname or update.relation.relname).replace('"', '""')
    listed = "{" + ",".join(f'"{tid}"' for tid in tids) + "}"
    clause = f'SELECT WHERE "{target}".ctid = ANY (\'{listed}\'::tid[]) AND "{target}".tableoid = {table_oid}'
    _and_to(update, postgast.parse(clause).stmts[0].stmt.select_stmt.where_clause)
    return str(postgast.deparse(tree))


def condition_of(update: str) -> str:
    """The WHERE of an UPDATE of one table as SQL, "" if it has none or one that needs the tables of its FROM."""
    statement = postgast.parse(update).stmts[0].stmt.update_stmt
    if not statement.HasField("where_clause") or statement.from_clause:
        return ""
    tree = postgast.parse("SELECT WHERE true")
    tree.stmts[0].stmt.select_stmt.where_clause.CopyFrom(_unqualified(statement.where_clause))
    return str(postgast.deparse(tree)).partition("WHERE ")[2]


def precedence_is_mixed(query: str) -> bool:
    """Whether AND binds an arm of the query's outermost OR to a condition that reads as if it were for every arm."""
    return _hoisted(postgast.parse(query).stmts[0].stmt.select_stmt) is not None


def candidates(index: str, query: str, *, creatable: bool) -> tuple[Candidate, ...]:
    """What may correct ``index`` for ``query``, at most five, each other than what is written."""
    shape = _read(query)
    if shape is None:
        return ()
    written = postgast.parse(index)
    node = written.stmts[0].stmt.index_stmt
    partial = node.HasField("where_clause")
    found: list[Candidate] = []
    meant = grouped(query)
    if meant and creatable:
        found.append(Candidate("parenthesise the OR", index, meant))
    if partial and not creatable:
        found.append(Candidate("drop the predicate that is not immutable", _index(index, where=None)))
    basis = shape
    rewritten = ""
    if meant:
        # What an index is to serve is then the query as it was meant.
        basis, rewritten = _read(meant) or shape, meant
    constants = basis.constants
    if partial:
        rule = "a predicate that the query implies" if constants else "no predicate, as the query implies none"
        found.append(Candidate(rule, _index(index, where=constants or None), rewritten))
    missing = [column for column in basis.equal if column not in _columns(node)]
    if missing:
        keys = [*_leading(node, basis.equal), *missing, *_others(node, [*basis.equal])]
        found.append(Candidate("the missing equality column", _index(index, keys=keys), rewritten))
    for rule, following in (("sort", basis.sort), ("range", basis.ranges)):
        ordered: list[Any] = [*basis.equal, *following]
        if following:
            where = (constants or None) if partial else _KEEP
            rule = f"equality columns first, then {rule}"
            found.append(Candidate(rule, _index(index, keys=ordered, where=where), rewritten))
    split = _split(query)
    if split and creatable:
        found.append(Candidate(SPLIT, index, split))
    as_written = (str(postgast.deparse(written)), "")
    distinct: dict[tuple[str, str], Candidate] = {}
    for candidate in found:
        key = (str(postgast.deparse(postgast.parse(candidate.sql))), candidate.query)
        if key != as_written:
            distinct.setdefault(key, candidate)
    return tuple(distinct.values())[:MOST]


def functions_in(index: str) -> tuple[str, ...]:
    """The names of the functions that a CREATE INDEX calls, CURRENT_DATE and its like as the functions that they are."""
    node = postgast.parse(index).stmts[0].stmt
    named = [item.funcname[-1].string.sval for _, item in postgast.walk(node) if isinstance(item, grammar.FuncCall)]
    values = ["now" for _, item in postgast.walk(node) if isinstance(item, grammar.SQLValueFunction)]
    return tuple(dict.fromkeys([*named, *values]))


def sort_columns(query: str) -> tuple[str, ...]:
    """The columns of the query's ORDER BY."""
    select = postgast.parse(query).stmts[0].stmt.select_stmt
    return tuple(name for item in select.sort_clause if (name := _column(item.sort_by.node)))


def restricted(query: str, columns: Sequence[str]) -> bool:
    """Whether the query's WHERE says anything about one of the columns."""
    where = postgast.parse(query).stmts[0].stmt.select_stmt.where_clause
    return bool(set(_columns_in(where)) & set(columns))


def retargeted(index: str, table: Sequence[str]) -> str:
    """The CREATE INDEX for another table."""
    tree = postgast.parse(index)
    relation = tree.stmts[0].stmt.index_stmt.relation
    relation.schemaname = table[0] if len(table) > 1 else ""
    relation.relname = table[-1]
    return str(postgast.deparse(tree))


# -- a query's conditions ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Query:
    """What a SELECT of one table asks: columns set equal to one bound value, ranges, sort (column, direction), constants."""

    equal: tuple[str, ...]
    ranges: tuple[str, ...]
    sort: tuple[tuple[str, int], ...]
    constants: tuple[Any, ...]


def _read(query: str) -> _Query | None:
    select = postgast.parse(query).stmts[0].stmt.select_stmt
    if len(select.from_clause) != 1 or not select.from_clause[0].HasField("range_var"):
        return None
    equal: list[str] = []
    ranges: list[str] = []
    constants: list[Any] = []
    for part in _conjuncts(select.where_clause):
        columns = _columns_in(part)
        bound = any(isinstance(item, grammar.ParamRef) for _, item in postgast.walk(part))
        if columns and not bound and not _calls(part):
            constants.append(part)
        if len(columns) != 1 or not bound or not part.HasField("a_expr"):
            continue
        kind, operator = part.a_expr.kind, _operator(part.a_expr)
        if kind == grammar.AEXPR_OP and operator in _EQUAL:
            equal.append(columns[0])
        elif (kind == grammar.AEXPR_OP and operator in _RANGE) or kind == grammar.AEXPR_BETWEEN:
            ranges.append(columns[0])
    sort: list[tuple[str, int]] = []
    for item in select.sort_clause:
        column = _column(item.sort_by.node)
        if not column:
            break
        sort.append((column, item.sort_by.sortby_dir))
    kept = tuple((column, way) for column, way in sort if column not in equal)
    return _Query(tuple(dict.fromkeys(equal)), tuple(dict.fromkeys(ranges)), kept, tuple(constants))


def _conjuncts(node: Any) -> list[Any]:
    if node.WhichOneof("node") is None:
        return []
    if node.HasField("bool_expr") and node.bool_expr.boolop == grammar.AND_EXPR:
        return [part for arm in node.bool_expr.args for part in _conjuncts(arm)]
    return [node]


def _operator(expression: Any) -> str:
    return "".join(part.string.sval for part in expression.name)


def _column(node: Any) -> str:
    if not node.HasField("column_ref") or not node.column_ref.fields[-1].HasField("string"):
        return ""
    return str(node.column_ref.fields[-1].string.sval)


def _columns_in(node: Any) -> list[str]:
    named = [
        item.fields[-1].string.sval
        for _, item in postgast.walk(node)
        if isinstance(item, grammar.ColumnRef) and item.fields[-1].HasField("string")
    ]
    return list(dict.fromkeys(named))


def _calls(node: Any) -> bool:
    """Whether it holds what may not be constant: a function, a subquery, CURRENT_DATE and the like."""
    kinds = (grammar.FuncCall, grammar.SubLink, grammar.SQLValueFunction)
    return any(isinstance(item, kinds) for _, item in postgast.walk(node))


# -- queries rewritten ------------------------------------------------------------------------------------------


def _hoisted(select: Any) -> tuple[list[Any], list[Any]] | None:
    """The arms and what belongs to all of them, of ``a OR b AND c`` read as ``(a OR b) AND c``; None if it is no such thing.

    Only the last arm may carry further conditions, and its first must be on the same column as the other arms.
    """
    where = select.where_clause
    if not where.HasField("bool_expr") or where.bool_expr.boolop != grammar.OR_EXPR:
        return None
    *arms, last = where.bool_expr.args
    parts = _conjuncts(last)
    if len(parts) < 2 or any(len(_conjuncts(arm)) != 1 for arm in arms):
        return None
    columns = [_columns_in(arm) for arm in [*arms, parts[0]]]
    if len(columns[0]) != 1 or any(names != columns[0] for names in columns):
        return None
    return [*arms, parts[0]], parts[1:]


def grouped(query: str) -> str:
    """``a OR b AND c`` as ``(a OR b) AND c``, "" where the query is no such thing."""
    tree = postgast.parse(query)
    select = tree.stmts[0].stmt.select_stmt
    found = _hoisted(select)
    if found is None:
        return ""
    arms, rest = ([_copied(item) for item in part] for part in found)
    either = grammar.Node()
    either.bool_expr.boolop = grammar.OR_EXPR
    either.bool_expr.args.extend(arms)
    select.where_clause.CopyFrom(_all([either, *rest]))
    return str(postgast.deparse(tree))


def _split(query: str) -> str:
    """An outermost OR as one SELECT an arm; a row of several arms is only in the first of them."""
    tree = postgast.parse(query)
    select = tree.stmts[0].stmt.select_stmt
    where = select.where_clause
    plain = not (select.group_clause or select.distinct_clause or select.HasField("limit_count"))
    if not plain or not where.HasField("bool_expr") or where.bool_expr.boolop != grammar.OR_EXPR or _aggregates(select):
        return ""
    arms = [_copied(arm) for arm in where.bool_expr.args]
    order = [_copied(item) for item in select.sort_clause]
    if any(_column(item.sort_by.node) == "" or _says_where_nulls_go(item.sort_by) for item in order):
        return ""
    del select.sort_clause[:]
    texts: list[str] = []
    for number, arm in enumerate(arms):
        select.where_clause.CopyFrom(_all([arm, *(_not_true(other) for other in arms[:number])]))
        texts.append(f"({postgast.deparse(tree)})")
    by = ", ".join(
        Identifier(_column(item.sort_by.node)).as_string(None)
        + (" DESC" if item.sort_by.sortby_dir == grammar.SORTBY_DESC else "")
        for item in order
    )
    return " UNION ALL ".join(texts) + (f" ORDER BY {by}" if by else "")


def _says_where_nulls_go(sort: Any) -> bool:
    return bool(sort.sortby_nulls in (grammar.SORTBY_NULLS_FIRST, grammar.SORTBY_NULLS_LAST))


def _aggregates(select: Any) -> bool:
    return any(isinstance(item, grammar.FuncCall) for target in select.target_list for _, item in postgast.walk(target))


def _not_true(arm: Any) -> Any:
    node = grammar.Node()
    node.boolean_test.booltesttype = grammar.IS_NOT_TRUE
    node.boolean_test.arg.CopyFrom(arm)
    return node


def _all(parts: Sequence[Any]) -> Any:
    if len(parts) == 1:
        return parts[0]
    node = grammar.Node()
    node.bool_expr.boolop = grammar.AND_EXPR
    node.bool_expr.args.extend(parts)
    return node


def _copied(node: Any) -> Any:
    copy = grammar.Node()
    copy.CopyFrom(node)
    return copy


def _and_to(statement: Any, added: Any) -> None:
    if statement.HasField("where_clause"):
        added = _all([_copied(statement.where_clause), _copied(added)])
    statement.where_clause.CopyFrom(added)


# -- definitions rewritten --------------------------------------------------------------------------------------

_KEEP = object()


def _index(sql: str, *, keys: Iterable[Any] | None = None, where: Any = _KEEP) -> str:
    tree = postgast.parse(sql)
    node = tree.stmts[0].stmt.index_stmt
    if keys is not None:
        elements = [_element(key) for key in keys]
        del node.index_params[:]
        node.index_params.extend(elements)
    if where is None:
        node.ClearField("where_clause")
    elif where is not _KEEP:
        node.where_clause.CopyFrom(_all([_unqualified(part) for part in where]))
    return str(postgast.deparse(tree))


def _element(key: Any) -> Any:
    if isinstance(key, grammar.Node):
        return _copied(key)
    name, way = (key, grammar.SORTBY_DEFAULT) if isinstance(key, str) else key
    node = grammar.Node()
    node.index_elem.name = name
    node.index_elem.ordering = way or grammar.SORTBY_DEFAULT
    node.index_elem.nulls_ordering = grammar.SORTBY_NULLS_DEFAULT
    return node


def _unqualified(part: Any) -> Any:
    """A condition as an index's predicate has it: columns without the table's name or alias."""
    node = _copied(part)
    for _, item in postgast.walk(node):
        if isinstance(item, grammar.ColumnRef) and len(item.fields) > 1:
            last = _copied(item.fields[-1])
            del item.fields[:]
            item.fields.append(last)
    return node


def _columns(node: Any) -> list[str]:
    return [item.index_elem.name for item in node.index_params]


def _leading(node: Any, names: Sequence[str]) -> list[Any]:
    return [item for item in node.index_params if item.index_elem.name in names]


def _others(node: Any, names: Sequence[str]) -> list[Any]:
    return [item for item in node.index_params if item.index_elem.name not in names]
