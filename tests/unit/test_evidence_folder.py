"""The auditor's folder: nothing of the population is left out, and each archive is verified by a shell alone."""

from __future__ import annotations

import csv
import hashlib
import html
import io
import json
import re
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import segno
import yaml
from evidence_sample import RUNBOOK, SITE, Event, at, failed, unproven, verified
from test_evidence_due import day, sealed

from drillbook.cli.app import status
from drillbook.evidence import Ledger
from drillbook.evidence.archive import archive, lines_by_run
from drillbook.evidence.population import Entry, as_csv
from drillbook.evidence.signatures import new_key, sign, signer_of
from drillbook.evidence.trust import Trust, TrustedKey, write_trust
from drillbook.evidence.writing import write_whole
from drillbook.model import parse_instant
from drillbook.report.trend import pictures

NEEDS_OPENSSL = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not on this machine")
SITES = Path(__file__).parents[2] / "sites"
QUESTIONS = yaml.safe_load((Path(__file__).parents[1] / "assets" / "auditor" / "questions.yaml").read_text())


def asked() -> list[Event]:
    """A drill that a person asked for, and that waited for another's approval."""
    events = verified()
    events[0] |= {"schema": 2, "package_sha256": "a" * 64}
    events[0]["parameters"] |= {"requested_by": "Ada Lovelace", "ticket": "OPS-7"}
    approval = {
        "actor": {"username": "grace", "strength": "api", "name": "Grace Hopper"},
        "how": "approve",
        "at": at(400),
    }
    passed = {"type": "confirmed", "at": at(500), "section": "Cut over", "digest": "0" * 64, "waited_seconds": 200.0}
    return [*events[:-1], passed | {"approvals": [approval]}, events[-1]]


