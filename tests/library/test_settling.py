"""What a run that ended badly has left is undone: with a full disk, an empty journal, another machine, and nobody listening."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.lab.fix_apiserver import Api
from tests.library.fix_kube import config_map
from tests.unit.evidence_sample import opened

from drillbook import kube as k8s
from drillbook.cli import headless
from drillbook.cli.headless.housekeeping import _settled
from drillbook.cli.headless.settling import settle, undo
from drillbook.engine import LEASE_SECONDS, lease_name
from drillbook.engine import undo as restoring
from drillbook.engine.alive import RunLock, alive
from drillbook.engine.cluster_lock import require_ended
from drillbook.engine.observations import Observations
from drillbook.engine.previous_attempts import PreviousAttempts
from drillbook.engine.show import Display
from drillbook.engine.step import Obligation
from drillbook.errors import EvidenceUnwritable, NotResumable, ParameterError, RunInProgress
from drillbook.evidence import Journal, Ledger, Masker, verify
from drillbook.evidence.facts import Cut, Facts
from drillbook.kube import Kube
from drillbook.manifests.recovery import EXPIRES, RUN_LABEL
from drillbook.model import Check, Verdict
from drillbook.profile import Site, load_site

RUNBOOK = "recover-point-in-time"
RUN = "20261101T101500Z-1a2b3c"
NAMESPACES = ("drillbook", "drillbook-drills")
PROFILE = """\
name: shop
environment: test
kubernetes: {{kubeconfig: {kubeconfig}, context: lab-admin}}
cluster: {{namespace: databases, name: shop-db}}
tenants: [{{database: shop, app_role: shop_app}}]
"""


@pytest.fixture
def site(api: Api, kube: Kube, tmp_path: Path) -> Iterator[Site]:
    path = tmp_path / "shop.yaml"
    path.write_text(PROFILE.format(kubeconfig=api.kubeconfig), encoding="utf-8")
    for name in NAMESPACES:
        if kube.get(k8s.NAMESPACE, "", name) is None:
            kube.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    yield load_site(path)
    lease = kube.get(k8s.LEASE, "drillbook", "drillbook-shop-db")
    if lease is not None:
        kube.delete(k8s.LEASE, "drillbook", "drillbook-shop-db", uid=lease["metadata"]["uid"])


def dead_run(tmp_path: Path, *, host: str = "", run_id: str = RUN) -> tuple[Path, Journal]:
    """A run whose process is gone, in its own folder."""
    folder = tmp_path / "outputs" / RUNBOOK / run_id
    (folder / "logs").mkdir(parents=True)
    journal = Journal.open(folder / "journal.jsonl")
    data = opened(
        run_id=run_id,
        runbook=RUNBOOK,
        parameters={"site": str(tmp_path / "shop.yaml"), "mode": "apply"},
        site={"name": "shop", "environment": "test", "caveats": [], "profile_sha256": ""},
        actor={"username": "kim", "strength": "api", "host": host or socket.gethostname()},
        cluster={"namespace": "databases", "name": "shop-db"},
    )
    Ledger.of(tmp_path / "outputs", "shop").open(run_id, RUNBOOK)
    journal.append(data.pop("type"), **data)
    return folder, journal


def changed(kube: Kube, journal: Journal, name: str) -> None:
    """A ConfigMap that the run has changed and promised to put back."""
    there = kube.get(k8s.CONFIG_MAP, "default", name)
    if there is not None:
        kube.delete(k8s.CONFIG_MAP, "default", name, uid=there["metadata"]["uid"])
    was = kube.create(config_map(name, value="before"))
    promise = restoring.restoration(was, {"data": {"value": "during"}}, "held for the cut")
    journal.append(
        "obligation",
        id=promise.id,
        what=promise.what,
        kind=promise.kind,
        namespace=promise.namespace,
        name=promise.name,
        uid=was["metadata"]["uid"],
        undo=promise.undo,
    )
    kube.patch(k8s.CONFIG_MAP, "default", name, {"data": {"value": "during"}})


def value(kube: Kube, name: str) -> str:
    return str((kube.get(k8s.CONFIG_MAP, "default", name) or {})["data"]["value"])


@contextmanager
def no_room(journal: Journal) -> Iterator[None]:
    """No file may grow beyond what the journal has now; the smaller second place may."""
    journal.append("fact", name="padding", value="x" * 200_000)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (journal.path.stat().st_size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_s01_a_full_disk_stops_no_undo(
    kube: Kube, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folder, journal = dead_run(tmp_path)
    names = ["s01-a", "s01-b", "s01-c", "s01-d"]
    for name in names:
        changed(kube, journal, name)
    told: list[dict[str, Any]] = []
    with no_room(journal), pytest.raises(EvidenceUnwritable, match="settled but not sealed") as caught:
        settle(folder, how="killed", message="", by="cleanup", progress=told.append)
    assert [value(kube, name) for name in names] == ["before"] * 4
    assert caught.value.exit_code == 6 and str(journal.second_place) in caught.value.what
    assert [event["type"] for event in told] == ["settled"] * 4 and all(event["unwritten"] for event in told)
    noted = journal.second_place.read_text()
    assert (
        all(f"ConfigMap/default/{name}" in noted for name in names) and "not in the journal" in capsys.readouterr().err
    )
    # With room again the same is done once more, into the journal, and the run is sealed.
    assert settle(folder, how="killed", message="", by="cleanup").verdict is not None
    assert [event["id"] for event in journal.events() if event["type"] == "settled"] == [
        f"ConfigMap/default/{n}:data.value" for n in reversed(names)
    ]
    assert verify(tmp_path / "outputs") == []


def test_s01_a_step_that_undoes_goes_on_in_the_notebook_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    told = Observations(dead_run(tmp_path)[0], Masker())
    promise = Obligation("Writes", "databases", "shop-db.shop", "let it take writes again")
    told.begin(7, "Put back", Display(told.masker.mask), undoing=True)
    with no_room(told.journal):
        told.settled(promise, "put back", "read back")
        told.check(Check(name="declared state", proves="", verdict=Verdict.VERIFIED))
        told.begin(8, "Cut over", Display(told.masker.mask))
        with pytest.raises(EvidenceUnwritable):  # nothing new is begun without evidence
            told.note(Facts(cut=Cut(kept="x" * 1000)))
    assert "put back" in told.journal.second_place.read_text() and "put back" in capsys.readouterr().err


@pytest.mark.parametrize("left", [b"", b'{"seq":1,"type":"ope', b"\n", b'{"seq":1,"at":"x","type":"torn","prev":""}\n'])
def test_s07_a_run_that_ended_before_it_began_is_in_nobodys_way(
    kube: Kube, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: bytes
) -> None:
    outputs = tmp_path / "outputs"
    monkeypatch.setenv("DRILLBOOK_OUTPUTS", str(outputs))
    folder = outputs / RUNBOOK / RUN
    folder.mkdir(parents=True)
    (folder / "journal.jsonl").write_bytes(left)
    later, _ = dead_run(tmp_path, run_id="20261101T111500Z-1a2b3c")
    assert [item.state for item in headless.runs()] == ["empty", "open"]
    lines = _settled(kube, site, datetime.now(UTC), lambda _: None)
    assert "ended before it began" in lines[0] and "settled" in lines[1] and (later / "SHA256SUMS").exists()
    assert not [finding for finding in verify(outputs) if finding.tampered and RUN in finding.where and not left]
    (folder / "page.ipynb").write_text("{}")
    for act in (lambda: headless.abandon(folder), lambda: headless.resume(folder), lambda: PreviousAttempts(folder)):
        with pytest.raises(NotResumable, match="ended before it began, and nothing was touched"):
            act()
    for other in (
        lambda: headless.finish(folder, folder / "page.ipynb"),
        lambda: headless.approve(folder, "a b c"),
        lambda: settle(folder, how="killed", message="", by="cleanup"),
    ):
        with pytest.raises(ParameterError, match="nothing was touched"):
            other()


def test_s17_a_run_that_lives_on_another_machine_is_left_alone(
    kube: Kube, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DRILLBOOK_OUTPUTS", str(tmp_path / "outputs"))
    folder, journal = dead_run(tmp_path, host="colleagues-laptop")
    changed(kube, journal, "s17")
    lease = kube.lease("drillbook", lease_name(site), RUN, ttl_seconds=LEASE_SECONDS)
    (line, *_) = _settled(kube, site, datetime.now(UTC) + timedelta(days=3), lambda _: None)
    assert "still open on colleagues-laptop" in line and value(kube, "s17") == "during"
    with pytest.raises(RunInProgress, match="colleagues-laptop"):
        headless.abandon(folder)
    with pytest.raises(RunInProgress, match="colleagues-laptop"):
        require_ended(kube, site, journal.events())
    undo(journal, journal.events()[0], Masker(), by="cleanup", progress=lambda _: None)
    assert value(kube, "s17") == "during"
    lease.release()
    lines = _settled(kube, site, datetime.now(UTC) + timedelta(days=3), lambda _: None)
    assert any("settled" in line for line in lines) and value(kube, "s17") == "before"


def test_s17_a_strangers_copy_is_not_removed_while_it_holds_the_lease(
    kube: Kube, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DRILLBOOK_OUTPUTS", str(tmp_path / "outputs"))
    run_id = "20261101t101500z-777777"
    metadata = {
        "name": "owner",
        "namespace": "drillbook-drills",
        "labels": {RUN_LABEL: run_id},
        "annotations": {EXPIRES: "2026-11-01T16:00:00Z"},
    }
    kube.create({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata})
    lease = kube.lease("drillbook", lease_name(site), run_id, ttl_seconds=LEASE_SECONDS)
    late = datetime(2030, 1, 1, tzinfo=UTC)
    (line,) = _settled(kube, site, late, lambda _: None)
    assert "it holds the Lease" in line and kube.get(k8s.CONFIG_MAP, "drillbook-drills", "owner")
    lease.release()
    (line,) = _settled(kube, site, late, lambda _: None)
    assert "removed ConfigMap" in line


def test_s17_a_glance_at_the_lock_does_not_stop_an_opening(tmp_path: Path) -> None:
    looking = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import fcntl,os,sys,time; f=os.open(sys.argv[1],os.O_CREAT|os.O_RDWR); fcntl.flock(f,2); print(1,flush=True); time.sleep(0.5)",
            str(tmp_path / ".lock"),
        ],
        stdout=subprocess.PIPE,
    )
    assert looking.stdout is not None and looking.stdout.readline()
    lock = RunLock(tmp_path)
    assert alive(tmp_path)
    with pytest.raises(EvidenceUnwritable, match="another kernel on this machine"):
        RunLock(tmp_path)
    lock.release()
    looking.wait()
    looking.stdout.close()


STOPPED = """
import signal, sys, time
from drillbook.cli.headless.runner import _Stops, _unheard
told = []
with _Stops(_unheard(told.append)) as stops:
    try:
        print("running", flush=True)
        time.sleep(60)
    except KeyboardInterrupt:
        print("notebook ended", flush=True)
    stops.settling()
    time.sleep(1.0)
    print("settled", flush=True)
