"""Signed evidence: others verify it without us, and whatever was changed, by anybody without the key, is found and named."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from evidence_sample import RUN_ID, RUNBOOK, SITE, failed, make_run, unproven, verified, write_journal
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import SSlibKey

from drillbook.cli.app import status
from drillbook.errors import EvidenceTampered, ParameterError, PreconditionError
from drillbook.evidence import Ledger, canonical, record, require_intact, seal, sign_if_asked, verify
from drillbook.evidence.signatures import sign, signer_of
from drillbook.evidence.statements import STATEMENT, TEST_RESULT, statements
from drillbook.evidence.trust import Trust, TrustedKey, load_trust, write_trust
from drillbook.profile.evidence import EvidenceSettings

FOLDER = f"{RUNBOOK}/{RUN_ID}"
LEDGER = f"ledger/{SITE}.jsonl"
RUNS = ("20261001T100000Z-000001", RUN_ID, "20261201T100000Z-000003")
NOW = datetime.now(UTC)
DAY = timedelta(days=1)


def made_key(folder: Path, name: str = "key", *, scheme: str = "ed25519") -> Path:
    """A key by the command that a person types; its folder, with trust.yaml in it."""
    home = folder / name
    argv = ["key", "new", "--to", str(home), "--trust", str(home / "trust.yaml"), "--owner", f"{name} of the site"]
    assert status([*argv, "--scheme", scheme]) == 0
    return home


def uri(home: Path) -> str:
    (path,) = [path for path in home.glob("evidence-*.pem") if not path.name.endswith(".pub.pem")]
    return f"file:{path.name}"


def signed(outputs: Path, home: Path, *runs: str) -> Trust:
    trust = load_trust(home / "trust.yaml")
    for run_id in runs:
        sign(outputs / RUNBOOK / run_id, Ledger.of(outputs, SITE), signer_of(uri(home), trust, home), trust)
    return trust


@pytest.fixture(scope="module", params=["ed25519", "ecdsa-p256"])
def home(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_key(tmp_path_factory.mktemp("keys"), scheme=request.param)


@pytest.fixture(scope="module")
def good(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    outputs = tmp_path_factory.mktemp("signed")
    for run_id in RUNS:
        make_run(outputs, run_id)
        signed(outputs, home, run_id)
    return outputs


@pytest.fixture
def outputs(good: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(good, tmp_path / "outputs"))


@pytest.fixture
def trust(home: Path) -> Trust:
    return load_trust(home / "trust.yaml")


def told(outputs: Path, trust: Trust) -> list[str]:
    return [str(finding) for finding in verify(outputs, trust=trust) if finding.tampered]


def test_i16_good_runs_are_accepted_with_and_without_the_keys(outputs: Path, trust: Trust) -> None:
    assert verify(outputs, trust=trust) == []
    assert verify(outputs) == []


def test_i16_securesystemslib_alone_accepts_both_statements(outputs: Path, trust: Trust) -> None:
    """As documented for those who have that library and nothing of ours: envelope, public key, digests."""
    key = SSlibKey.from_dict(trust.keys[0].keyid, trust.keys[0].key.to_dict())
    for name in ("attestation", "test-result"):
        envelope = Envelope.from_dict(json.loads((outputs / FOLDER / f"{name}.dsse.json").read_bytes()))
        assert envelope.verify([key], 1)
        statement = json.loads(envelope.payload)
        assert statement["_type"] == STATEMENT
        for subject in statement["subject"]:
            data = (outputs / FOLDER / subject["name"]).read_bytes()
            assert hashlib.sha256(data).hexdigest() == subject["digest"]["sha256"]
        envelope.payload += b" "
        with pytest.raises(VerificationError):
            envelope.verify([key], 1)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not on this machine")
def test_i16_openssl_alone_accepts_the_bare_signature_and_refuses_another(
    outputs: Path, home: Path, trust: Trust
) -> None:
    folder = outputs / FOLDER
    (public,) = home.glob("*.pub.pem")
    if trust.keys[0].key.scheme == "ed25519":
        argv = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", str(public), "-rawin", "-in", "attestation.pae"]
        argv += ["-sigfile", "attestation.sig"]
    else:
        argv = [
            "openssl",
            "dgst",
            "-sha256",
            "-verify",
            str(public),
            "-signature",
            "attestation.sig",
            "attestation.pae",
        ]
    assert subprocess.run(argv, cwd=folder, capture_output=True).returncode == 0
    pae = (folder / "attestation.pae").read_bytes()
    (folder / "attestation.pae").write_bytes(pae.replace(b"VERIFIED", b"verified", 1))
    assert subprocess.run(argv, cwd=folder, capture_output=True).returncode != 0
    assert subprocess.run(["sha256sum", "--quiet", "-c", "SHA256SUMS"], cwd=folder).returncode == 0


@pytest.mark.parametrize(
    ("events", "result"), [(verified, "PASSED"), (failed, "FAILED"), (unproven, "FAILED")], ids=["V", "F", "U"]
)
def test_i16_only_verified_is_passed_and_nothing_is_warned(
    events: Callable[[], list[dict[str, object]]], result: str
) -> None:
    made = record(events())
    kind, payload = statements(made, {"SHA256SUMS": "00"}, {})["test-result"]
    predicate = json.loads(payload)["predicate"]
    assert (kind, predicate["result"], predicate["warnedTests"]) == (TEST_RESULT, result, [])
    verdicts = {check["name"]: check["verdict"] for check in made["checks"]}
    assert {name for name, verdict in verdicts.items() if verdict == "VERIFIED"} == set(predicate["passedTests"])
    assert {f"unproven: {name}" for name, verdict in verdicts.items() if verdict == "UNPROVEN"} <= set(
        predicate["failedTests"]
    )
    assert {name for name, verdict in verdicts.items() if verdict == "FAILED"} <= set(predicate["failedTests"])


def rewritten(outputs: Path) -> None:
    """Journal, record, report, sums and the whole ledger made again, consistently, by somebody without the key."""
    kept = {run_id: outputs / RUNBOOK / run_id for run_id in RUNS}
    (outputs / LEDGER).unlink()
    ledger = Ledger.of(outputs, SITE)
    for run_id, folder in kept.items():
        events = [e | ({"run_id": run_id} if e["type"] == "opened" else {}) for e in verified()]
        events = [e | {"username": "someone-else"} if e["type"] == "opened" else e for e in events]
        for name in ("journal.jsonl", "record.json", "SHA256SUMS", "executed.ipynb"):
            (folder / name).unlink(missing_ok=True)
        ledger.open(run_id, RUNBOOK)
        write_journal(folder / "journal.jsonl", events)
        seal(folder, ledger)


def without_signatures(outputs: Path) -> None:
    rewritten(outputs)
    for path in outputs.glob("*/*/*"):
        if path.name.startswith(("attestation.", "test-result.")):
            path.unlink()


def signed_by_another(outputs: Path) -> None:
    other = made_key(outputs.parent, "other")
    rewritten(outputs)
    for run_id in RUNS:
        for path in (outputs / RUNBOOK / run_id).glob("*"):
            if path.name.startswith(("attestation.", "test-result.")):
                path.unlink()
    signed(outputs, other, *RUNS)


def edit(name: str, old: bytes, new: bytes) -> Callable[[Path], None]:
    def change(outputs: Path) -> None:
        path = outputs / FOLDER / name
        data = path.read_bytes()
        assert old in data
        path.write_bytes(data.replace(old, new, 1))

    return change


def payload_changed(outputs: Path) -> None:
    path = outputs / FOLDER / "test-result.dsse.json"
    values = json.loads(path.read_bytes())
    envelope = Envelope.from_dict(json.loads(path.read_bytes()))
    envelope.payload = envelope.payload.replace(b'"PASSED"', b'"FAILED"')
    path.write_bytes(canonical(envelope.to_dict() | {"signatures": values["signatures"]}))
    (path.parent / "test-result.pae").write_bytes(envelope.pae())


def of_another_run(outputs: Path) -> None:
    for name in ("attestation", "test-result"):
        for suffix in ("dsse.json", "pae", "sig"):
            shutil.copy(outputs / RUNBOOK / RUNS[0] / f"{name}.{suffix}", outputs / FOLDER / f"{name}.{suffix}")


def keyid_changed(outputs: Path) -> None:
    path = outputs / FOLDER / "attestation.dsse.json"
    values = json.loads(path.read_bytes())
    values["signatures"][0]["keyid"] = "0" * 64
    path.write_bytes(canonical(values))


def swapped(outputs: Path) -> None:
    one, other = (outputs / FOLDER / f"{name}.dsse.json" for name in ("attestation", "test-result"))
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)


def ledger_made_again(outputs: Path) -> None:
    entries = Ledger.of(outputs, SITE).entries()
    (outputs / LEDGER).unlink()
    ledger = Ledger.of(outputs, SITE)
    for entry in entries:
        known = {key: entry[key] for key in ("run_id", "runbook")}
        if entry["kind"] == "seal":
            digests = {key: entry[key] for key in ("record_sha256", "sums_sha256")}
            ledger.seal(known["run_id"], known["runbook"], entry["verdict"], **digests)
        else:
            ledger.open(known["run_id"], known["runbook"])


def removed(name: str) -> Callable[[Path], None]:
    return lambda outputs: (outputs / FOLDER / name).unlink()


WAYS: dict[str, tuple[Callable[[Path], None], str]] = {
    "all made again, old signatures kept": (
        rewritten,
        "attestation.dsse.json: SHA256SUMS is not the file that was signed",
    ),
    "all made again, signatures removed": (without_signatures, "attestation.dsse.json: is missing or no envelope"),
    "all made again, signed by another key": (
        signed_by_another,
        "attestation.dsse.json: is signed by no key of the trust",
    ),
    "the ledger made again": (
        ledger_made_again,
        "the ledger's line that sealed the run is not the one that was signed",
    ),
    "the record edited": (
        edit("record.json", b"VERIFIED", b"verified"),
        "attestation.dsse.json: record.json is not the file",
    ),
    "the journal edited": (
        edit("journal.jsonl", b"lab", b"prod"),
        "attestation.dsse.json: journal.jsonl is not the file",
    ),
    "the sums edited": (edit("SHA256SUMS", b"0", b"1"), "attestation.dsse.json: SHA256SUMS is not the file"),
    "the report edited": (edit("report.html", b"VERIFIED", b"verified"), "report.html: was changed"),
    "another result signed over": (payload_changed, "test-result.dsse.json: the signature is not that of key"),
    "another run's signature": (of_another_run, "attestation.dsse.json: SHA256SUMS is not the file that was signed"),
    "another key's id": (keyid_changed, "attestation.dsse.json: is signed by no key of the trust file"),
    "both statements swapped": (swapped, "attestation.pae: is not what attestation.dsse.json holds"),
    "the envelope removed": (removed("attestation.dsse.json"), "attestation.dsse.json: is missing or no envelope"),
    "the bare signature removed": (
        removed("attestation.sig"),
        "attestation.sig: is not what attestation.dsse.json holds",
    ),
    "the bare signature edited": (
        lambda outputs: (outputs / FOLDER / "attestation.sig").write_bytes(b"0" * 64) and None,
        "attestation.sig: is not what attestation.dsse.json holds",
    ),
    "the signed bytes edited": (edit("attestation.pae", b"VERIFIED", b"verified"), "attestation.pae: is not what"),
    "no envelope": (
        lambda outputs: (outputs / FOLDER / "test-result.dsse.json").write_text("{}") and None,
        "test-result.dsse.json: is no envelope",
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_i16_what_was_changed_without_the_key_is_named(outputs: Path, trust: Trust, way: str) -> None:
    change, said = WAYS[way]
    change(outputs)
    found = told(outputs, trust)
    assert any(line.startswith(FOLDER) and said in line for line in found), found
    with pytest.raises(EvidenceTampered):
        require_intact(verify(outputs, trust=trust))


def test_i16_a_signing_that_was_killed_is_done_again(outputs: Path, home: Path, trust: Trust) -> None:
    """The attestation's envelope is written last: without it the run counts as not signed."""
    for kept in (0, 2, 4):
        names = [
            f"{name}.{suffix}" for name in ("test-result", "attestation") for suffix in ("pae", "sig", "dsse.json")
        ]
        for name in names[kept:]:
            (outputs / FOLDER / name).unlink(missing_ok=True)
        assert any("is not signed" in line for line in told(outputs, trust))
        signed(outputs, home, RUN_ID)
        assert verify(outputs, trust=trust) == []


