"""exec, port-forward and logs on real processes, and that nothing of them is left."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.lab.fix_apiserver import Api
from tests.library.fix_integrity import PASSWORD, SUPERUSER, Server
from tests.library.fix_kube import Link

from drillbook.errors import KubernetesError, PostgresError, StepTimeoutError
from drillbook.kube import Command, Kube, Piped
from drillbook.postgres.client import Address, Database

MEGABYTES = 50


@pytest.fixture(scope="module")
def pod(api: Api) -> str:
    """A running pod with one container, main."""
    api.pod("streams", log=b"first line\nsecond line")
    return "streams"


def shell(kube: Kube, pod: str, script: str, *, stdin: bytes = b"", timeout_seconds: float = 60) -> tuple[bytes, int]:
    found = kube.exec("default", pod, "main", ["sh", "-c", script], stdin=stdin, timeout_seconds=timeout_seconds)
    return found.stdout, found.exit_code


def test_output_errors_and_exit_code(kube: Kube, pod: str) -> None:
    """Each on its own; a code other than 0 is a result."""
    found = kube.exec("default", pod, "main", ["sh", "-c", "echo out; echo err >&2; exit 7"], timeout_seconds=60)
    assert (found.stdout, found.stderr, found.exit_code) == (b"out\n", b"err\n", 7)
    assert (found.text, found.error_text) == ("out\n", "err\n")
    assert shell(kube, pod, "true") == (b"", 0)


def test_arguments_are_passed_as_they_are(kube: Kube, pod: str) -> None:
    """No shell, no quoting, any character."""
    hard = "a b&c=d%20 \"é\" '+' $HOME"
    assert kube.exec("default", pod, "main", ["printf", "%s", hard], timeout_seconds=60).stdout.decode() == hard


def test_standard_input_has_an_end(kube: Kube, pod: str) -> None:
    """A command that reads to the end gets all of it and then the end."""
    content = os.urandom(3_000_001)
    out, code = shell(kube, pod, "sha256sum", stdin=content)
    assert (out.decode().split()[0], code) == (hashlib.sha256(content).hexdigest(), 0)


def test_a_command_need_not_read_its_input(kube: Kube, pod: str) -> None:
    """It may end before: its exit code is what counts."""
    assert shell(kube, pod, "exit 3", stdin=b"x" * 200_000) == (b"", 3)


def test_fifty_megabytes_of_output(kube: Kube, pod: str) -> None:
    """Every byte arrives, whatever it is."""
    script = f"seq 1 100000000 | head -c {MEGABYTES}000000"
    found = kube.exec("default", pod, "main", ["sh", "-c", script], timeout_seconds=120)
    assert len(found.stdout) == MEGABYTES * 1_000_000
    assert found.stdout.startswith(b"1\n2\n3\n")
    expected = shell(kube, pod, script + " | sha256sum")[0].decode().split()[0]
    assert hashlib.sha256(found.stdout).hexdigest() == expected


@pytest.mark.long
def test_a_command_that_does_not_end(kube: Kube, pod: str) -> None:
    """The time limit ends the wait; the error says how much was seen and that the state is unknown."""
    with pytest.raises(StepTimeoutError, match=r"sh in Pod default/streams did not end within 3 s \(6 bytes"):
        shell(kube, pod, "echo begun; exec sleep 100", timeout_seconds=3)
    assert shell(kube, pod, "echo on") == (b"on\n", 0)


def test_a_command_that_can_not_be_run(kube: Kube, pod: str) -> None:
    """A missing program, container or pod is an error in the API's words, never an exit code."""
    with pytest.raises(KubernetesError, match="no-such-program"):
        kube.exec("default", pod, "main", ["no-such-program"], timeout_seconds=60)
    with pytest.raises(KubernetesError, match=r"container other is not valid for pod streams"):
        kube.exec("default", pod, "other", ["true"], timeout_seconds=60)
    with pytest.raises(KubernetesError, match='pods "nowhere" not found') as missing:
        kube.exec("default", "nowhere", "main", ["true"], timeout_seconds=60)
    assert missing.value.status == 404


def test_a_refused_handshake_tells_the_reason(api: Api, pod: str) -> None:
    """The WebSocket's own refusal has no words; they are read again from the API."""
    with Kube.open(str(api.kubeconfig), "lab") as drill:
        with pytest.raises(KubernetesError, match=r"cannot (create|get) resource") as denied:
            drill.exec("default", pod, "main", ["true"], timeout_seconds=60)
        assert (denied.value.status, denied.value.reason) == (403, "Forbidden")


