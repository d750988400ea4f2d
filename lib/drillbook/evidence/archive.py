"""One run as one file that others can keep and verify: a tar that is the same to the byte on every machine.

It holds the run's folder, the ledger's lines about this run, the last of which sealed it, and ``verify.sh``, which needs a
POSIX shell, ``sha256sum`` and, for the signature, ``openssl``: nothing of Drillbook. The whole ledger, which shows that no
other run was removed, is next to the archives once.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping
from importlib import resources
from pathlib import Path

from drillbook.errors import EvidenceError
from drillbook.evidence.chain import read_lines
from drillbook.evidence.ledger import Ledger
from drillbook.evidence.seal import SIGNED, SUMS, files_of

SCRIPT = "verify.sh"


def lines_by_run(ledger: Ledger) -> dict[str, list[bytes]]:
    """The ledger's lines as they are stored, by the run that they are about; those of a run end with the one that sealed it."""
    found: dict[str, list[bytes]] = {}
    sealed: set[str] = set()
    for line in read_lines(ledger.path.read_bytes())[0] if ledger.path.exists() else ():
        run_id = str((line.value or {}).get("run_id"))
        if line.value is not None and run_id not in sealed:
            found.setdefault(run_id, []).append(line.raw + b"\n")
            sealed |= {run_id} if line.value.get("kind") == "seal" else set()
    return {run_id: lines for run_id, lines in found.items() if run_id in sealed}


def archive(run_dir: Path, lines: Mapping[str, list[bytes]], *, signed: bool = True) -> bytes:
    """The run's tar: names sorted, no times, owners or modes of this machine. ``lines``: as `lines_by_run` has them.

    Without ``signed`` it holds what the seal covers alone, and so is the same whether somebody has signed by now or not.
    EvidenceError: the run is not sealed.
    """
    if run_dir.name not in lines:
        raise EvidenceError(f"run {run_dir.name} is not sealed", todo="`drillbook finish` or `cleanup` seals it.")
    names = {SUMS, *files_of(run_dir)} | {name for name in SIGNED if signed and (run_dir / name).is_file()}
    files = {name: (run_dir / name).read_bytes() for name in names}
    files = {f"{run_dir.name}/{name}": data for name, data in files.items()}
    files[f"{run_dir.name}.ledger.jsonl"] = b"".join(lines[run_dir.name])
    files[SCRIPT] = script()
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name in sorted(files):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(files[name]), 0o755 if name == SCRIPT else 0o644
            tar.addfile(entry, io.BytesIO(files[name]))
    return out.getvalue()


def script() -> bytes:
    """The shell script that verifies an unpacked archive."""
    return resources.files("drillbook").joinpath("templates", SCRIPT).read_bytes()


__all__ = ["SCRIPT", "archive", "lines_by_run", "script"]
