"""amcheck and page checksums on files that were really damaged."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from tests.library.fix_integrity import PAGE_BYTES, Server, overwrite, run, running

from drillbook.model import Verdict
from drillbook.postgres.checks import amcheck, page_checksums

TABLES = (
    "create table t (k int primary key, v text)",
    "insert into t select g, 'value ' || g from generate_series(1, 3000) g",
    "create index by_value on t (v)",
    "create index by_hash on t using hash (v)",
    "create table u as select g as k, repeat('long ', 2000) || g as v from generate_series(1, 20) g",
    "create table w as select g as k from generate_series(1, 1000) g",
    "create index by_k on w (k)",
    "checkpoint",
)


@pytest.fixture(scope="module")
def unsummed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose pages carry no checksums, and where one index entry and one heap tuple are damaged."""
    with running(tmp_path_factory.mktemp("unsummed"), checksums=False) as server:
        yield server


def test_a_healthy_database_is_verified(server: Server) -> None:
    """Every heap and B-tree was read, TOAST and the catalogues among them; the hash index is reported as not checked."""
    database = server.new_database(*TABLES)
    with server.superuser(database) as db:
        check = amcheck(db)
        assert check.verdict is Verdict.VERIFIED, check
        ((heaps,),) = db.ask_text(
            "select count(*) from pg_class where relkind in ('r', 'm', 't') and relpersistence <> 't'"
        )
        ((indexes,),) = db.ask_text(
            "select count(*) from pg_class c join pg_am a on a.oid = relam where relkind = 'i' and amname = 'btree'"
        )
        assert check.observed == f"{heaps} heaps and {indexes} B-tree indexes read"
        assert ("not checked: hash", "1 index") in check.details
        assert amcheck(db).verdict is Verdict.VERIFIED, "a second time too"
        assert page_checksums(db).verdict is Verdict.VERIFIED


def test_damage_without_checksums_is_found_by_amcheck_itself(unsummed: Server) -> None:
    """An index entry and a heap tuple with other bytes: both are named, and all the others are still checked."""
    database = unsummed.new_database(*TABLES)
    with unsummed.superuser(database) as db:
        # Where the index's second page keeps an entry's key, and the heap's first page its first tuple.
        run(db, "create extension pageinspect")
        ((item,),) = db.ask_text(
            "select lp_off from heap_page_items(get_raw_page('by_value', 1)) where lp_flags = 1 order by lp_off limit 1 offset 5"
        )
        ((tuple_,),) = db.ask_text("select lp_off from heap_page_items(get_raw_page('w', 0)) where lp = 1")
    index, heap = unsummed.file_of(database, "by_value"), unsummed.file_of(database, "w")
    unsummed.stop()
    overwrite(index, PAGE_BYTES + item + 10, b"zzzzzz")
    # xmin of the tuple: a transaction from the future.
    overwrite(heap, tuple_, (2**31 - 5).to_bytes(4, "little"))
    unsummed.start()
    with unsummed.superuser(database) as db:
        check = amcheck(db)
        sums = page_checksums(db)
    found = dict(check.details)
    assert check.verdict is Verdict.FAILED
    assert "index public.by_value" in check.observed
    assert "heap public.w" in check.observed
    assert "XX002" in found["index public.by_value"]
    assert found["heap public.w"].startswith("block 0: xmin ")
    assert int(check.observed.split()[0]) > 70, "the others were read"
    assert sums.verdict is Verdict.NOT_APPLICABLE
    assert "no checksums" in sums.reason


def test_an_index_that_misses_a_row_is_found(unsummed: Server) -> None:
    """heapallindexed: a row in the heap that its index doesn't know."""
    database = unsummed.new_database(*TABLES)
    unsummed.sql(
        database,
        "update pg_index set indisready = false, indisvalid = false where indexrelid = 'by_k'::regclass",
        "insert into w values (-1)",
        "update pg_index set indisready = true, indisvalid = true where indexrelid = 'by_k'::regclass",
    )
    with unsummed.superuser(database) as db:
        check = amcheck(db)
    assert check.verdict is Verdict.FAILED
    assert "lacks matching index tuple" in dict(check.details)["index public.by_k"]


def test_damage_under_checksums_names_the_relation(tmp_path_factory: pytest.TempPathFactory) -> None:
    """With checksums the server refuses the page: XX001, and the failure is counted."""
    with running(tmp_path_factory.mktemp("summed")) as server:
        database = server.new_database(*TABLES)
        index = server.file_of(database, "by_value")
        server.stop()
        overwrite(index, PAGE_BYTES + 5000, os.urandom(16))
        server.start()
        with server.superuser(database) as db:
            check = amcheck(db)
            assert check.verdict is Verdict.FAILED
            assert check.observed.endswith("damaged: index public.by_value")
            assert "XX001" in dict(check.details)["index public.by_value"]
            db.ask_text("select pg_stat_force_next_flush()")
        with server.superuser(database) as db:
            sums = page_checksums(db)
            assert sums.verdict is Verdict.FAILED
            assert sums.observed == f"1 failure in {database}"


def test_a_lost_file_is_failed(unsummed: Server) -> None:
    """A file that isn't there is SQLSTATE 58P01."""
    database = unsummed.new_database(*TABLES)
    path = unsummed.file_of(database, "u")
    unsummed.stop()
    path.unlink()
    unsummed.start()
    with unsummed.superuser(database) as db:
        check = amcheck(db)
    assert check.verdict is Verdict.FAILED
    assert "58P01" in dict(check.details)["heap public.u"]


@pytest.mark.long
def test_what_could_not_be_looked_at_is_unproven(server: Server) -> None:
    """A table that someone holds locked runs into the statement time limit; all the others are checked."""
    database = server.new_database(*TABLES)
    with server.superuser(database) as holder, server.superuser(database, timeout=5) as db:
        run(holder, "begin")
        run(holder, "lock table w in access exclusive mode")
        check = amcheck(db)
        run(holder, "rollback")
    assert check.verdict is Verdict.UNPROVEN
    assert "heap public.w" in check.reason
    assert "57014" in check.reason


def test_without_the_right_to_install_it_is_unproven(server: Server) -> None:
    database = server.new_database()
    with server.reader(database) as db:
        check = amcheck(db)
    assert check.verdict is Verdict.UNPROVEN
    assert "SQLSTATE" in check.reason
