"""A disk that fills up at every write between a run's end and its signature: nothing is half there, nothing is lost.

A small file system of its own is mounted for it, and filled up to a page less each time, so that another write is the first
that fails.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

UNSHARE = [
    "unshare",
    *([] if os.geteuid() == 0 else ["--user", "--map-root-user"]),
    "--mount",
    "--propagation",
    "private",
]
MOUNT = 'mount -t tmpfs -o size=2m tmpfs "$0" && exec "$@"'

PROGRAM = '''
import json, os, shutil, sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from evidence_sample import RUNBOOK, SITE, RUN_ID, verified, write_journal
from drillbook.errors import EvidenceUnwritable
from drillbook.evidence import Ledger, seal, verify
from drillbook.evidence.seal import sign_if_asked
from drillbook.evidence.signatures import new_key
from drillbook.evidence.trust import Trust, TrustedKey, load_trust, write_trust
from drillbook.model import parse_instant
from drillbook.profile.schema import EvidenceSettings
from drillbook.report.page import render
import hashlib

small, keys = Path(sys.argv[1]), Path(sys.argv[2])
private, public, keyid = new_key("ed25519")
(keys / "key.pem").write_bytes(private)
(keys / "key.pem").chmod(0o600)
key = TrustedKey(keyid=keyid, public=public, owner="runner", valid_from=parse_instant("2020-01-01T00:00:00Z"))
write_trust(keys / "trust.yaml", Trust(keys=(key,)))
digest = hashlib.sha256((keys / "trust.yaml").read_bytes()).hexdigest()
settings = EvidenceSettings(key="file:key.pem", trust=str(keys / "trust.yaml"), trust_sha256=digest)
trust = load_trust(keys / "trust.yaml", digest)
page = os.statvfs(small).f_bsize

def end(folder, ledger):
    """What every run's end does, in its order."""
    render(folder)
    sealed = seal(folder, ledger)
    return sealed.verdict, sign_if_asked(folder, ledger, settings)

told = []
pages = 0
while True:
    outputs = small / "outputs"
    shutil.rmtree(outputs, ignore_errors=True)
    folder, ledger = outputs / RUNBOOK / RUN_ID, Ledger.of(outputs, SITE)
    ledger.open(RUN_ID, RUNBOOK)
    write_journal(folder / "journal.jsonl", verified())
    ballast = small / "ballast"
    room = os.statvfs(small)
    with ballast.open("wb") as file:
        file.write(b"x" * max(0, (room.f_bavail - pages) * page))
    announced = unsigned = ""
    try:
        announced, unsigned = end(folder, ledger)
    except EvidenceUnwritable as error:
        stopped = str(error.what)
    else:
        stopped = ""
    between = [str(one) for one in verify(outputs) if one.tampered]
    kept = (folder / "journal.jsonl").read_bytes().count(b"\\n")
    ballast.unlink()
    again = end(folder, ledger)
    after = [str(one) for one in verify(outputs, trust=trust)]
    told.append([pages, stopped, str(announced or ""), unsigned, between, kept, str(again[0]), again[1], after])
    if not stopped and not unsigned:
        break
    pages += int(sys.argv[4])
    if pages > 400:
        break
print(json.dumps(told))
'''


@pytest.mark.parametrize("step", [7, pytest.param(1, marks=pytest.mark.soak)], ids=["some", "every page"])
def test_i16_a_full_disk_at_every_write_of_a_runs_end_leaves_it_whole_or_pending(tmp_path: Path, step: int) -> None:
    small, keys = tmp_path / "small", tmp_path / "keys"
    small.mkdir()
    keys.mkdir()
    if (
        shutil.which("unshare") is None
        or subprocess.run([*UNSHARE, "sh", "-c", MOUNT, small, "true"], capture_output=True).returncode
    ):
        pytest.skip("a file system can't be mounted here")
    argv = [
        *UNSHARE,
        "sh",
        "-c",
        MOUNT,
        small,
        sys.executable,
        "-c",
        PROGRAM,
        small,
        keys,
        Path(__file__).parent,
        str(step),
    ]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    rounds = json.loads(done.stdout)
    assert len({stopped for _, stopped, *_ in rounds}) >= 3, "another write was the first to fail"
    assert any(announced and unsigned for _, _, announced, unsigned, *_ in rounds), "the signature's writes, too"
    for pages, stopped, announced, unsigned, between, kept, verdict, why, after in rounds:
        about = f"with room for {pages} pages: {stopped or unsigned}"
        assert not (stopped and announced), about
        assert between == [] and kept == 88, f"{about}: {between}"
        assert (verdict, why, after) == ("VERIFIED", "", []), f"{about}: with room again {verdict} {why} {after}"