def test_output_that_was_cut_off_is_not_a_result(linked: Kube, link: Link, pod: str) -> None:
    """Half of an output must never look like all of it."""
    stop = threading.Timer(0.5, link.cut)
    stop.start()
    with pytest.raises(KubernetesError, match="ended before the command's status came"):
        shell(linked, pod, "echo half; exec sleep 100")
    stop.join()


def test_beside_a_running_event_loop(kube: Kube, pod: str) -> None:
    """A notebook's kernel runs its own event loop; calls from within it work, also many at once."""

    async def cell() -> list[tuple[bytes, int]]:
        here = shell(kube, pod, "echo here")
        others = await asyncio.gather(*(asyncio.to_thread(shell, kube, pod, f"echo {n}; exit {n}") for n in range(8)))
        return [here, *others]

    assert asyncio.run(cell()) == [(b"here\n", 0), *((f"{n}\n".encode(), n) for n in range(8))]


# -- port-forward --------------------------------------------------------------------------------


def connect(address: Address, **more: object) -> Database:
    return Database.connect(address, user=SUPERUSER, password=PASSWORD, dbname="postgres", read_only=False)


def test_a_session_through_a_forward(kube: Kube, pod: str, server: Server) -> None:
    """psycopg over TLS-less and larger answers; several sessions at once."""
    with kube.forward("default", pod, server.address.port) as forward:
        address = Address(forward.host, forward.port, why=forward.why)
        with connect(address) as one, connect(address) as two:
            ((size,),) = one.ask_text(
                "select sum(length(x)) from (select repeat('x', 1000) x from generate_series(1, 9))"
            )
            assert size == 9000
            rows = two.ask_text("select repeat(md5(n::text), 32) from generate_series(1, 20000) n")
            assert len(rows) == 20000 and all(len(row[0]) == 1024 for row in rows)
            assert one.ask_one("server_facts")["in_recovery"] is False
        assert forward.error == ""


def test_a_refused_target_is_told(kube: Kube, pod: str) -> None:
    """libpq sees a closed connection only; the reason comes from the forward."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        with kube.forward("default", pod, port) as forward:
            with pytest.raises(PostgresError) as refused:
                connect(Address(forward.host, forward.port, why=forward.why))
            assert f"error forwarding port {port} to pod streams" in forward.error
    assert f"error forwarding port {port} to pod streams" in refused.value.what
    assert refused.value.sqlstate == "08001"


def test_a_forward_to_a_pod_that_is_not_there(kube: Kube) -> None:
    """The API's own words reach anyone who connects."""
    with kube.forward("default", "nowhere", 5432) as forward, pytest.raises(PostgresError) as refused:
        connect(Address(forward.host, forward.port, why=forward.why))
    assert 'forward to Pod default/nowhere port 5432: pods "nowhere" not found' in refused.value.what


def test_the_servers_last_words_arrive(kube: Kube, pod: str, server: Server) -> None:
    """A wrong password is reported as such through a forward, and an ended session as a lost connection."""
    with kube.forward("default", pod, server.address.port) as forward:
        address = Address(forward.host, forward.port, why=forward.why)
        with pytest.raises(PostgresError, match="password authentication failed") as wrong:
            Database.connect(address, user=SUPERUSER, password="wrong", dbname="postgres")
        assert wrong.value.sqlstate == "28P01"
        with connect(address) as victim, connect(address) as killer:
            ((pid,),) = victim.ask_text("select pg_backend_pid()")
            killer.ask_text("select pg_terminate_backend(%s)", (pid,))
            with pytest.raises(PostgresError, match="terminating connection") as lost:
                victim.ask_text("select 1")
            assert lost.value.sqlstate == "57P01"


def test_a_cut_link_is_a_lost_connection(linked: Kube, link: Link, pod: str, server: Server) -> None:
    """A dropped connection is SQLSTATE 08, so it never contradicts a claim; the forward works again afterwards."""
    with linked.forward("default", pod, server.address.port) as forward:
        address = Address(forward.host, forward.port)
        with connect(address) as db:
            cut = threading.Timer(0.3, link.cut)
            cut.start()
            with pytest.raises(PostgresError) as lost:
                db.ask_text("select pg_sleep(60)")
            cut.join()
            assert lost.value.sqlstate[:2] == "08"
            assert db.closed
        link.restore()
        with connect(address) as again:
            assert again.ask_text("select 1") == [(1,)]


