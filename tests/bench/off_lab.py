"""What is measured without a lab: the WAL chain, the verification of many runs, the last `make test`."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SEGMENT_BYTES = 16 << 20


@dataclass(frozen=True)
class ChainCost:
    """One computation of a chain in its own process, its listing included in the memory."""

    names: int
    seconds: float
    megabytes: float


def chain_cost(names: int) -> ChainCost:
    """The chain over so many segments, best of three in its own process."""
    done = subprocess.run([sys.executable, __file__, str(names)], capture_output=True, text=True, check=True)
    return ChainCost(names, **json.loads(done.stdout))


def _chain_in_this_process(names: int) -> None:
    from drillbook.archive import ArchiveSnapshot, WalListing
    from drillbook.archive.protocol import ObjectInfo
    from drillbook.model import BaseBackup, Lsn
    from drillbook.postgres.wal import SegmentName

    at = datetime(2026, 11, 1, tzinfo=UTC)
    listing = WalListing("pg")
    for number in range(16, 16 + names):
        name = SegmentName(1, number).text(SEGMENT_BYTES)
        listing._add(ObjectInfo(f"pg/wals/{name[:16]}/{name}.gz", 5_000_000, at, "", "STANDARD"))
    first = SegmentName(1, 16).text(SEGMENT_BYTES)
    backup = BaseBackup(
        backup_id="20261101T000000",
        server_name="pg",
        status="DONE",
        begin_time=at,
        end_time=at,
        begin_wal=first,
        end_wal=first,
        begin_lsn=Lsn(16 * SEGMENT_BYTES),
        end_lsn=Lsn(16 * SEGMENT_BYTES + 8),
        timeline=1,
        system_id="7",
        pg_version=160000,
        segment_bytes=SEGMENT_BYTES,
        size_bytes=1,
        cluster_size_bytes=1,
        compression="gzip",
        location="",
    )
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        found = ArchiveSnapshot(None, listing, [backup], {}).chain(backup)
        seconds.append(time.perf_counter() - began)
        if found.segments != names or not found.unbroken:
            raise RuntimeError(f"not the chain that it should be: {found.segments} segments, {found.problem}")
    megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    sys.stdout.write(json.dumps({"seconds": min(seconds), "megabytes": megabytes}))


def make_runs(outputs: Path, count: int) -> int:
    """So many sealed monthly drills with their reports; how many files they are."""
    sys.path.insert(0, str(ROOT / "tests" / "unit"))
    from evidence_sample import make_run

    for number in range(count):
        make_run(outputs, f"20261101T100002Z-{number:06x}")
    return sum(len(files) for _, _, files in os.walk(outputs))


def sign_runs(outputs: Path, home: Path) -> Path:
    """Sign every run with a new ed25519 key; the trust file."""
    sys.path.insert(0, str(ROOT / "tests" / "unit"))
    from evidence_sample import SITE

    from drillbook.cli.app import status
    from drillbook.evidence import Ledger, sealed_runs
    from drillbook.evidence.signatures import sign, signer_of
    from drillbook.evidence.trust import Trust, load_trust, write_trust

    status(["key", "new", "--to", str(home), "--trust", str(home / "trust.yaml"), "--owner", "bench"])
    made = load_trust(home / "trust.yaml")
    # Valid since before the runs, which are sealed already.
    early = made.keys[0].model_copy(update={"valid_from": datetime(2026, 1, 1, tzinfo=UTC)})
    trust = Trust(keys=(early,))
    write_trust(home / "trust.yaml", trust)
    ledger = Ledger.of(outputs, SITE)
    signer = signer_of(f"file:evidence-{early.keyid[:12]}.pem", trust, home)
    for folder in sealed_runs(outputs):
        sign(folder, ledger, signer, trust)
    return home / "trust.yaml"


def verify_seconds(outputs: Path, trust: Path | None = None) -> float:
    """The whole of ``drillbook verify``, with the signatures by ``trust``."""
    env = os.environ | {"DRILLBOOK_OUTPUTS": str(outputs)}
    argv = [sys.executable, "-m", "drillbook", "verify", *(["--trust", str(trust)] if trust else [])]
    began = time.monotonic()
    done = subprocess.run(argv, env=env, capture_output=True, text=True)
    seconds = time.monotonic() - began
    if done.returncode or "intact" not in done.stdout:
        raise RuntimeError(f"drillbook verify ended with {done.returncode}: {(done.stdout + done.stderr)[:400]}")
    return seconds


def last_seconds(name: str) -> float | None:
    """How long the last run of the tests took, as it wrote itself down; None if none did."""
    try:
        found = json.loads((ROOT / "outputs" / "bench" / f"last-{name}.json").read_text(encoding="utf-8"))
        return float(found["seconds"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


if __name__ == "__main__":
    _chain_in_this_process(int(sys.argv[1]))
