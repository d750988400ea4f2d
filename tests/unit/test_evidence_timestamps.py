"""Time stamps by RFC 3161, from a real authority that the test makes with openssl, over loopback."""

from __future__ import annotations

import shutil
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import yaml
from evidence_sample import RUN_ID, SITE, make_run
from fix_vault import FAILED, SITES, Machine, Store, machine, store

from drillbook.cli.app import status
from drillbook.errors import ParameterError
from drillbook.evidence import Ledger, stamp_if_asked
from drillbook.evidence.timestamps import authority, stamp_findings
from drillbook.evidence_store import archive_sealed
from drillbook.profile import load_site
from drillbook.profile.evidence import EvidenceSettings

__all__ = ["machine", "store"]
pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not on this machine")

CONFIG = """
[req]
distinguished_name = dn
[dn]
[ca]
basicConstraints = critical,CA:true
[tsa]
extendedKeyUsage = critical,timeStamping
keyUsage = critical,digitalSignature
[tsa_config]
serial = serial
signer_digest = sha256
default_policy = 1.2.3.4.1
digests = sha256
accuracy = secs:1
"""


class Authority:
    """`openssl ts -reply` behind an HTTP server of the test's; ``ca`` is its certificate."""

    def __init__(self, home: Path, name: str) -> None:
        self.home = home / name
        self.home.mkdir()
        (self.home / "c.cnf").write_text(CONFIG)
        (self.home / "serial").write_text("01\n")
        new = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-config", "c.cnf"]
        self._openssl(
            "req", "-x509", *new, "-keyout", "ca.key", "-out", "ca.pem", "-subj", f"/CN={name}", "-extensions", "ca"
        )
        self._openssl("req", *new, "-keyout", "tsa.key", "-out", "tsa.csr", "-subj", f"/CN={name} stamps")
        self._openssl(
            *("x509", "-req", "-in", "tsa.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial"),
            *("-out", "tsa.pem", "-extfile", "c.cnf", "-extensions", "tsa", "-days", "30"),
        )
        self.ca = self.home / "ca.pem"
        self.answer = "stamp"
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                query = self.rfile.read(int(self.headers["Content-Length"]))
                data = outer.stamp(query) if outer.answer == "stamp" else b"hello"
                self.send_response(500 if outer.answer == "refuse" else 200)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/tsr"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def stamp(self, query: bytes) -> bytes:
        (self.home / "query.tsq").write_bytes(query)
        asked = ["-config", "c.cnf", "-section", "tsa_config", "-queryfile", "query.tsq", "-out", "answer.tsr"]
        self._openssl("ts", "-reply", *asked, "-signer", "tsa.pem", "-inkey", "tsa.key")
        return (self.home / "answer.tsr").read_bytes()

    def _openssl(self, *argv: str) -> None:
        subprocess.run(["openssl", *argv], cwd=self.home, check=True, capture_output=True)


@pytest.fixture(scope="module")
def authorities(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Authority, Authority]]:
    home = tmp_path_factory.mktemp("tsa")
    made = Authority(home, "first"), Authority(home, "second")
    yield made
    for one in made:
        one.server.shutdown()
        one.server.server_close()


@pytest.fixture
def tsa(authorities: tuple[Authority, Authority]) -> Authority:
    authorities[0].answer = "stamp"
    return authorities[0]


def settings(tsa: Authority, ca: Path | None = None) -> EvidenceSettings:
    return EvidenceSettings.model_validate({"timestamp": {"url": tsa.url, "ca": str(ca or tsa.ca)}})


def stamped_profile(machine: Machine, tsa: Authority) -> None:
    """Have the machine's profile ask this authority for time stamps."""
    values = yaml.safe_load(machine.profile.read_text())
    shutil.copyfile(tsa.ca, machine.home / "tsa.pem")
    values["evidence"]["timestamp"] = {"url": tsa.url, "ca": "tsa.pem"}
    machine.profile.write_text(yaml.safe_dump(values))