@pytest.fixture
def one(tmp_path: Path) -> tuple[Path, Path]:
    """One sealed run, and a key."""
    home = made_key(tmp_path)
    make_run(tmp_path / "outputs", RUN_ID)
    return tmp_path / "outputs", home


def with_changes(home: Path, **changes: object) -> Trust:
    known = load_trust(home / "trust.yaml")
    return Trust(keys=(TrustedKey.model_validate(known.keys[0].model_dump() | changes),))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"valid_from": NOW - 9 * DAY, "valid_until": NOW - DAY}, "expired at"),
        ({"valid_from": NOW + DAY, "valid_until": NOW + 2 * DAY}, "is valid from"),
        ({"valid_from": NOW - 9 * DAY, "revoked_at": NOW - DAY, "reason": "laptop stolen"}, "laptop stolen"),
    ],
    ids=["expired", "not yet valid", "revoked"],
)
def test_i16_a_key_that_does_not_count_neither_signs_nor_is_believed(
    one: tuple[Path, Path], changes: dict[str, object], said: str
) -> None:
    outputs, home = one
    ended = with_changes(home, **changes)
    with pytest.raises(PreconditionError, match=said):
        sign(outputs / FOLDER, Ledger.of(outputs, SITE), signer_of(uri(home), ended, home), ended)
    signed(outputs, home, RUN_ID)
    assert any(said in line for line in told(outputs, ended))


