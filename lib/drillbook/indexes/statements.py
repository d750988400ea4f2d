"""SQL text into statements, and CREATE INDEX rewritten. Only this module and ``rewriting`` use the parser.

The parser is PostgreSQL's own grammar (libpg_query, of PostgreSQL 18), so comments, quotes and dollar quotes are read as a
server reads them. It says where a statement stands and what kind it is; what an index *is* only a catalogue can say.
Positions are bytes of the UTF-8 text inside here, and line numbers (from 1) outside.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import postgast
from postgast import pg_query_pb2 as grammar

_PLAIN = re.compile(r"[a-z_][a-z0-9_]*")
Kind = Literal["create index", "drop index", "select", "update", "transaction", "other"]


class NotSql(ValueError):
    """The text is not PostgreSQL's SQL; ``faults`` has every statement at fault as (line, what the grammar says)."""

    def __init__(self, faults: Sequence[tuple[int, str]]) -> None:
        self.faults = tuple(faults)
        super().__init__("; ".join(f"line {line}: {fault}" for line, fault in faults))


@dataclass(frozen=True)
class Statement:
    """One statement of a text: as it is written, the line on which it begins, and what it is.

    ``name`` is the index that a CREATE INDEX names, "" if it leaves the choice to the server; ``table`` the table of it or
    of an UPDATE as written, with the schema if one is given. ``drops`` are the indexes of a DROP INDEX, likewise. ``parameters`` is the
    highest $n, ``limited`` whether a SELECT has a LIMIT, FETCH or FOR UPDATE of its own.
    """

    sql: str
    line: int
    kind: Kind = "other"
    name: str = ""
    table: tuple[str, ...] = ()
    concurrently: bool = False
    if_not_exists: bool = False
    drops: tuple[tuple[str, ...], ...] = ()
    parameters: int = 0
    limited: bool = False


def statements(text: str) -> tuple[Statement, ...]:
    """The statements of ``text`` in order. Raises NotSql with every statement that the grammar refuses."""
    raw = text.encode()
    try:
        parts = postgast.split(text, method="scanner")
    except postgast.PgQueryError as error:
        raise NotSql([_fault(raw, 0, error)]) from None
    found: list[Statement] = []
    faults: list[tuple[int, str]] = []
    end = 0
    for part in parts:
        begin = raw.index(part.encode(), end)
        end = begin + len(part.encode())
        try:
            tree = postgast.parse(part)
        except postgast.PgQueryError as error:
            faults.append(_fault(raw, begin, error))
            continue
        if tree.stmts:  # a comment alone is none
            skipped = _first_token(part)
            sql = part.encode()[skipped:].decode().rstrip()
            found.append(_statement(sql, _line(raw, begin + skipped), tree.stmts[0].stmt))
    if faults:
        raise NotSql(faults)
    return tuple(found)


def one(text: str) -> Statement:
    """The only statement of ``text``. Raises NotSql if it has none or several, or is no SQL."""
    found = statements(text)
    if len(found) != 1:
        raise NotSql([(1, f"expected one statement, found {len(found)}")])
    return found[0]


def as_sql_name(parts: Sequence[str]) -> str:
    """A name as SQL writes it, each part quoted where it has to be."""
    return ".".join(part if _PLAIN.fullmatch(part) else '"' + part.replace('"', '""') + '"' for part in parts)


def as_concurrent(sql: str, *, if_not_exists: bool = False) -> str:
    """A CREATE INDEX as CREATE INDEX CONCURRENTLY, for the rest as it is written.

    IF NOT EXISTS is left out unless asked for: it says yes to an INVALID or quite different index of that name.
    Raises NotSql if ``sql`` is anything but one CREATE INDEX.
    """
    return _create_index(sql, " CONCURRENTLY" + (" IF NOT EXISTS" if if_not_exists else ""))


def as_plain(sql: str) -> str:
    """A CREATE INDEX without CONCURRENTLY and IF NOT EXISTS, so that it fits into a transaction. Raises NotSql likewise."""
    return _create_index(sql, "")


def without_concurrently(sql: str) -> str:
    """A DROP INDEX without CONCURRENTLY, so that it fits into a transaction."""
    tree = postgast.parse(sql)
    tree.stmts[0].stmt.drop_stmt.concurrent = False
    return str(postgast.deparse(tree))


def _create_index(sql: str, words: str) -> str:
    if one(sql).kind != "create index":
        raise NotSql([(1, "expected a CREATE INDEX")])
    raw = sql.encode()
    tokens = _tokens(sql)
    at = next(number for number, token in enumerate(tokens) if token.token == grammar.INDEX)
    following = at + 1
    while tokens[following].token in (grammar.CONCURRENTLY, grammar.IF_P, grammar.NOT, grammar.EXISTS):
        following += 1
    return (raw[: tokens[at].end] + words.encode() + b" " + raw[tokens[following].start :]).decode().rstrip(" \n;")


def _tokens(sql: str) -> list[Any]:
    comments = (grammar.SQL_COMMENT, grammar.C_COMMENT)
    return [token for token in postgast.scan(sql).tokens if token.token not in comments]


def _first_token(sql: str) -> int:
    tokens = _tokens(sql)
    return int(tokens[0].start) if tokens else 0


def _line(raw: bytes, position: int) -> int:
    return raw.count(b"\n", 0, position) + 1


def _fault(raw: bytes, begin: int, error: postgast.PgQueryError) -> tuple[int, str]:
    return _line(raw, begin + max(0, error.cursorpos - 1)), error.message


def _statement(sql: str, line: int, node: Any) -> Statement:
    parameters = max((ref.number for _, ref in postgast.walk(node) if isinstance(ref, grammar.ParamRef)), default=0)
    match node.WhichOneof("node"):
        case "index_stmt":
            index = node.index_stmt
            return Statement(
                sql=sql,
                line=line,
                kind="create index",
                name=index.idxname,
                table=_named(index.relation),
                concurrently=index.concurrent,
                if_not_exists=index.if_not_exists,
            )
        case "drop_stmt" if node.drop_stmt.remove_type == grammar.OBJECT_INDEX:
            drops = tuple(tuple(part.string.sval for part in item.list.items) for item in node.drop_stmt.objects)
            return Statement(sql=sql, line=line, kind="drop index", drops=drops, concurrently=node.drop_stmt.concurrent)
        case "select_stmt":
            select = node.select_stmt
            limited = select.HasField("limit_count") or bool(select.locking_clause)
            return Statement(sql=sql, line=line, kind="select", parameters=parameters, limited=limited)
        case "update_stmt":
            return Statement(
                sql=sql, line=line, kind="update", table=_named(node.update_stmt.relation), parameters=parameters
            )
        case "transaction_stmt":
            return Statement(sql=sql, line=line, kind="transaction")
        case _:
            return Statement(sql=sql, line=line, parameters=parameters)


def _named(relation: Any) -> tuple[str, ...]:
    return tuple(part for part in (relation.schemaname, relation.relname) if part)
