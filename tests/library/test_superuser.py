"""What a superuser's psql says is read as it was written, whatever is in it and however the database is encoded."""

from __future__ import annotations

import pytest

from drillbook.archive.backup_info import fields
from drillbook.postgres.client import SQL, Identifier, Literal
from drillbook.postgres.wal.history import parse_history
from drillbook.swap.superuser import Superuser

ENDS_NO_LINE = ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e"]


@pytest.mark.parametrize("odd", ENDS_NO_LINE)
def test_s08_a_comment_pasted_from_anywhere_is_read_whole(superuser: Superuser, odd: str) -> None:
    told = f"pasted{odd}from a letter"
    assert superuser.ask_all("postgres", [f"select {SQL('{}').format(Literal(told)).as_string()} as words"]) == [
        {"words": told}
    ]


@pytest.mark.parametrize(
    ("encoding", "words"), [("LATIN1", "Größe"), ("SQL_ASCII", "Größe"), ("UTF8", "Größe \u2028 ☃"), ("EUC_JP", "日本")]
)
def test_s08_the_databases_encoding_is_not_ours(superuser: Superuser, encoding: str, words: str) -> None:
    name = f"s08_{encoding.lower()}"
    made = SQL("create database {} template template0 encoding {} locale 'C'").format(
        Identifier(name), Literal(encoding)
    )
    superuser.run("postgres", made)
    superuser.run(
        name, SQL("create table public.t (note text)"), SQL("insert into public.t values ({})").format(Literal(words))
    )
    superuser.run(name, SQL("comment on table public.t is {}").format(Literal(words)))
    assert superuser.ask_all(
        name, ["select note, obj_description('public.t'::pg_catalog.regclass) as told from public.t"]
    ) == [{"note": words, "told": words}]
    superuser.run("postgres", SQL("drop database {}").format(Identifier(name)))


@pytest.mark.parametrize("odd", ENDS_NO_LINE)
def test_s08_the_name_of_a_restore_point_and_of_a_backup_end_no_line(odd: str) -> None:
    (switch,) = parse_history(f'1\t0/3000000\tat restore point "a{odd}b"\n')
    assert switch.reason == f'at restore point "a{odd}b"'
    assert fields(f"backup_label='a{odd}b'\n") == {"backup_label": f"'a{odd}b'"}
