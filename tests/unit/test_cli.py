"""The command line: its exit status, its parameters, and what it says when something is wrong."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from drillbook.cli import app as cli
from drillbook.cli import arguments
from drillbook.errors import ParameterError

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nothing here may write into the project's own evidence."""
    monkeypatch.setenv("DRILLBOOK_OUTPUTS", str(tmp_path / "outputs"))
    monkeypatch.delenv("DRILLBOOK_SITE", raising=False)
    return tmp_path / "outputs"


@pytest.mark.parametrize(
    "arguments",
    [
        ["--nonsense"],
        ["nonsense"],
        ["run"],
        ["run", "nb.ipynb", "--mode", "maybe"],
        ["finish", "some-run"],
        ["verify", "no-such-run"],
        ["run", "no-such.ipynb"],
        ["run", str(ROOT / "runbooks" / "drill-monthly-verification.ipynb"), "--site", "no-such-site"],
        ["run", str(ROOT / "runbooks" / "drill-monthly-verification.ipynb"), "-p", "mode", "apply"],
        ["run", str(ROOT / "runbooks" / "drill-monthly-verification.ipynb"), "-p", "target_time"],
    ],
    ids=lambda arguments: " ".join(Path(a).name for a in arguments),
)
def test_bad_usage_ends_with_4_and_touches_nothing(arguments: list[str], outputs: Path, capsys) -> None:
    assert cli.status(arguments) == 4
    assert capsys.readouterr().err.strip()
    assert not outputs.exists()


@pytest.mark.parametrize(
    ("runbook", "name", "meant"),
    [
        ("recover-point-in-time", "target_tme", "did you mean target_time?"),
        ("backup-manual", "reasn", "did you mean reason?"),
        ("check-recovery-window", "zzz", "it has site"),
    ],
)
def test_users_a6_an_unknown_parameter_is_refused_by_name(
    runbook: str, name: str, meant: str, outputs: Path, capsys
) -> None:
    arguments = ["run", str(ROOT / "runbooks" / f"{runbook}.ipynb"), "-p", name, "1", "-p", "target_xid", "none"]
    assert cli.status(arguments) == 4
    told = capsys.readouterr().err
    assert f"{name}: {runbook} has no such parameter; {meant}" in told, told
    assert "target_xid: " in told, "all faults at once"
    assert not outputs.exists()


def test_help_ends_with_0(capsys) -> None:
    assert cli.status(["--help"]) == 0
    assert "doctor" in capsys.readouterr().out


def test_the_version_ends_with_0_and_without_a_command_the_help_is_all(capsys) -> None:
    assert cli.status(["--version"]) == 0
    assert capsys.readouterr().out.startswith("drillbook 0.")
    assert cli.status([]) == 4
    said = capsys.readouterr()
    assert "Exit status: 0 verified, or planned" in said.out and not said.err.strip()


def test_no_runs_is_not_an_error(capsys) -> None:
    assert cli.status(["list"]) == 0
    assert "no run yet" in capsys.readouterr().out


def test_nothing_to_verify_is_intact(capsys) -> None:
    assert cli.status(["verify"]) == 0


def test_a_profile_with_three_mistakes_is_told_whole(tmp_path: Path, capsys) -> None:
    profile = tmp_path / "wrong.yaml"
    profile.write_text(
        "name: wrong\nenvironment: test\ncluster: {namespace: a, name: b}\ndrill_namespace: a\n"
        "objectivs: {}\nlimits: {step: soon}\ntenants: [{database: d, app_role: r}]\n"
    )
    notebook = ROOT / "runbooks" / "drill-monthly-verification.ipynb"
    assert cli.status(["run", str(notebook), "--site", str(profile)]) == 4
    told = capsys.readouterr().err
    assert "drill_namespace: 'a' is the source's namespace" in told
    assert "objectivs: unknown key (did you mean objectives?)" in told
    assert "limits.step: 'soon' is not a duration" in told
    assert "Changed so far: nothing" in told


def test_doctor_names_a_faulty_profile_and_goes_no_further(tmp_path: Path, capsys) -> None:
    profile = tmp_path / "wrong.yaml"
    profile.write_text("name: wrong\n")
    assert cli.status(["doctor", "--site", str(profile)]) == 4
    told = capsys.readouterr().out
    assert "Python" in told
    assert "cluster: is missing" in told
    assert "API server" not in told


