"""One run as one file that others can keep and verify: a tar that is the same to the byte whoever makes it.

It holds the run's folder, the ledger up to and with the line that sealed the run, and ``verify.sh``, which needs a POSIX
shell, ``sha256sum`` and, for the signature, ``openssl``: nothing of Drillbook.
"""

from __future__ import annotations

import io
import tarfile
from importlib import resources
from pathlib import Path

from drillbook.errors import EvidenceError
from drillbook.evidence.chain import read_lines
from drillbook.evidence.ledger import Ledger

SCRIPT = "verify.sh"


def archive(run_dir: Path, ledger: Ledger) -> bytes:
    """The run's tar: names sorted, no times, owners or modes of this machine. EvidenceError: it is not sealed."""
    sealed = ledger.sealing(run_dir.name)
    if sealed is None:
        raise EvidenceError(f"run {run_dir.name} is not sealed", todo="`drillbook finish` or `cleanup` seals it.")
    files = {path.relative_to(run_dir).as_posix(): path.read_bytes() for path in run_dir.rglob("*") if path.is_file()}
    lines, _ = read_lines(ledger.path.read_bytes())
    files = {f"{run_dir.name}/{name}": data for name, data in files.items()}
    files[f"{run_dir.name}.ledger.jsonl"] = b"".join(line.raw + b"\n" for line in lines[: sealed[2]])
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


__all__ = ["SCRIPT", "archive", "script"]