@pytest.fixture(scope="module")
def year(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Half a year: done, repeated until green, a month missing, a failure, one never sealed, one unscheduled, one removed."""
    home = tmp_path_factory.mktemp("year")
    private, public, keyid = new_key("ed25519")
    write_whole(home / "key.pem", private, 0o600)
    key = TrustedKey(keyid=keyid, public=public, owner="runner", valid_from=parse_instant("2020-01-01T00:00:00Z"))
    write_trust(home / "trust.yaml", Trust(keys=(key,)))
    (home / "evidence.pub.pem").write_text(public)
    outputs, trust = home / "outputs", Trust(keys=(key,))
    runs = [
        sealed(outputs, at, events)
        for at, events in (
            (day(1, 4), verified),
            (day(2, 1), failed),
            (day(2, 2), verified),
            (day(4, 5), unproven),
            (day(5, 3), failed),
            (day(6, 7), asked),
        )
    ]
    for folder in runs:
        sign(folder, Ledger.of(outputs, SITE), signer_of("file:key.pem", trust, home), trust)
    Ledger.of(outputs, SITE).open("20260610T100000Z-killed", RUNBOOK)
    digest = hashlib.sha256((home / "trust.yaml").read_bytes()).hexdigest()
    profile = {
        "extends": str(SITES / "synergyflow.yaml"),
        "name": SITE,
        "schedules": [{"runbook": RUNBOOK, "every": "month", "within": "8d"}],
        "evidence": {"trust": "trust.yaml", "trust_sha256": digest},
    }
    (home / "site.yaml").write_text(yaml.safe_dump(profile))
    return home


@pytest.fixture
def home(year: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    copy = Path(shutil.copytree(year, tmp_path / "home"))
    monkeypatch.setenv("DRILLBOOK_OUTPUTS", str(copy / "outputs"))
    return copy


def written(home: Path, *more: str) -> tuple[int, Path]:
    to = home / "for-the-auditor"
    argv = [
        "evidence",
        "--site",
        str(home / "site.yaml"),
        "--out",
        str(to),
        "--from",
        "2026-01-01",
        "--to",
        "2026-07-01",
    ]
    return status([*argv, *more]), to


@pytest.fixture(scope="module")
def folder(year: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What an auditor gets."""
    copy = Path(shutil.copytree(year, tmp_path_factory.mktemp("auditor") / "home"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DRILLBOOK_OUTPUTS", str(copy / "outputs"))
        assert written(copy)[0] == 0
    return copy / "for-the-auditor"


def rows(to: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO((to / "population.csv").read_text())))


def test_i16_the_population_leaves_nothing_out(home: Path) -> None:
    code, to = written(home)
    found = rows(to)
    assert code == 0
    by_month = {row["opened_at"][5:7] or row["period"][-11:-9]: row for row in found}
    assert [row["verdict"] for row in found if row["opened_at"][5:7] == "02"] == ["FAILED", "VERIFIED"]
    assert [row["planned"] for row in found if row["opened_at"][5:7] == "02"] == ["planned", "repeated"]
    assert (by_month["03"]["state"], by_month["03"]["run_id"]) == ("missing", "")
    assert (by_month["04"]["verdict"], by_month["05"]["verdict"]) == ("UNPROVEN", "FAILED")
    assert by_month["05"]["cause"].startswith("amcheck")
    assert {row["signed"] for row in found if row["state"] == "sealed"} == {"yes"}
    assert float(by_month["01"]["recovery_seconds"]) == 253.6
    assert float(by_month["01"]["recovery_objective_seconds"]) == 3600
    page = (to / "summary.html").read_text()
    for words in ("3 of 6 tests that were due are done", "1 failed", "1 missing", "1 unproven", "What was not tested"):
        assert words in page, words
    assert "complies" not in page and "http" not in page.partition("<main>")[2]
    assert {path.stem for path in (to / "runs").iterdir()} == {
        row["run_id"] for row in found if row["state"] == "sealed"
    }


def words_of(page: str) -> str:
    """What a person reads: the page's text without marks, styles and white space."""
    body = re.sub(r"<(style|script)\b.*?</\1>", " ", page.partition("<main>")[2], flags=re.DOTALL).replace("<wbr>", "")
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", body)).split())


@pytest.mark.parametrize("asked_for", QUESTIONS, ids=lambda item: item["question"][:40])
def test_i16_one_page_answers_ten_questions_of_an_auditor(folder: Path, asked_for: dict[str, Any]) -> None:
    read = words_of((folder / "summary.html").read_text())
    assert len(QUESTIONS) == 10
    assert not [answer for answer in asked_for["answer"] if answer not in read], read


def test_i16_people_stand_next_to_the_identities_that_acted(home: Path) -> None:
    _, to = written(home)
    (row,) = [row for row in rows(to) if row["opened_at"][5:7] == "06" and row["verdict"]]
    assert row["asked_by"] == "Ada Lovelace (system:serviceaccount:drillbook:drillbook)" and row["ticket"] == "OPS-7"
    assert row["approved_by"] == "Grace Hopper (grace)" and row["identity"] == "api"
    run = next((home / "outputs" / RUNBOOK).glob("20260607*"))
    report = (run / "report.html").read_text()
    assert json.loads((run / "record.json").read_bytes())["circumstances"]["package_sha256"] == "a" * 64
    assert "Ada Lovelace" in words_of(report) and "Grace Hopper" in words_of(report)
    digest = hashlib.sha256((run / "record.json").read_bytes()).hexdigest()
    assert digest in words_of(report), "the page says which record it was made from"
    code = segno.make(f"run {run.name} record.json sha256 {digest}", error="m", micro=False)
    assert code.svg_inline(border=4, light="#fff", omitsize=True) in report


def test_i16_the_index_leads_to_every_report_and_draws_each_figure(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outputs = home / "outputs"
    assert status(["index", "--site", str(home / "site.yaml")]) == 1, "the folder of a run that was opened is missing"
    assert "20260610T100000Z-killed" in capsys.readouterr().out
    page = (outputs / "index.html").read_text()
    reports = {str(path.relative_to(outputs)) for path in outputs.glob("*/*/report.html")}
    assert reports == set(re.findall(r'href="([^"]+)"', page)) and len(reports) == 6
    read = words_of(page)
    for name in ("recovery time", "recovery point", "size of the base backup"):
        assert f"{RUNBOOK}: {name}" in read, name
    assert page.count("<circle") and "objective 1 h" in read and "run 20260607" in read


def test_i16_a_figure_that_missed_its_objective_is_a_cross() -> None:
    def run(month: int, seconds: float, met: bool, verdict: str = "VERIFIED") -> Entry:
        figure = ("recovery time", seconds, 60.0, met)
        opened = day(month, 1)
        return Entry(
            run_id=str(month), runbook="x", state="sealed", verdict=verdict, opened_at=opened, measured=(figure,)
        )

    (drawn,) = pictures([run(3, 90, False), run(1, 30, True), run(2, 40, True, "UNPROVEN")])
    assert [mark["tone"] for mark in drawn["marks"]] == ["good", "doubt", "bad"], "in order of time"
    assert drawn["says"] == "3 runs, last 1 min 30 s, from 30 s to 1 min 30 s; objective 1 min, missed once"
    assert drawn["marks"][2]["y"] < drawn["objective"]["y"] < drawn["marks"][1]["y"], "longer is higher"
    assert pictures([Entry(runbook="x", state="missing")]) == []


@pytest.mark.parametrize(
    ("off", "labels"),
    [
        ((0.12, -0.31), {"+12%", "\N{MINUS SIGN}31%", "0%"}),
        ((0.01, -0.31), {"+1%", "\N{MINUS SIGN}31%"}),
        ((-0.1, -0.31), {"0%", "\N{MINUS SIGN}31%"}),
        ((0.12, 0.3), {"0%", "+30%"}),
        ((0.001, 0.0), {"0%"}),
    ],
)
def test_i16_the_labels_of_a_picture_are_what_was_measured_and_apart(
    off: tuple[float, float], labels: set[str]
) -> None:
    entries = [
        Entry(run_id=f"{n}", runbook="x", state="sealed", verdict="VERIFIED", opened_at=day(n, 1), forecast_off=value)
        for n, value in enumerate(off, start=1)
    ]
    (drawn,) = pictures(entries)
    assert {tick["label"] for tick in drawn["ticks"]} == labels


def test_i16_a_run_that_was_opened_long_ago_and_vanished_has_a_row(home: Path) -> None:
    gone = next((home / "outputs" / RUNBOOK).glob("20260607*"))
    shutil.rmtree(gone)
    to = home / "for-the-auditor"
    argv = [
        "evidence",
        "--site",
        str(home / "site.yaml"),
        "--out",
        str(to),
        "--from",
        "2026-01-01",
        "--to",
        "2030-01-01",
    ]
    assert status(argv) == 1
    states = {row["run_id"]: row for row in rows(to)}
    assert states[gone.name]["state"] == "missing folder" and "sealed as VERIFIED" in states[gone.name]["evidence"]
    assert states["20260610T100000Z-killed"]["state"] == "missing folder"


def unpacked(home: Path, folder: Path) -> Path:
    place = home / "unpacked"
    with tarfile.open(fileobj=io.BytesIO(archive(folder, lines_by_run(Ledger.of(home / "outputs", SITE))))) as tar:
        # Debian 12's Python 3.11.2 has no filters yet; the archive is our own.
        tar.extractall(place, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))  # noqa: S202
    return place


def run_of(home: Path) -> Path:
    return next((home / "outputs" / RUNBOOK).glob("20260202*"))


def shell(place: Path, *key: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["sh", "verify.sh", *key], cwd=place, capture_output=True, text=True)


@NEEDS_OPENSSL
def test_i16_an_archive_is_the_same_to_the_byte_and_a_shell_verifies_it(home: Path) -> None:
    folder, lines = run_of(home), lines_by_run(Ledger.of(home / "outputs", SITE))
    first = archive(folder, lines)
    for path in folder.iterdir():
        path.touch()
        path.chmod(0o600)
    assert archive(folder, lines) == first
    place = unpacked(home, folder)
    done = shell(place, str(home / "evidence.pub.pem"))
    assert (done.returncode, done.stdout.splitlines()[-2:]) == (0, ["  signed by this key", "intact"]), done
    assert "was not checked" in shell(place).stdout


def test_i16_without_openssl_the_shell_says_that_the_signature_was_not_checked(home: Path, tmp_path: Path) -> None:
    place = unpacked(home, run_of(home))
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("sh", "sha256sum", "cut", "grep", "tail"):
        (tools / name).symlink_to(str(shutil.which(name)))
    argv = ["sh", "verify.sh", str(home / "evidence.pub.pem")]
    done = subprocess.run(argv, cwd=place, capture_output=True, text=True, env={"PATH": str(tools)})
    assert done.returncode == 2 and "there is no openssl here" in done.stdout and "intact" not in done.stdout, done


def edited(name: str, old: bytes, new: bytes) -> Callable[[Path, str], None]:
    def change(place: Path, run: str) -> None:
        path = place / name.format(run=run)
        data = path.read_bytes()
        assert old in data, name
        path.write_bytes(data.replace(old, new, 1))

    return change


WAYS = {
    "a file": (edited("{run}/record.json", b"VERIFIED", b"verified"), "a file is not what was sealed"),
    "the journal": (edited("{run}/journal.jsonl", b'"seq":4', b'"seq":40'), "does not continue the line before it"),
    "the ledger": (
        edited("{run}.ledger.jsonl", b"VERIFIED", b"verified"),
        "its last line is not the one that was signed",
    ),
    "the sums": (edited("{run}/SHA256SUMS", b"record", b"recorD"), "is not the one that the ledger sealed"),
    "the signature": (
        lambda place, run: (place / run / "attestation.sig").write_bytes(b"0" * 64) and None,
        "is not this key's signature",
    ),
    "the signed bytes": (edited("{run}/attestation.pae", b"VERIFIED", b"verified"), "is not this key's signature"),
}


@NEEDS_OPENSSL
@pytest.mark.parametrize("way", WAYS)
def test_i16_the_shell_names_what_was_changed(home: Path, way: str) -> None:
    folder = run_of(home)
    place = unpacked(home, folder)
    change, said = WAYS[way]
    change(place, folder.name)
    done = shell(place, str(home / "evidence.pub.pem"))
    assert done.returncode == 1 and said in done.stdout, done.stdout


def test_i16_with_the_whole_ledger_the_shell_names_a_line_that_was_removed(home: Path) -> None:
    _, to = written(home)
    place = unpacked(home, run_of(home))
    whole = place / "ledger.jsonl"
    shutil.copy(to / "ledger.jsonl", whole)
    done = shell(place, "", "ledger.jsonl")
    assert done.returncode == 0 and "ledger: 13 lines" in done.stdout, done.stdout
    lines = whole.read_bytes().splitlines(keepends=True)
    whole.write_bytes(b"".join(lines[:2] + lines[4:]))
    done = shell(place, "", "ledger.jsonl")
    assert done.returncode == 1 and "line 3 does not continue the line before it" in done.stdout
    whole.write_bytes(b"".join(lines[:3]))
    assert "the whole ledger has no such line" in shell(place, "", "ledger.jsonl").stdout


@NEEDS_OPENSSL
def test_i16_the_shell_takes_no_other_key(home: Path) -> None:
    (home / "other.pem").write_text(new_key("ed25519")[1])
    assert shell(unpacked(home, run_of(home)), str(home / "other.pem")).returncode == 1


def test_i16_a_cell_is_no_formula_and_a_folder_is_never_mixed(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = as_csv([Entry(runbook="x", state="sealed", cause="=HYPERLINK(1)", asked_by="+a", approved_by="@b")])
    assert "'=HYPERLINK(1)" in text and "'+a" in text and "'@b" in text
    _, to = written(home)
    before = sorted(path.name for path in to.rglob("*"))
    assert written(home)[0] == 4 and sorted(path.name for path in to.rglob("*")) == before
    argv = ["evidence", "--site", str(home / "site.yaml"), "--out", str(home / "x")]
    assert status([*argv, "--from", "2026-07-01", "--to", "2026-01-01"]) == 4
    assert status([*argv, "--from", "once", "--to", "later"]) == 4
    assert "--from" in capsys.readouterr().err and not (home / "x").exists()
