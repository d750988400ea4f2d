"""The files for Flyway, run by Flyway itself: three applications that start at once, on a machine with Java and Maven."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

import pytest
from tests.library.fix_archive import until
from tests.library.fix_integrity import PASSWORD, Server
from tests.library.test_index_flyway import SECONDS, SQL_FILE, TABLES, built, owner_of, written

ASSETS = Path(__file__).parents[1] / "assets" / "flyway"
OWN_LOCK = "flyway.postgresql.transactional.lock=false"
VALID = "select count(*)::text from pg_index join pg_class on oid = indexrelid where indisvalid and relname ~* '^by'"
ENVIRONMENT = {"PATH": "/usr/bin:/bin", "PGPASSWORD": PASSWORD, "LC_ALL": "C.UTF-8"}
_NUMBERS = count(1)

pytestmark = [pytest.mark.soak, pytest.mark.timeout(900)]


@pytest.fixture(scope="session")
def jars(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Flyway and the JDBC driver, from Maven's repository."""
    if not (shutil.which("java") and shutil.which("mvn")):
        pytest.skip("Java and Maven are not on this machine: on Debian, apt-get install maven")
    folder = tmp_path_factory.mktemp("jars")
    argv = [
        "mvn",
        "-q",
        "-B",
        "-f",
        str(ASSETS / "pom.xml"),
        "dependency:copy-dependencies",
        f"-DoutputDirectory={folder}",
    ]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=600)
    if done.returncode:
        pytest.skip(f"Maven can't get Flyway here: {(done.stdout + done.stderr)[-200:]}")
    return f"{folder}/*"


@pytest.fixture
def database(server: Server) -> Iterator[str]:
    """A database of a role that is no superuser, with the tables in a schema of its own."""
    name = server.new_database()
    owner = f"flyway{next(_NUMBERS)}_{name}"
    server.sql(
        "postgres", f"create role {owner} login password '{PASSWORD}'", f"alter database {name} owner to {owner}"
    )
    server.sql(name, f"alter role {owner} set search_path = app, public", f"set role {owner}", *TABLES)
    yield name


def command(jars: str, server: Server, database: str, folder: Path, *settings: str) -> list[str]:
    url = f"jdbc:postgresql://{server.address.host}:{server.address.port}/{database}"
    return ["java", "-cp", jars, str(ASSETS / "Migrate.java"), url, owner_of(server, database), str(folder), *settings]


def three(
    jars: str, server: Server, database: str, folder: Path, *settings: str
) -> list[subprocess.CompletedProcess[str]]:
    """Three applications start at the same time; none may take a minute."""
    argv = command(jars, server, database, folder, *settings)
    with ThreadPoolExecutor(3) as pool:
        return list(
            pool.map(
                lambda _: subprocess.run(argv, capture_output=True, text=True, env=ENVIRONMENT, timeout=SECONDS),
                range(3),
            )
        )


def valid(server: Server, database: str) -> int:
    with server.superuser(database) as db:
        ((found,),) = db.ask_text(VALID)
    return int(str(found))


def test_i14_three_real_flyways_adopt_what_was_built(jars: str, server: Server, database: str, tmp_path: Path) -> None:
    built(server, database)
    (file,) = written(tmp_path)
    ended = three(jars, server, database, file.parent)
    assert [done.returncode for done in ended] == [0, 0, 0], [done.stderr for done in ended]
    assert sorted(done.stdout.split()[-1] for done in ended) == ["0", "0", "1"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            "update pg_index set indisvalid = false where indexrelid = 'app.by_status'::regclass",
            "index by_status on app.incidents is INVALID",
        ),
        (
            "drop index app.by_due; create index by_due on app.changes (due)",
            "index by_due on changes is USING btree (due)",
        ),
    ],
    ids=["INVALID", "different"],
)
def test_i14_each_real_flyway_fails_on_an_invalid_or_different_index(
    jars: str, server: Server, database: str, tmp_path: Path, change: str, said: str
) -> None:
    built(server, database)
    (file,) = written(tmp_path)
    server.sql(database, *change.split("; "))
    for done in three(jars, server, database, file.parent):
        assert done.returncode != 0 and said in done.stderr + done.stdout, done.stderr


def test_i14_three_real_flyways_build_concurrently_with_the_setting_of_their_files(
    jars: str, server: Server, database: str, tmp_path: Path
) -> None:
    *steps, _ = written(tmp_path, SQL_FILE + "drop index app.old_one;\n", build=True)
    assert OWN_LOCK in (steps[0].parent / "flyway.conf").read_text(encoding="utf-8").splitlines()
    ended = three(jars, server, database, steps[0].parent, OWN_LOCK)
    assert [done.returncode for done in ended] == [0, 0, 0], [done.stderr for done in ended]
    assert valid(server, database) == 4


def test_i14_without_that_setting_a_real_flyway_waits_for_itself(
    jars: str, server: Server, database: str, tmp_path: Path
) -> None:
    """The control: what the build waits for is the transaction in which the same Flyway holds its lock."""
    *steps, _ = written(tmp_path, build=True)
    with subprocess.Popen(command(jars, server, database, steps[0].parent), env=ENVIRONMENT) as process:
        try:
            blocked_by = until("a build that waits", lambda: waiting(server, database))
            assert blocked_by == ["idle in transaction"]
            assert valid(server, database) == 0
        finally:
            process.kill()


def waiting(server: Server, database: str) -> list[str]:
    """The states of the sessions that a concurrent build waits for."""
    with server.superuser(database) as db:
        rows = db.ask_text(
            "select blocker.state from pg_stat_activity build "
            "join pg_stat_activity blocker on blocker.pid = any (pg_blocking_pids(build.pid)) "
            f"where build.datname = '{database}' and build.query ilike '%create index concurrently%'"
        )
    return [str(state) for (state,) in rows]
