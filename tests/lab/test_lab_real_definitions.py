"""The tests again, on labs that serve CloudNativePG's own definitions in place of ours."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from drillbook_lab.api.shipped import FOLDER

ROOT = Path(__file__).parents[2]
# What sends, changes or reads objects of CloudNativePG's kinds, and a whole drill. All: DRILLBOOK_LAB_CRDS=… make test
SELECTION = (
    "tests/drills/test_verified.py",
    "tests/conformance/test_probes.py",
    "tests/lab/test_apiserver_admission.py",
    "tests/lab/test_apiserver_crds.py",
    "tests/lab/test_apiserver_kubectl_verbs.py",
    "tests/lab/test_apiserver_ssa.py",
    "tests/lab/test_lab_site.py",
    "tests/lab/test_lab_recovery.py",
    "tests/lab/test_lab_pooler.py",
)


@pytest.mark.soak
@pytest.mark.timeout(2400)
def test_a_selection_passes_with_the_real_definitions(tmp_path: Path) -> None:
    folder = os.environ.get("DRILLBOOK_CNPG_CRDS", "")
    if not folder:
        pytest.skip("DRILLBOOK_CNPG_CRDS names no folder with CloudNativePG's CRDs")
    argv = [sys.executable, "-m", "pytest", "-m", "not long and not soak", "-p", "no:cacheprovider", *SELECTION]
    environment = {**os.environ, FOLDER: str(Path(folder).absolute())}
    done = subprocess.run(argv, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=2300, check=False)
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2_000:]