"""


def _until(reader: Any, word: str) -> None:
    assert word in reader.readline()


# Without --default-signal a suite that is run under nohup would pass its own ignored SIGHUP on to the child.
@pytest.mark.parametrize(("before", "ends"), [(["env", "--default-signal=HUP"], True), (["nohup"], False)])
def test_s18_a_closed_terminal_ends_the_notebook_and_settles(before: list[str], ends: bool) -> None:
    child = subprocess.Popen(
        [*before, sys.executable, "-c", STOPPED], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    _until(child.stdout, "running")
    child.send_signal(signal.SIGHUP)
    if not ends:
        time.sleep(0.3)
        assert child.poll() is None
        child.send_signal(signal.SIGTERM)
    _until(child.stdout, "notebook ended")
    for _ in range(3):  # shell, terminal and kernel may each send one
        child.send_signal(signal.SIGHUP)
        time.sleep(0.05)
    _until(child.stdout, "settled")
    assert child.wait() == 0
    assert child.stdout is not None
    child.stdout.close()


def _pipe_without_reader() -> int:
    reader, writer = os.pipe()
    os.close(reader)
    return writer


def _terminal_that_was_closed() -> int:
    main, side = os.openpty()
    os.close(main)
    return side


@pytest.mark.parametrize(
    "lost", [_pipe_without_reader, _terminal_that_was_closed, lambda: os.open("/dev/full", os.O_WRONLY)]
)
def test_s18_an_output_that_nobody_reads_changes_no_status(lost: Callable[[], int]) -> None:
    writer = lost()
    program = (
        "import sys; from drillbook.cli import app as cli\nfor n in range(3): cli.out.print('told', n)\nsys.exit(3)"
    )
    done = subprocess.run([sys.executable, "-c", program], stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (done.returncode, done.stderr) == (3, "")


def rewritten(journal: Journal, change: Callable[[dict[str, Any]], None]) -> None:
    """Every event as ``change`` leaves it, with all links made again: what a forger with the library can do."""
    events = journal.events()
    journal.path.unlink()
    again = Journal(journal.path)
    for event in events:
        change(event)
        kept = {key: item for key, item in event.items() if key not in ("seq", "at", "type", "prev")}
        again.append(event["type"], **kept)


def failed(event: dict[str, Any]) -> None:
    if event["type"] == "check":
        event["verdict"] = "VERIFIED"


@pytest.mark.parametrize("bound", [True, False])
def test_s19_a_journal_that_is_rewritten_before_the_seal_shows(
    kube: Kube, site: Site, tmp_path: Path, bound: bool
) -> None:
    folder, journal = dead_run(tmp_path)
    ledger = Ledger.of(tmp_path / "outputs", "shop")
    journal.append(
        "check",
        n=1,
        name="rows",
        proves="",
        verdict="FAILED",
        expected="1",
        observed="2",
        reason="",
        required=True,
        seconds=0.1,
        details=[],
    )
    journal.append("waiting", section="cut", reason="", phrase="a b c", deadline="2026-11-02T00:00:00Z", digest="d")
    if bound:
        ledger.bind(journal)
    assert [finding.rule for finding in verify(tmp_path / "outputs")] == [8]
    rewritten(journal, failed)
    found = [finding for finding in verify(tmp_path / "outputs") if finding.tampered]
    assert ([finding.rule for finding in found] == [10]) is bound
    settle(folder, how="killed", message="", by="cleanup")
    found = [finding for finding in verify(tmp_path / "outputs") if finding.tampered]
    assert [finding.rule for finding in found] == ([10] if bound else [])
    assert not bound or "after event 3 (waiting)" in str(found[0])
    shutil.rmtree(folder)