def test_a_client_that_leaves_leaves_no_backend(kube: Kube, pod: str, server: Server) -> None:
    """Closing the local side ends the session in the server, also while it works."""
    with server.superuser("postgres") as watcher, kube.forward("default", pod, server.address.port) as forward:
        raw = socket.create_connection((forward.host, forward.port))
        sleeper = replace(Address(forward.host, forward.port))
        with connect(sleeper) as db:
            ((pid,),) = db.ask_text("select pg_backend_pid()")
        raw.close()
        deadline = time.monotonic() + 60
        while watcher.ask_text("select 1 from pg_stat_activity where pid = %s", (pid,)):
            assert time.monotonic() < deadline
            time.sleep(0.05)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts descriptors in /proc")
def test_nothing_is_left_after_a_hundred_forwards(api: Api, pod: str, server: Server) -> None:
    """No thread and no descriptor, neither while the client lives nor after it."""

    def forwards(kube: Kube, count: int) -> None:
        for _ in range(count):
            with (
                kube.forward("default", pod, server.address.port) as forward,
                connect(Address(forward.host, forward.port)) as db,
            ):
                assert db.ask_text("select 1") == [(1,)]

    def settles(limit: int) -> bool:
        # The server side, in this process too, lets go of its sockets on its own thread.
        deadline = time.monotonic() + 60
        while descriptors() > limit and time.monotonic() < deadline:
            time.sleep(0.05)
        return descriptors() <= limit

    gc.collect()
    before, elsewhere = descriptors(), _ours()
    with Kube.open(str(api.kubeconfig), "lab-admin") as kube:
        shell(kube, pod, "true")  # starts the loop and its thread
        with kube.forward("default", pod, server.address.port):
            threads, warm = threading.active_count(), descriptors()
        forwards(kube, 100)
        assert settles(warm)
        assert threading.active_count() <= threads
    assert settles(before)
    assert _ours() <= elsewhere


def _ours() -> set[int]:
    """The library's threads in this process."""
    return {thread.ident or 0 for thread in threading.enumerate() if thread.name.startswith("drillbook")}


def test_many_connections_at_once(kube: Kube, pod: str, server: Server) -> None:
    """Sixty sessions through one forward, all on one thread of ours."""
    before = _ours()
    with kube.forward("default", pod, server.address.port) as forward:
        address = Address(forward.host, forward.port, why=forward.why)
        sessions = [connect(address) for _ in range(60)]
        try:
            assert [db.ask_text("select %s::int", (n,)) for n, db in enumerate(sessions)] == [[(n,)] for n in range(60)]
            # Other tests' clients may live in this process: ours has one thread, however many sessions there are.
            assert len(_ours() - before) <= 1
        finally:
            for db in sessions:
                db.close()


def test_a_forward_that_is_closed_ends_its_sessions(kube: Kube, pod: str, server: Server) -> None:
    """Its port is free at once, and closing twice is fine."""
    forward = kube.forward("default", pod, server.address.port).__enter__()
    db = connect(Address(forward.host, forward.port))
    forward.close()
    forward.close()
    with pytest.raises(PostgresError) as lost:
        db.ask_text("select 1")
    assert lost.value.sqlstate[:2] == "08"
    db.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((forward.host, forward.port))


# -- logs ----------------------------------------------------------------------------------------


def test_a_log_is_read_whole(kube: Kube, pod: str) -> None:
    """A last line without its newline belongs to it."""
    assert kube.log("default", pod, "main") == "first line\nsecond line"
    with pytest.raises(KubernetesError, match="not found"):
        kube.log("default", "nowhere", "main")


@pytest.fixture
def growing(api: Api) -> Iterator[str]:
    """A running pod whose log a test writes."""
    api.pod("growing", log=b"begun\n")
    yield "growing"
    uid = api.do(api.registry.get, "Pod", "default", "growing")["metadata"]["uid"]
    api.do(api.registry.delete, "Pod", "default", "growing", uid=uid)


def test_a_log_is_followed_to_its_end(api: Api, kube: Kube, growing: str) -> None:
    """Lines come as they are written, also in pieces; the container's end is the end."""
    path = api.folder / f"default.{growing}.main.log"
    with kube.follow_log("default", growing, "main") as log:
        assert next(log) == "begun"
        with path.open("ab", buffering=0) as file:
            file.write("grüße ".encode()[:4])
            file.write("grüße ".encode()[4:] + b"from here\n")
            assert next(log) == "grüße from here"
            file.write(b"last words")
        api.pod_phase(growing, "Succeeded")
        assert list(log) == ["last words"]


