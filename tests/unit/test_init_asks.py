"""``drillbook init`` at a terminal: an answer that can't be used is asked for again at once, and what would refuse it later comes first."""

from __future__ import annotations

import os
import pty
import sys
from pathlib import Path

import pytest

from drillbook.cli import app as cli
from drillbook.cli import init
from drillbook.errors import ParameterError

ASKED = """
import sys
sys.path[:0] = {path!r}
from test_beginning import found
from drillbook.cli import console, init
from pathlib import Path
chosen = init.choose(found(), console.ask, "", lambda site: Path({folder!r}) / site)
print(chosen.name, chosen.drill_namespace, chosen.recovery_time, chosen.sql_secret)
"""
WRONG = {
    "Not A Name": "lower-case letters",
    "taken": "is there already",
    "one of yours": "no name of a namespace",
    "1 hour": "not a duration",
    "45": "not a duration",
    "a secret": "no name of a Secret",
}


def session(program: str, answers: list[str]) -> str:
    """All that a person sees who types these answers, one whenever a question is there."""
    child, terminal = pty.fork()
    if not child:
        os.execv(sys.executable, [sys.executable, "-c", program])  # noqa: S606
    seen, waiting = b"", 0
    try:
        while piece := os.read(terminal, 65536):
            seen += piece
            if seen[waiting:].endswith(b"]: "):
                waiting = len(seen)
                os.write(terminal, (answers.pop(0) if answers else "").encode() + b"\n")
    except OSError:
        pass  # the other side of a terminal has gone: on Linux its end is an error
    assert os.waitpid(child, 0)[1] == 0, seen.decode()
    return seen.decode().replace("\r\n", "\n")


def test_f12_a_wrong_answer_is_asked_for_again_and_no_other(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    answers = ["Not A Name", "taken", "mine", "", "", "one of yours", "", "1 hour", "2h", "", "45", "", "a secret", ""]
    said = session(ASKED.format(path=[str(Path(__file__).parent)], folder=str(tmp_path)), answers)
    for answer, why in WRONG.items():
        refused = [line.partition("(")[0] for line in said.splitlines() if line.startswith("Error:") and why in line]
        assert [line for line in refused if answer in line], f"{answer}\n{said}"
    assert said.count("[") == 9 + len(WRONG), "each question once, and once more for each wrong answer"
    assert said.splitlines()[-1] == "mine drillbook-drills-mine 2h drillbook-sql-mine"


def test_f12_what_can_be_refused_without_an_answer_is_refused_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No cluster is asked, and no question: a folder that is there, and a folder that is no checkout."""
    missing = str(tmp_path / "no-kubeconfig")
    with pytest.raises(ParameterError, match="is there already"):
        cli.init(out_folder=tmp_path, yes=True, kubeconfig=missing)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ParameterError, match="deploy/rbac/"):
        cli.init(out_folder=None, yes=True, kubeconfig=missing)
    assert init.usual("a question", "its default", str) == "its default"
