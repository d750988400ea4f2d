"""Evidence under Object Lock: what is put is what is sealed, and whatever was done to it afterwards is found and named."""

from __future__ import annotations

import json
import shutil
import tarfile
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from evidence_sample import RUN_ID, RUNBOOK, SITE
from fix_real_s3 import REAL_S3
from fix_vault import BUCKET, FAILED, OPEN, RUNS, Machine, Store, machine, store
from test_evidence_signatures import made_key, signed

from drillbook.cli.app import status
from drillbook.errors import EvidenceTampered, ParameterError, RunbookError
from drillbook.evidence import Ledger, verify
from drillbook.evidence.unpacking import unpack
from drillbook.evidence_store import archive_sealed, open_bucket, state_of
from drillbook.profile import load_site

__all__ = ["machine", "store"]


def archived(machine: Machine, *runs: str) -> None:
    for run_id in runs or RUNS:
        assert archive_sealed(machine.outputs, machine.site, machine.run(run_id)) == ""


def told(machine: Machine, capsys: pytest.CaptureFixture[str], *more: str) -> tuple[int, str]:
    capsys.readouterr()
    code = status(["verify", machine.location, "--site", str(machine.profile), *more])
    said = capsys.readouterr()
    return code, said.out + said.err


def test_i16_a_sealed_run_is_put_under_lock_and_the_bucket_alone_verifies(
    machine: Machine, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    archived(machine)
    for run_id in RUNS:
        prefix = machine.prefix_of(run_id)
        assert [key.rpartition("/")[2] for key in store.keys(prefix)] == [f"{run_id}.tar", "index.json"]
        seal = (Ledger.of(machine.outputs, SITE).sealing(run_id) or ({},))[0]
        until = datetime.fromisoformat(seal["at"]).replace(microsecond=0)
        for entry in store.versions(prefix):
            where = {"Bucket": BUCKET, "Key": entry["Key"], "VersionId": entry["VersionId"]}
            kept = store.client().get_object_retention(**where)["Retention"]
            assert (kept["Mode"], kept["RetainUntilDate"]) == ("COMPLIANCE", until.replace(year=until.year + 7))
    code, said = told(machine, capsys)
    assert (code, "intact" in said) == (0, True), said
    assert f"site {SITE}, 3 runs" in said


def test_i16_the_tar_is_the_same_on_each_machine_and_whether_signed_or_not(machine: Machine, store: Store) -> None:
    archived(machine, RUN_ID)
    (entry,) = store.versions(f"{machine.prefix_of(RUN_ID)}/{RUN_ID}.tar")
    data = store.client().get_object(Bucket=BUCKET, Key=entry["Key"])["Body"].read()
    with tarfile.open(fileobj=BytesIO(data)) as tar:
        names = set(tar.getnames())
    assert {"verify.sh", f"{RUN_ID}/SHA256SUMS", f"{RUN_ID}.ledger.jsonl"} <= names
    assert not [name for name in names if "archived.json" in name]
    index = json.loads(
        store.client().get_object(Bucket=BUCKET, Key=f"{machine.prefix_of(RUN_ID)}/index.json")["Body"].read()
    )
    assert (index["run_id"], index["runbook"], index["verdict"], index["tar"]["version"]) == (
        RUN_ID,
        RUNBOOK,
        "VERIFIED",
        entry["VersionId"],
    )


def test_i16_to_archive_again_changes_nothing(machine: Machine, store: Store) -> None:
    archived(machine, RUN_ID, FAILED)
    before = store.versions(machine.prefix)
    assert status(["archive", "--all", "--site", str(machine.profile)]) == 0
    for run_id in (RUN_ID, FAILED):
        (machine.folder(run_id) / "archived.json").unlink()
    assert status(["archive", "--site", str(machine.profile)]) == 0
    assert store.versions(machine.prefix) == before
    assert verify(machine.outputs) == []


def put(store: Store, key: str, data: bytes) -> None:
    store.client().put_object(Bucket=BUCKET, Key=key, Body=data)


def delete(store: Store, key: str) -> None:
    store.client().delete_object(Bucket=BUCKET, Key=key)


DONE: dict[str, tuple[Callable[[Machine, Store], Any], tuple[str, ...]]] = {
    "tar deleted": (
        lambda m, s: delete(s, f"{m.prefix_of(RUN_ID)}/{RUN_ID}.tar"),
        (f"{RUN_ID}.tar: was deleted at", "is still there"),
    ),
    "index deleted": (lambda m, s: delete(s, f"{m.prefix_of(RUN_ID)}/index.json"), ("index.json: was deleted at",)),
    "tar overwritten": (
        lambda m, s: put(s, f"{m.prefix_of(RUN_ID)}/{RUN_ID}.tar", b"other"),
        (f"{RUN_ID}.tar: has a newer version of", "with other bytes"),
    ),
    "index overwritten": (
        lambda m, s: put(s, f"{m.prefix_of(RUN_ID)}/index.json", b"{}"),
        ("index.json: has a newer version of",),
    ),
    "deleted and put again": (
        lambda m, s: (
            delete(s, f"{m.prefix_of(FAILED)}/{FAILED}.tar"),
            put(s, f"{m.prefix_of(FAILED)}/{FAILED}.tar", b"x"),
        ),
        (f"{FAILED}.tar: was deleted at", "with other bytes"),
    ),
    "ledger overwritten": (
        lambda m, s: put(s, s.keys(f"{m.prefix}/{SITE}/ledger/0")[0], b"{}\n"),
        ("0000000001.jsonl: has a newer version of",),
    ),
    "ledger deleted": (
        lambda m, s: delete(s, s.keys(f"{m.prefix}/{SITE}/ledger/0")[-1]),
        (".jsonl: was deleted at",),
    ),
    "head deleted": (lambda m, s: delete(s, f"{m.prefix}/{SITE}/ledger/head.json"), ("head.json: was deleted at",)),
    "head overwritten": (
        lambda m, s: put(s, f"{m.prefix}/{SITE}/ledger/head.json", b'{"lines":1,"sha256":"00"}'),
        ("head.json: the version of", "names line 1 (00), which is not in the ledger"),
    ),
    "head is no head": (
        lambda m, s: put(s, f"{m.prefix}/{SITE}/ledger/head.json", b"hello"),
        ("is not the head of a ledger",),
    ),
    "a run put by hand": (
        lambda m, s: put(s, f"{m.prefix_of('20261225T100000Z-aaaaaa')}/20261225T100000Z-aaaaaa.tar", b"hello"),
        ("20261225T100000Z-aaaaaa.tar: version", "is not locked", "is not the archive of one run"),
    ),
}


def test_i16_what_object_lock_lets_happen_is_found_and_named(
    machine: Machine, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is said before, and of each thing that was done afterwards."""
    archived(machine, RUN_ID, FAILED)
    code, said = told(machine, capsys)
    assert code == 0, said
    for act, _ in DONE.values():
        act(machine, store)
    code, said = told(machine, capsys)
    missing = [(what, word) for what, (_, words) in DONE.items() for word in words if word not in said]
    assert code == 1 and not missing, f"{missing}: {said}"


def test_i16_a_shortened_lock_is_found_and_named(
    tmp_path: Path, store: Store, machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    """GOVERNANCE can be shortened by whoever may bypass it; the profile says how long it must be."""
    soft = Machine(machine.home, store, machine.prefix, mode="GOVERNANCE", years=3)
    archived(soft, RUN_ID)
    assert told(soft, capsys)[0] == 0
    (entry,) = store.versions(f"{soft.prefix_of(RUN_ID)}/{RUN_ID}.tar")
    sooner = datetime.now(UTC) + timedelta(days=30)
    store.client("admin").put_object_retention(
        Bucket=BUCKET,
        Key=entry["Key"],
        VersionId=entry["VersionId"],
        Retention={"Mode": "GOVERNANCE", "RetainUntilDate": sooner},
        BypassGovernanceRetention=True,
    )
    code, said = told(soft, capsys)
    assert code == 1 and f"{RUN_ID}.tar: version {entry['VersionId']}: it is kept until" in said, said
    strict = Machine(machine.home, store, machine.prefix, mode="COMPLIANCE", years=3)
    code, said = told(strict, capsys)
    assert code == 1 and "its lock mode is GOVERNANCE, COMPLIANCE is required" in said


def test_i16_a_version_that_was_removed_by_a_bypass_is_missing(
    store: Store, machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    soft = Machine(machine.home, store, machine.prefix, mode="GOVERNANCE", years=3)
    archived(soft, RUN_ID, FAILED)
    for entry in store.versions(soft.prefix_of(FAILED)):
        where = {"Bucket": BUCKET, "Key": entry["Key"], "VersionId": entry["VersionId"]}
        store.client("admin").delete_object(**where, BypassGovernanceRetention=True)
    code, said = told(soft, capsys)
    assert code == 1 and f"run {FAILED} was sealed as FAILED, and is not in the archive" in said, said


def test_i16_a_failed_run_that_was_deleted_here_is_found_from_the_archive_and_from_the_chain(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    archived(machine)
    shutil.rmtree(machine.folder(FAILED))
    assert any(f"run {FAILED} was sealed as FAILED" in str(one) for one in verify(machine.outputs))
    code, said = told(machine, capsys)
    assert code == 1 and f"run {FAILED} (FAILED) is archived in {machine.location}, and was deleted here" in said
    # Whoever can delete the folder can write the ledger anew without it: the archive has the lines.
    shutil.rmtree(machine.outputs)
    for run_id in RUNS[:2]:
        machine.run(run_id)
    assert verify(machine.outputs) == []
    code, said = told(machine, capsys)
    assert code == 1 and f"{SITE}.jsonl line 1: is not the line that was archived" in said, said
    assert f"run {FAILED} (FAILED)" in said


def test_i16_what_is_in_a_bucket_can_be_laid_out_again(
    machine: Machine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    archived(machine, RUN_ID)
    to = tmp_path / "again"
    assert told(machine, capsys, "--out", str(to))[0] == 0
    assert Ledger.of(to, SITE).path.read_bytes() == Ledger.of(machine.outputs, SITE).path.read_bytes()
    assert verify(to) == []
    assert status(["verify", str(to)]) == 0
    assert told(machine, capsys, "--out", str(to))[0] == 4


def test_i16_an_auditor_without_a_profile_verifies_by_address_alone(
    machine: Machine, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    archived(machine, RUN_ID)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DRILLBOOK_SITE", raising=False)
    assert status(["verify", machine.location, "--endpoint-url", machine.store.endpoint]) == 0
    said = capsys.readouterr().out
    assert "locks were compared with no profile" in said and "1 runs" in said
    assert status(["verify", f"{machine.location}/nothing", "--endpoint-url", machine.store.endpoint]) == 1


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"bucket": OPEN}, ("its versioning is not enabled", "it has no Object Lock")),
        ({"bucket": "not-there"}, ("NoSuchBucket",)),
    ],
)
def test_i16_a_bucket_that_can_not_lock_is_refused_by_name_and_the_run_is_pending(
    machine: Machine,
    store: Store,
    capsys: pytest.CaptureFixture[str],
    settings: dict[str, Any],
    words: tuple[str, ...],
) -> None:
    wrong = Machine(machine.home, store, machine.prefix, **settings)
    folder = wrong.run(RUN_ID)
    with open_bucket(wrong.site) as bucket, pytest.raises(RunbookError) as refused:
        bucket.require_lock()
    for word in words:
        assert word in str(refused.value)
    why = archive_sealed(wrong.outputs, wrong.site, folder)
    assert why.startswith("archive pending: ") and "`drillbook archive`, tries again" in why
    assert verify(wrong.outputs) == []
    settings_now = wrong.site.evidence.archive
    assert settings_now and state_of(folder, settings_now).pending
    assert status(["archive", "--site", str(wrong.profile)]) != 0
    right = Machine(machine.home, store, machine.prefix)
    assert status(["archive", "--site", str(right.profile)]) == 0
    assert told(right, capsys)[0] == 0


def test_i16_a_legal_hold_is_put_and_asked_for(
    machine: Machine, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    held = Machine(machine.home, store, machine.prefix, legal_hold=True)
    archived(held, RUN_ID)
    assert told(held, capsys)[0] == 0
    (entry,) = store.versions(f"{held.prefix_of(RUN_ID)}/{RUN_ID}.tar")
    where = {"Bucket": BUCKET, "Key": entry["Key"], "VersionId": entry["VersionId"]}
    store.client().put_object_legal_hold(**where, LegalHold={"Status": "OFF"})
    code, said = told(held, capsys)
    assert code == 1 and "it has no legal hold" in said


def test_i16_all_faults_of_the_section_are_named_at_once(machine: Machine) -> None:
    wrong = Machine(
        machine.home, machine.store, "/p/", bucket="NO", mode="MAYBE", years=0, endpoint_url="ftp://x", key=1
    )
    with pytest.raises(ParameterError) as refused:
        load_site(str(wrong.profile))
    text = str(refused.value)
    for word in ("bucket", "prefix", "endpoint_url", "mode", "years", "key: unknown key"):
        assert f"evidence.archive.{word}" in text, text


@pytest.mark.parametrize("what", ["mode", "years", "bucket"])
def test_i16_what_is_a_decision_has_no_default(machine: Machine, what: str) -> None:
    text = machine.profile.read_text()
    machine.profile.write_text(
        "".join(line + "\n" for line in text.splitlines() if not line.strip().startswith(f"{what}:"))
    )
    with pytest.raises(ParameterError, match=f"evidence.archive.{what}: is missing"):
        load_site(str(machine.profile))


def test_i16_a_lock_of_a_leap_day_ends_on_a_day_that_is_there(machine: Machine) -> None:
    settings = machine.site.evidence.archive
    assert settings is not None
    assert settings.until(datetime(2028, 2, 29, 12, 0, 0, 5, UTC)) == datetime(2035, 2, 28, 12, tzinfo=UTC)


def test_i16_the_lifecycle_rule_is_taken_by_the_store(
    machine: Machine, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status(["archive", "--lifecycle", "--site", str(machine.profile), "--storage-class", "DEEP_ARCHIVE"]) == 0
    rule = json.loads(capsys.readouterr().out)
    where = {"Bucket": BUCKET}
    try:
        store.client().put_bucket_lifecycle_configuration(
            **where, LifecycleConfiguration=rule, ChecksumAlgorithm="SHA256"
        )
    except ClientError as error:
        if not REAL_S3:
            raise
        pytest.skip(f"this server takes no such rule: {error.response['Error']['Code']}")
    (kept,) = store.client().get_bucket_lifecycle_configuration(**where)["Rules"]
    wanted = {"Prefix": machine.prefix_of(), "ObjectSizeGreaterThan": 128 * 1024 - 1}
    assert rule["Rules"][0]["Filter"]["And"] == wanted
    assert kept["Filter"]["And"]["Prefix"] == wanted["Prefix"]  # moto doesn't keep the size
    assert kept["Transitions"] == [{"Days": 90, "StorageClass": "DEEP_ARCHIVE"}]
    assert "Expiration" not in kept


def test_i16_a_run_that_is_signed_later_is_pending_until_its_envelopes_are_there(
    machine: Machine, store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The key on another machine: the same tar, envelopes besides, and the bucket verifies by the trust file alone."""
    home, other = made_key(tmp_path), made_key(tmp_path, "other")
    archived(machine, RUN_ID)
    tar = store.versions(f"{machine.prefix_of(RUN_ID)}/{RUN_ID}.tar")
    signed(machine.outputs, home, RUN_ID)
    settings = machine.site.evidence.archive
    assert settings and "signed since it was archived" in state_of(machine.folder(RUN_ID), settings).why
    assert status(["archive", "--site", str(machine.profile)]) == 0
    assert store.versions(f"{machine.prefix_of(RUN_ID)}/{RUN_ID}.tar") == tar
    names = [key.rpartition("/")[2] for key in store.keys(machine.prefix_of(RUN_ID))]
    assert names == [f"{RUN_ID}.tar", "attestation.dsse.json", "index.json", "test-result.dsse.json"]
    by_keys = ("--trust", str(home / "trust.yaml"))
    assert told(machine, capsys, *by_keys)[0] == 0
    # Somebody without the key signs a statement of their own over it.
    forged = shutil.copytree(machine.outputs, tmp_path / "forged")
    for path in forged.glob("*/*/*.dsse.json"):
        path.unlink()
    signed(Path(forged), other, RUN_ID)
    key = f"{machine.prefix_of(RUN_ID)}/attestation.dsse.json"
    put(store, key, (Path(forged) / RUNBOOK / RUN_ID / "attestation.dsse.json").read_bytes())
    code, said = told(machine, capsys, *by_keys)
    assert code == 1 and "attestation.dsse.json: has a newer version of" in said
    code, said = told(machine, capsys, "--trust", str(other / "trust.yaml"))
    assert code == 1 and "is signed by no key of the trust file" in said


def test_i16_a_folder_that_was_handed_over_is_verified_as_it_is(
    machine: Machine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As `drillbook evidence` writes it, then with a tar changed, one of another run in its place, and the ledger cut off."""
    for run_id in RUNS:
        machine.run(run_id)
    folder = tmp_path / "handed-over"
    period = ("--from", "2026-01-01", "--to", "2030-01-01", "--out", str(folder))
    assert status(["evidence", "--site", str(machine.profile), *period]) == 0

    def found() -> tuple[int, str]:
        capsys.readouterr()
        code = status(["verify", str(folder)])
        return code, capsys.readouterr().err

    assert found()[0] == 0
    tar, ledger = folder / "runs" / f"{RUN_ID}.tar", folder / "ledger.jsonl"
    good, lines = tar.read_bytes(), ledger.read_bytes()
    tar.write_bytes(good.replace(b"VERIFIED", b"verified", 1))
    assert found()[0] == 1
    tar.write_bytes(b"hello")
    assert "is not the archive of one run" in found()[1]
    tar.write_bytes(good)
    ledger.write_bytes(b"".join(lines.splitlines(keepends=True)[:2]))
    assert f"has no entry for the opening of run {FAILED}" in found()[1]
    ledger.unlink()
    assert "ledger.jsonl: is not there: whether a run was removed can't be seen" in found()[1]


@pytest.mark.parametrize("name", ["../../etc/x", "/etc/x", "run/../../x"])
def test_i16_an_archive_that_leads_out_of_its_folder_is_refused(tmp_path: Path, name: str) -> None:
    out = BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        entry = tarfile.TarInfo(name)
        entry.size = 1
        tar.addfile(entry, BytesIO(b"x"))
    with pytest.raises(EvidenceTampered, match="is not the archive of one run"):
        unpack("bad.tar", out.getvalue(), tmp_path / "to")
    assert not (tmp_path / "to").exists()