def test_a_followed_log_can_be_closed_from_another_thread(kube: Kube, growing: str) -> None:
    """The thread that waits for a line sees the end."""
    log = kube.follow_log("default", growing, "main")
    seen: list[str] = []
    reader = threading.Thread(target=lambda: seen.extend(log))
    reader.start()
    deadline = time.monotonic() + 60
    while not seen and time.monotonic() < deadline:
        time.sleep(0.01)
    log.close()
    reader.join(timeout=60)
    assert not reader.is_alive()
    assert seen == ["begun"]


@pytest.mark.long
def test_a_silent_log_ends_at_its_limit(kube: Kube, growing: str) -> None:
    """A stream that died silently does not hold anyone indefinitely."""
    with kube.follow_log("default", growing, "main", timeout_seconds=3) as log:
        assert next(log) == "begun"
        with pytest.raises(StepTimeoutError, match=r"nothing was written for 3 s"):
            next(log)


# -- a pipe from one container to another ----------------------------------------------------


def piped(kube: Kube, pod: str, writer: str, reader: str, *, timeout_seconds: float = 60) -> Piped:
    ends = (Command("default", pod, "main", ["sh", "-c", script]) for script in (writer, reader))
    return kube.pipe(*ends, timeout_seconds=timeout_seconds)


def test_a_pipe_carries_every_byte_and_its_end(kube: Kube, pod: str, tmp_path: Path) -> None:
    """All that was written is read, in order, and the reader sees the end."""
    (tmp_path / "sent").write_bytes(os.urandom(7_000_001))
    found = piped(kube, pod, f"cat {tmp_path}/sent", f"cat > {tmp_path}/got; echo read >&2")
    assert (found.well, found.bytes, found.reader_error) == (True, 7_000_001, "read\n")
    assert (tmp_path / "got").read_bytes() == (tmp_path / "sent").read_bytes()


def test_a_writer_that_fails_ends_the_reader_and_is_named(kube: Kube, pod: str, tmp_path: Path) -> None:
    """What it left is not taken for all: the reader is ended without an end of its input."""
    found = piped(kube, pod, "echo half; echo broken >&2; exit 3", f"cat >/dev/null; touch {tmp_path}/whole")
    assert (found.writer_exit_code, found.writer_error, found.reader_exit_code) == (3, "broken\n", None)
    assert not found.well and not (tmp_path / "whole").exists()


def test_a_reader_that_fails_ends_the_writer_and_is_named(kube: Kube, pod: str) -> None:
    """A writer without end doesn't go on for nobody."""
    found = piped(kube, pod, "cat /dev/zero", "head -c 1000 >/dev/null; echo full >&2; exit 5")
    assert (found.reader_exit_code, found.reader_error, found.writer_exit_code) == (5, "full\n", None)


@pytest.mark.long
def test_a_slow_reader_slows_the_writer(kube: Kube, pod: str, tmp_path: Path) -> None:
    """Nothing piles up on the way: a writer of 500 MB gets only as far as what the sockets hold."""
    noted = tmp_path / "pid"
    with pytest.raises(StepTimeoutError, match="bytes until then") as caught:
        piped(kube, pod, "head -c 500000000 /dev/zero", f"echo $$ > {noted}; exec sleep 60", timeout_seconds=5)
    os.kill(int(noted.read_text()), signal.SIGKILL)  # as on a node: what was begun by exec outlives who asked for it
    moved = int(caught.value.what.rpartition("(")[2].split()[0])
    assert 0 < moved < 100_000_000


@pytest.mark.long
def test_g05_what_is_held_is_not_read_and_goes_on_where_it_stood(kube: Kube, pod: str, tmp_path: Path) -> None:
    """Anyone who watches a volume fill says no: the writer waits, and not a byte is lost afterwards."""
    (tmp_path / "sent").write_bytes(os.urandom(60_000_000))
    said: list[int] = []

    def watch(count: int) -> bool:
        said.append(count)
        return len(said) > 8

    writer = Command("default", pod, "main", ["sh", "-c", f"cat {tmp_path}/sent"])
    reader = Command("default", pod, "main", ["sh", "-c", f"cat > {tmp_path}/got; sleep 1"])
    slow = Command("default", pod, "main", ["sh", "-c", f"sleep 1; cat {tmp_path}/sent"])
    assert kube.pipe(slow, reader, timeout_seconds=60, on_bytes=watch).bytes == 60_000_000
    assert said[1:8] == [said[1]] * 7 and (tmp_path / "got").read_bytes() == (tmp_path / "sent").read_bytes()
    with pytest.raises(RuntimeError, match="full"):
        kube.pipe(writer, reader, timeout_seconds=60, on_bytes=full)


def full(count: int) -> bool:
    raise RuntimeError("full")
