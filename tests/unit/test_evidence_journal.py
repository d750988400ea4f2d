"""The journal and the ledger: what is acknowledged is on the disk, in order, whatever happens to its writer."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from drillbook.errors import Changed, EvidenceTampered, EvidenceUnwritable, ParameterError
from drillbook.evidence import Journal, Ledger, Masker, notebook_digest, plain
from drillbook.evidence.chain import read_lines
from drillbook.evidence.journal import changed_so_far
from drillbook.evidence.links import journal_problems, ledger_problems
from drillbook.model import Lsn, Verdict

SECRET = "s3cr3t/p\"w&d'ü"


def problems(journal: Journal, *, sealed: bool = False) -> list[tuple[int, str]]:
    return list(journal_problems(*read_lines(journal.path.read_bytes()), sealed=sealed))


def run_python(code: str, *args: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code, *map(str, args)], capture_output=True, text=True, timeout=60)


def test_a_line_names_the_digest_of_the_line_before_as_sha256sum_prints_it(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path / "journal.jsonl")
    for n in range(3):
        journal.append("fact", name=f"n{n}", value=n)
    second = subprocess.run(["sed", "-n", "2p", journal.path], capture_output=True, check=True).stdout
    digest = subprocess.run(["sha256sum"], input=second, capture_output=True, check=True).stdout.split()[0].decode()
    assert [event["seq"] for event in journal.events()] == [1, 2, 3]
    assert [journal.events()[0]["prev"], journal.events()[2]["prev"]] == ["", digest]
    assert not problems(journal, sealed=True)


def test_an_event_keeps_what_it_was_given_as_json(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path / "journal.jsonl")
    value = {"lsn": Lsn("1A/FF"), "at": datetime(2026, 11, 1, tzinfo=UTC), "verdict": Verdict.FAILED, "all": (1, {"x"})}
    event = journal.append("fact", name="n", value=value)
    assert event["value"] == {"lsn": "1A/FF", "at": "2026-11-01T00:00:00Z", "verdict": "FAILED", "all": [1, ["x"]]}
    assert journal.events() == [event]


@pytest.mark.parametrize("value", [object(), float("nan"), b"bytes"])
def test_what_json_cannot_say_is_refused_and_leaves_nothing(tmp_path: Path, value: object) -> None:
    journal = Journal.open(tmp_path / "journal.jsonl")
    with pytest.raises((TypeError, ValueError)):
        journal.append("fact", name="n", value=value)
    journal.append("fact", name="next", value=1)
    assert [event["name"] for event in journal.events()] == ["next"]
    assert not problems(journal)


def test_an_event_cannot_set_its_own_place(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="can't set prev, seq"):
        Journal.open(tmp_path / "journal.jsonl").append("fact", seq=7, prev="")


def test_a_broken_byte_in_text_is_kept_as_its_escape() -> None:
    assert plain(b"a\xff".decode(errors="surrogateescape")) == "a\\udcff"


def test_two_journals_on_one_file_continue_each_other(tmp_path: Path) -> None:
    one, two = (Journal.open(tmp_path / "journal.jsonl") for _ in range(2))
    for n in range(4):
        (one, two)[n % 2].append("fact", name="n", value=n)
    assert [event["seq"] for event in one.events()] == [1, 2, 3, 4]
    assert not problems(one)


WRITER = """
import sys; from pathlib import Path; from drillbook.evidence import Journal
journal = Journal.open(Path(sys.argv[1]))
print("ready", flush=True)
while True:
    print(journal.append("fact", name="n", value="x" * 2000)["seq"], flush=True)
