"""What our reader makes of each major's WAL is what that major's own pg_waldump sees.

The lab's own PostgreSQL is held in `test_objectstore_archive`, here the others that this machine has.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from fix_archive import S3, Server, every_kind_of_commit, tables_to_drop, waldump, waldump_deletes
from fix_majors import NEWEST, OLDEST, found, major_of, why_missing

from drillbook.postgres.wal import ChangeReader, File, WalReader, segment_header
from drillbook_lab import pgbin

pytestmark = pytest.mark.long

OWN = major_of(pgbin.bin_dir())
FOUND = found()


@pytest.fixture(
    params=[major for major in range(OLDEST, NEWEST + 1) if major != OWN], ids=lambda one: f"PostgreSQL {one}"
)
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server of that major that archives nowhere: its WAL is read where it is."""
    if request.param not in FOUND:
        pytest.skip(why_missing(request.param))
    started = Server(S3("http://127.0.0.1:9"), "s3://nowhere", "pg", binaries=FOUND[request.param])
    try:
        started.start()
        started.sql("ALTER SYSTEM SET archive_command = '/bin/true'", "SELECT pg_reload_conf()")
        yield started
    finally:
        started.s3.client.close()
        started.remove()


def test_commits_deletes_and_drops_are_those_that_pg_waldump_of_that_major_sees(server: Server, tmp_path: Path) -> None:
    tables_to_drop(server)
    begin = server.switch()
    made = every_kind_of_commit(server)
    server.sql("INSERT INTO t SELECT generate_series(1, 50)", "DELETE FROM t WHERE a % 2 = 0")
    last = server.switch()
    paths = [path for path in sorted((server.data / "pg_wal").glob("00000001" + "?" * 16)) if begin < path.name <= last]
    for path in paths:
        (tmp_path / path.name).write_bytes(path.read_bytes())
    segments = [(path.name, path.read_bytes()) for path in paths]
    assert segment_header(segments[0][1], "the first").major == major_of(server.binaries)

    reader, changes = WalReader(checksums=True), ChangeReader()
    ours = [commit for name, data in segments for commit in reader.feed(name, data)]
    assert [(c.committed_at, c.xid, c.lsn) for c in ours] == waldump(tmp_path, paths[0].name, last, server.binaries)
    assert not reader.stopped and made.prepared_xid in {commit.xid for commit in ours}
    assert [c for c in ours if c.lsn.value >> 20 != c.end_lsn.value >> 20], "no commit record is in two segments"

    found = [one for name, data in segments for one in changes.changes(name, data)]
    deleted: Counter[File] = Counter()
    for one in found:
        deleted.update(one.deleted)
    assert deleted and deleted == waldump_deletes(tmp_path, paths[0].name, last, server.binaries)
    # 120 tables with an index each, in one transaction; and one table in a savepoint of a prepared transaction.
    assert [len(one.dropped) for one in found if len(one.dropped) > 100] == [240]
    (prepared,) = [one for one in found if one.xid == made.prepared_xid]
    assert len(prepared.dropped) == 1