@pytest.fixture
def ledger(tsa: Authority, tmp_path: Path) -> Ledger:
    """Two runs, the head stamped after each."""
    outputs, found = tmp_path / "outputs", Ledger.of(tmp_path / "outputs", SITE)
    for run_id in (RUN_ID, FAILED):
        make_run(outputs, run_id, page=False)
        assert stamp_if_asked(found, settings(tsa)) == ""
    return found


def test_i16_a_stamp_is_over_the_ledgers_head_and_openssl_alone_accepts_it(
    ledger: Ledger, tsa: Authority, tmp_path: Path
) -> None:
    count, _ = ledger.lines()
    assert ledger.stamped() == [count // 2, count]
    found, said = stamp_findings(ledger, authority(tsa.ca))
    assert found == [] and said.startswith(f"line {count} of {SITE}.jsonl was there at ")
    line = tmp_path / "line"
    line.write_bytes(ledger.path.read_bytes().splitlines(keepends=True)[-1])
    argv = ["openssl", "ts", "-verify", "-in", str(ledger.token(count)), "-data", str(line), "-CAfile", str(tsa.ca)]
    assert subprocess.run(argv, check=False, capture_output=True).returncode == 0
    line.write_bytes(b"another\n")
    assert subprocess.run(argv, check=False, capture_output=True).returncode != 0


def test_i16_to_stamp_again_asks_for_nothing(ledger: Ledger, tsa: Authority) -> None:
    tsa.answer = "refuse"
    assert stamp_if_asked(ledger, settings(tsa)) == ""


@pytest.mark.parametrize("what", ["line changed", "end cut off", "token changed", "token of another line", "other CA"])
def test_i16_what_is_wrong_with_a_stamp_is_named(
    ledger: Ledger, authorities: tuple[Authority, Authority], what: str
) -> None:
    count, _ = ledger.lines()
    lines = ledger.path.read_bytes().splitlines(keepends=True)
    token, roots = ledger.token(count), authority(authorities[0].ca)
    if what == "line changed":
        ledger.path.write_bytes(b"".join(lines[:-1]) + lines[-1].replace(b"VERIFIED", b"FAILED"))
        words = f"line {count} of the ledger is not the one that was stamped"
    elif what == "end cut off":
        ledger.path.write_bytes(b"".join(lines[:-1]))
        words = f"stamps line {count}, which is not in the ledger: its end was cut off"
    elif what == "token changed":
        data = bytearray(token.read_bytes())
        data[-5] ^= 1
        token.write_bytes(bytes(data))
        words = f"{SITE}.{count}.tsr: "
    elif what == "token of another line":
        shutil.copyfile(ledger.token(count // 2), token)
        words = "is not the one that was stamped"
    else:
        roots = authority(authorities[1].ca)
        words = f"{SITE}.{count}.tsr: "
    found, _ = stamp_findings(ledger, roots)
    assert any(words in str(finding) and finding.tampered for finding in found), found


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("refuse", "answered 500"),
        ("hello", "it is not a time stamp"),
        ("down", "did not answer"),
        ("other", "is no time stamp of"),
    ],
)
def test_i16_an_authority_that_fails_holds_nothing_up_and_is_named(
    authorities: tuple[Authority, Authority], tmp_path: Path, answer: str, words: str
) -> None:
    tsa, other = authorities
    tsa.answer = answer if answer in ("refuse", "hello") else "stamp"
    asked = settings(tsa, other.ca if answer == "other" else None)
    if answer == "down":
        asked = EvidenceSettings.model_validate({"timestamp": {"url": "http://127.0.0.1:9/", "ca": str(tsa.ca)}})
    make_run(tmp_path / "outputs", page=False)
    ledger = Ledger.of(tmp_path / "outputs", SITE)
    why = stamp_if_asked(ledger, asked)
    assert why.startswith("no time stamp: ") and words in why, why
    assert ledger.stamped() == []


def test_i16_stamps_are_archived_and_verified_from_the_bucket(
    machine: Machine,
    store: Store,
    tsa: Authority,
    authorities: tuple[Authority, Authority],
    capsys: pytest.CaptureFixture[str],
) -> None:
    stamped_profile(machine, tsa)
    folder = machine.run(RUN_ID)
    ledger = Ledger.of(machine.outputs, SITE)
    assert stamp_if_asked(ledger, machine.site.evidence) == ""
    assert archive_sealed(machine.outputs, machine.site, folder) == ""
    assert [key.rpartition("/")[2] for key in store.keys(f"{machine.prefix}/{SITE}/ledger/") if "tsr" in key] == [
        f"{ledger.lines()[0]:010d}.tsr"
    ]
    asked = ["verify", machine.location, "--site", str(machine.profile)]
    assert status(asked) == 0
    assert f"time stamp: line {ledger.lines()[0]} of {SITE}.jsonl was there at" in capsys.readouterr().out
    assert status([*asked, "--stamp-ca", str(authorities[1].ca)]) == 1
    assert ".tsr: " in capsys.readouterr().err


def test_i16_an_upload_that_is_tried_again_asks_for_the_stamp_that_is_missing(
    machine: Machine, store: Store, tsa: Authority, capsys: pytest.CaptureFixture[str]
) -> None:
    stamped_profile(machine, tsa)
    folder = machine.run(RUN_ID)
    ledger = Ledger.of(machine.outputs, SITE)
    store.faults(refuse=True)
    tsa.answer = "refuse"
    assert stamp_if_asked(ledger, machine.site.evidence) and archive_sealed(machine.outputs, machine.site, folder)
    store.faults()
    asked = ["archive", "--site", str(machine.profile)]
    assert status(asked) == 2, "the run is archived, its stamp is pending"
    said = capsys.readouterr().out
    assert "archived  " in said and "no time stamp: " in said and "answered 500" in said
    assert ledger.stamped() == []
    tsa.answer = "stamp"
    assert status(asked) == 0
    assert ledger.stamped() == [ledger.lines()[0]]
    assert [key for key in store.keys(f"{machine.prefix}/{SITE}/ledger/") if key.endswith(".tsr")]
    requests = int((tsa.home / "serial").read_text(), 16)
    assert status(asked) == 0
    assert int((tsa.home / "serial").read_text(), 16) == requests, "a head that is stamped is not stamped again"
    assert status(["verify", machine.location, "--site", str(machine.profile)]) == 0


def test_i16_verify_says_whether_there_is_a_stamp(
    ledger: Ledger, tsa: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DRILLBOOK_OUTPUTS", str(tmp_path / "outputs"))
    assert status(["verify", "--stamp-ca", str(tsa.ca)]) == 0
    assert "by an authority that counts" in capsys.readouterr().out
    assert status(["verify"]) == 0
    assert "by which authority was not checked: no CA is given" in capsys.readouterr().out
    for number in ledger.stamped():
        ledger.token(number).unlink()
    assert status(["verify"]) == 0
    assert "no time stamp configured" in capsys.readouterr().out


@pytest.mark.parametrize("url", ["", "ftp://tsa", "https://user:word@tsa.example/"])
def test_i16_an_address_that_is_none_is_refused(tmp_path: Path, url: str) -> None:
    site = tmp_path / "site.yaml"
    evidence = {"timestamp": {"url": url}}
    site.write_text(yaml.safe_dump({"extends": str(SITES / "synergyflow.yaml"), "name": SITE, "evidence": evidence}))
    with pytest.raises(ParameterError) as refused:
        load_site(str(site))
    assert "evidence.timestamp.url" in str(refused.value) and "evidence.timestamp.ca: is missing" in str(refused.value)