"""


def test_nothing_that_was_acknowledged_is_lost_when_the_writer_is_killed(tmp_path: Path) -> None:
    """kill -9 mid-append, several times on one file: every acknowledged event is there and the chain holds."""
    path = tmp_path / "journal.jsonl"
    acknowledged = 0
    for _ in range(4):
        with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "ready\n"
            for _ in range(15):
                acknowledged = int(writer.stdout.readline())
            writer.send_signal(signal.SIGKILL)
            rest = writer.stdout.read().splitlines(keepends=True)
            acknowledged = max([acknowledged, *(int(line) for line in rest if line.endswith("\n"))])
    journal = Journal.open(path)
    last = journal.append("fact", name="after", value=1)["seq"]
    assert last > acknowledged
    assert [event["seq"] for event in journal.events()] == list(range(1, last + 1))
    assert not problems(journal, sealed=True)


@pytest.mark.parametrize("keep", [1, 40, -1])
def test_a_torn_last_line_is_noted_and_never_rewritten(tmp_path: Path, keep: int) -> None:
    journal = Journal.open(tmp_path / "journal.jsonl")
    journal.append("fact", name="first", value=1)
    whole = journal.path.read_bytes()
    torn = b'{"at":"2026-11-01T10:00:00.000000Z","name":"second","prev":"00"}'[:keep]
    journal.path.write_bytes(whole + torn)
    assert problems(journal) == [(2, "does not end in a newline: its writer died midway (the next append notes it)")]
    again = Journal.open(journal.path)
    assert [event["name"] for event in again.events()] == ["first"]
    again.append("fact", name="third", value=3)
    noted = again.events()[1]
    assert (noted["type"], noted["seq"], noted["lines"], noted["bytes"]) == ("torn", 2, 1, len(torn))
    assert noted["after"] == hashlib.sha256(whole).hexdigest()
    assert journal.path.read_bytes().startswith(whole + torn + b"\n")
    assert not problems(again, sealed=True)


def test_a_line_that_only_lacks_its_newline_counts(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path / "journal.jsonl")
    journal.append("fact", name="first", value=1)
    journal.path.write_bytes(journal.path.read_bytes().rstrip(b"\n"))
    Journal.open(journal.path).append("fact", name="second", value=2)
    assert [(event["seq"], event["type"]) for event in journal.events()] == [(1, "fact"), (2, "fact")]
    assert not problems(journal, sealed=True)


LIMITED = """
import sys; from pathlib import Path; from drillbook.evidence import Journal; from drillbook.errors import EvidenceUnwritable
import resource
journal = Journal.open(Path(sys.argv[1]))
journal.append("fact", name="first", value="x" * 100)
resource.setrlimit(resource.RLIMIT_FSIZE, (1024, resource.RLIM_INFINITY))
for _ in range(2):
    try:
        journal.append("fact", name="large", value="x" * 5000)
    except EvidenceUnwritable as error:
        print(error.exit_code, error.changed, error)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
print(journal.append("fact", name="later", value=1)["seq"])
"""


def test_a_full_disk_stops_with_the_reason_and_the_journal_goes_on_when_there_is_room(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    done = run_python(LIMITED, path)
    assert done.returncode == 0, done.stderr
    first, second, last = done.stdout.splitlines()
    assert first.startswith("5 nothing journal") and first.endswith("File too large") and second == first
    assert last == "3"
    journal = Journal(path)
    assert [event["type"] for event in journal.events()] == ["fact", "torn", "fact"]
    assert not problems(journal, sealed=True)


def started(n: int, effect: str) -> dict[str, object]:
    return {"type": "step_started", "n": n, "effect": effect}


def finished(n: int, status: str) -> dict[str, object]:
    return {"type": "step_finished", "n": n, "status": status}


@pytest.mark.parametrize(
    ("events", "changed"),
    [
        ([], Changed.NOTHING),
        ([started(1, "reads"), finished(1, "done")], Changed.NOTHING),
        ([started(1, "creates"), finished(1, "planned")], Changed.NOTHING),
        ([started(1, "creates"), finished(1, "refused")], Changed.NOTHING),
        ([started(1, "creates"), finished(1, "done"), started(2, "reads")], Changed.DONE),
        ([started(1, "creates"), finished(1, "done"), started(2, "changes")], Changed.UNKNOWN),
        ([started(1, "destroys"), finished(1, "failed")], Changed.UNKNOWN),
        ([started(1, "changes"), finished(1, "done"), started(1, "changes")], Changed.UNKNOWN),
    ],
)
def test_what_a_run_has_changed_stands_in_its_journal(events: list[dict[str, object]], changed: Changed) -> None:
    assert changed_so_far(events) is changed


def test_a_full_disk_after_a_change_does_not_say_that_nothing_was_changed(tmp_path: Path) -> None:
    program = LIMITED.replace('"fact", name="first", value="x" * 100', '"step_started", n=1, effect="creates"')
    done = run_python(program, tmp_path / "journal.jsonl")
    assert done.stdout.splitlines()[0].startswith("6 unknown journal"), done.stderr


def test_a_device_without_room_is_told_by_name() -> None:
    with pytest.raises(EvidenceUnwritable, match="No space left on device"):
        Journal.open(Path("/dev/full")).append("fact", name="n", value=1)


def test_a_folder_that_is_a_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(EvidenceUnwritable, match="can't be written") as caught:
        Journal.open(tmp_path / "run" / "journal.jsonl")
    assert caught.value.exit_code == 5


def test_a_journal_that_got_shorter_under_its_writer_is_tampered(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path / "journal.jsonl")
    journal.append("fact", name="n", value=1)
    journal.append("fact", name="n", value=2)
    os.truncate(journal.path, 50)
    with pytest.raises(EvidenceTampered, match="50 bytes, less than"):
        journal.append("fact", name="n", value=3)


LEDGER_WRITER = """
import sys; from pathlib import Path; from drillbook.evidence import Ledger
ledger = Ledger(Path(sys.argv[1]))
sys.stdin.readline()
for n in range(40):
    ledger.open(f"{sys.argv[2]}-{n}", "drill")