@pytest.mark.parametrize(
    ("given", "read"),
    [
        (["-p", "target_time", "2026-11-01T10:00:00Z"], ["-p", "target_time=2026-11-01T10:00:00Z"]),
        (["-p", "a=b=c", "-p", "d", "e"], ["-p", "a=b=c", "-p", "d=e"]),
        (["--parameter", "d", "--mode"], ["--parameter", "d=--mode"]),
        (["-p", "d"], ["-p", "d"]),
        (["lab", "run", "--", "x", "-p", "d", "e"], ["lab", "run", "--", "x", "-p", "d", "e"]),
    ],
)
def test_parameters_are_written_as_papermill_writes_them(given: list[str], read: list[str]) -> None:
    assert arguments.pairs_joined(given) == read


def test_parameters_are_typed_where_no_meaning_is_lost() -> None:
    given = ["a=1", "b=true", "c=16.10", "d=007", "e=x", "f=", "g=False"]
    assert arguments.parameters(given) == {"a": 1, "b": True, "c": "16.10", "d": "007", "e": "x", "f": "", "g": False}


def test_every_fault_in_the_parameters_is_told() -> None:
    with pytest.raises(ParameterError) as caught:
        arguments.parameters(["a", "b=1", "b=2", "mode=apply"])
    assert len(caught.value.faults) == 3


def test_the_module_can_be_run() -> None:
    done = subprocess.run([sys.executable, "-m", "drillbook", "nonsense"], capture_output=True, text=True)
    assert done.returncode == 4
    assert "Traceback" not in done.stderr


def test_the_lab_is_another_program_and_its_status_is_handed_on() -> None:
    ours = subprocess.run([sys.executable, "-m", "drillbook", "lab", "no-such-verb"], capture_output=True, text=True)
    its = subprocess.run([sys.executable, "-m", "drillbook_lab", "no-such-verb"], capture_output=True, text=True)
    assert ours.returncode == its.returncode != 0


@pytest.mark.parametrize(
    "given", ["recover-point-in-time", "recover-point-in-time.ipynb", "runbooks/recover-point-in-time.ipynb"]
)
def test_users_b_open_copies_a_runbook_so_that_the_tracked_one_stays_clean(
    given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    tracked = ROOT / "runbooks" / "recover-point-in-time.ipynb"
    before = tracked.read_bytes()
    monkeypatch.setenv("DRILLBOOK_OUTPUTS", str(tmp_path / "with a blank"))
    monkeypatch.chdir(ROOT)
    assert cli.status(["open", given]) == 0
    (copy,) = (tmp_path / "with a blank" / "open").glob("recover-point-in-time-*.ipynb")
    assert copy.read_bytes() == before == tracked.read_bytes()
    path, line = capsys.readouterr().out.splitlines()
    assert (
        path == str(copy)
        and line.split(" lab ")[0].endswith("jupyter")
        and shutil.which(line.split(" lab ")[0])
        and line.endswith(f"'{copy}'")
    )
    assert cli.status(["list"]) == 0 and "no run yet" in capsys.readouterr().out
    assert cli.status(["verify"]) == 0


def test_users_b_open_names_a_runbook_that_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setenv("DRILLBOOK_OUTPUTS", str(tmp_path / "outputs"))
    assert cli.status(["open", "recover-pint"]) == 4
    assert "there is no runbook recover-pint" in capsys.readouterr().err
    assert not (tmp_path / "outputs").exists()


def test_an_error_says_where_drillbook_is_when_the_path_does_not_find_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setenv("DRILLBOOK_OUTPUTS", str(tmp_path))
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    assert cli.status(["resume", "no-such-run"]) == 4
    *_, last = capsys.readouterr().err.splitlines()
    where = last.removeprefix("drillbook is ").removesuffix(" here")
    assert where != last and Path(where).is_file()
    monkeypatch.setenv("PATH", f"{Path(where).resolve().parent}:/usr/bin:/bin")
    assert cli.status(["resume", "no-such-run"]) == 4
    assert "drillbook is " not in capsys.readouterr().err