def test_i16_a_signature_outlives_its_key_where_a_later_run_of_another_key_names_it(
    one: tuple[Path, Path], tmp_path: Path
) -> None:
    outputs, home = one
    signed(outputs, home, RUN_ID)
    assert (
        status(
            [
                "key",
                "revoke",
                load_trust(home / "trust.yaml").keys[0].keyid[:12],
                "--trust",
                str(home / "trust.yaml"),
                "--reason",
                "seen",
            ]
        )
        == 0
    )
    (alone,) = verify(outputs, trust=load_trust(home / "trust.yaml"))
    assert not alone.tampered and "by this machine's clock alone" in alone.what
    next_home = made_key(tmp_path, "next")
    make_run(outputs, RUNS[2])
    signed(outputs, next_home, RUNS[2])
    both = Trust(keys=(*load_trust(home / "trust.yaml").keys, *load_trust(next_home / "trust.yaml").keys))
    assert verify(outputs, trust=both) == []


def test_i16_a_rotated_key_counts_until_then_and_the_new_one_from_then_on(
    one: tuple[Path, Path], tmp_path: Path
) -> None:
    outputs, home = one
    signed(outputs, home, RUN_ID)
    (old,) = load_trust(home / "trust.yaml").keys
    argv = [
        "key",
        "rotate",
        old.keyid[:10],
        "--to",
        str(home / "new"),
        "--trust",
        str(home / "trust.yaml"),
        "--owner",
        "x",
    ]
    assert status(argv) == 0
    before, after = load_trust(home / "trust.yaml").keys
    assert before.valid_until == after.valid_from
    make_run(outputs, RUNS[2])
    (path,) = (home / "new").glob("evidence-*.pem")
    trust = load_trust(home / "trust.yaml")
    sign(outputs / RUNBOOK / RUNS[2], Ledger.of(outputs, SITE), signer_of(f"file:{path}", trust, home), trust)
    assert verify(outputs, trust=trust) == []