"""


def test_two_writers_of_the_ledger_at_once_make_one_chain(tmp_path: Path) -> None:
    path = tmp_path / "ledger" / "site.jsonl"
    writers = [
        subprocess.Popen([sys.executable, "-c", LEDGER_WRITER, str(path), name], stdin=subprocess.PIPE)
        for name in ("a", "b", "c")
    ]
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write(b"\n")
        writer.stdin.close()
    assert [writer.wait(timeout=60) for writer in writers] == [0, 0, 0]
    entries = Ledger(path).entries()
    assert sorted(entry["run_id"] for entry in entries) == sorted(f"{name}-{n}" for name in "abc" for n in range(40))
    assert entries[0]["previous"] == []
    assert not list(ledger_problems(*read_lines(path.read_bytes())))


def test_a_torn_entry_of_the_ledger_is_noted(tmp_path: Path) -> None:
    ledger = Ledger.of(tmp_path, "site")
    ledger.open("one", "drill")
    with ledger.path.open("ab") as file:
        file.write(b'{"at":"2026')
    entry = ledger.open("two", "drill")
    assert entry["torn"]["lines"] == 1 and entry["torn"]["bytes"] == 11
    assert [found["run_id"] for found in ledger.entries()] == ["one", "two"]
    assert not list(ledger_problems(*read_lines(ledger.path.read_bytes())))


@pytest.mark.parametrize(
    "secret", [SECRET, "hunter2!", "a b+c/d=é", "ABCDEF", "line one of the key\nline two of the key"]
)
def test_a_planted_secret_never_survives(tmp_path: Path, secret: str) -> None:
    """In any form and place: value, key, nested JSON, base64 at each offset, URL, HTML, hexadecimal."""
    import base64
    import html
    from urllib.parse import quote, quote_plus

    masker = Masker()
    assert masker.add(secret)
    journal = Journal.open(tmp_path / "journal.jsonl", masker=masker)
    raw = secret.encode()
    authorization = [base64.b64encode(b"x" * n + b":" + raw + b"tail").decode() for n in range(3)]
    forms = [
        secret,
        f"postgresql://app:{quote(secret, safe='')}@host/db",
        f"?p={quote_plus(secret)}",
        html.escape(secret),
        json.dumps(secret),
        json.dumps(json.dumps(secret)),
        repr(secret),
        raw.hex(),
        base64.b64encode(raw).decode(),
        base64.urlsafe_b64encode(raw).decode(),
        *authorization,
    ]
    journal.append("fact", name=f"the {secret} name", value={secret: forms, "deep": [{"x": (secret,)}]})
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "cell.log").write_text(masker.mask("\n".join(forms)))
    stored = journal.path.read_text() + (tmp_path / "logs" / "cell.log").read_text()
    cores = {base64.b64encode(raw)[:-4].decode(), raw.hex(), quote(secret, safe="")}
    assert not [core for core in {*cores, secret, json.dumps(secret)[1:-1]} if core in stored]
    assert "[masked]" in stored and "host/db" in stored
    assert masker.mask(secret.encode()) == b"[masked]"


def test_public_names_stay_readable_and_a_short_secret_is_refused() -> None:
    masker = Masker(keep=["synergyflow"])
    assert not masker.add("synergyflow_app", key="username")
    assert not masker.add("synergyflow")
    assert masker.mask("synergyflow_app of synergyflow") == "synergyflow_app of synergyflow"
    with pytest.raises(ParameterError, match="password has 5 characters"):
        masker.add("abcde", key="password")
    masker.add("1234567", key="password")
    assert masker.mask({"n": 1234567, "m": 12}) == {"n": "[masked]", "m": 12}


def test_a_notebook_has_one_digest_before_and_after_it_ran(tmp_path: Path) -> None:
    source = {"cells": [{"cell_type": "markdown", "source": ["# A\n", "b"]}, {"cell_type": "code", "source": "x = 1"}]}
    ran = {
        "cells": [
            {"cell_type": "markdown", "source": "error", "metadata": {"tags": ["papermill-error-cell-tag"]}},
            {"cell_type": "markdown", "source": "# A\nb", "id": "1"},
            {"cell_type": "code", "source": "mode = 'apply'", "metadata": {"tags": ["injected-parameters"]}},
            {"cell_type": "code", "source": ["x = 1"], "outputs": [1], "execution_count": 3},
        ]
    }
    other = {"cells": [source["cells"][0], {"cell_type": "code", "source": "x = 2"}]}
    paths = [tmp_path / f"{n}.ipynb" for n in range(3)]
    for path, notebook in zip(paths, (source, ran, other), strict=True):
        path.write_text(json.dumps(notebook))
    digests = [notebook_digest(path) for path in paths]
    assert digests[0] == digests[1] != digests[2]


def test_the_process_keeps_its_limits() -> None:
    """The tests above that lower a limit do so in their own process."""
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