def test_i16_the_profile_pins_the_trust_file(one: tuple[Path, Path]) -> None:
    _, home = one
    path = home / "trust.yaml"
    pinned = hashlib.sha256(path.read_bytes()).hexdigest()
    assert load_trust(path, pinned).keys
    known = load_trust(path)
    write_trust(path, Trust(keys=(known.keys[0].model_copy(update={"owner": "another"}),)))
    with pytest.raises(ParameterError, match="the profile pins"):
        load_trust(path, pinned)


@pytest.mark.parametrize(
    ("text", "faults"),
    [
        ("keys: [", 1),
        ("keys: 1", 1),
        ("keys: [{keyid: a, public: b, owner: c, valid_from: '2026-01-01T00:00:00Z'}]", 1),
        ("keys: [{keyid: a, public: b}, {owner: c}]", 5),
    ],
)
def test_i16_a_trust_file_that_is_none_is_refused_with_every_fault(tmp_path: Path, text: str, faults: int) -> None:
    path = tmp_path / "trust.yaml"
    path.write_text(text)
    with pytest.raises(ParameterError) as caught:
        load_trust(path)
    assert len(caught.value.faults) == faults, caught.value.faults


def test_i16_a_key_others_can_read_or_that_is_no_key_is_refused_and_never_shown(
    one: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, home = one
    trust = load_trust(home / "trust.yaml")
    path = home / uri(home).removeprefix("file:")
    pem = path.read_text()
    path.chmod(0o640)
    with pytest.raises(ParameterError, match="can be read by others"):
        signer_of(uri(home), trust, home)
    monkeypatch.setenv("SIGNING_KEY", pem)
    assert signer_of("env:SIGNING_KEY", trust, home).public_key.keyid == trust.keys[0].keyid
    secret = pem.splitlines()[1]
    monkeypatch.setenv("SIGNING_KEY", pem.replace("PRIVATE", "PUBLIC"))
    with pytest.raises(ParameterError) as caught:
        signer_of("env:SIGNING_KEY", trust, home)
    assert secret not in f"{caught.value} {caught.value.faults} {caught.value.todo}"
    monkeypatch.delenv("SIGNING_KEY")
    with pytest.raises(ParameterError, match="the environment has no SIGNING_KEY"):
        signer_of("env:SIGNING_KEY", trust, home)
    with pytest.raises(ParameterError, match="no key with the uri awskms:x"):
        signer_of("awskms:x", trust, home)


def test_i16_a_run_whose_key_does_not_answer_is_sealed_and_signed_later_elsewhere(
    one: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    outputs, home = one
    digest = hashlib.sha256((home / "trust.yaml").read_bytes()).hexdigest()
    settings = EvidenceSettings(key="env:NOT_HERE", trust=str(home / "trust.yaml"), trust_sha256=digest)
    ledger = Ledger.of(outputs, SITE)
    assert "not signed yet" in sign_if_asked(outputs / FOLDER, ledger, settings)
    assert sign_if_asked(outputs / FOLDER, ledger, EvidenceSettings()) == ""
    monkeypatch.setenv("DRILLBOOK_OUTPUTS", str(outputs))
    argv = [
        "seal",
        RUN_ID,
        "--key",
        f"file:{home / uri(home).removeprefix('file:')}",
        "--trust",
        str(home / "trust.yaml"),
    ]
    assert status(argv) == 0 and status(argv) == 0
    assert "signed already" in capsys.readouterr().out
    assert status(["verify", "--trust", str(home / "trust.yaml")]) == 0
    (outputs / FOLDER / "report.html").write_text("another")
    assert status(argv) == 1
    assert status(["verify", "--trust", str(home / "trust.yaml")]) == 1
