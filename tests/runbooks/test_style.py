"""How a runbook reads: the rules that every notebook is held to, so that the next reader is never surprised."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode

from drillbook.engine.kinds import kind_of

RUNBOOKS = sorted((Path(__file__).parents[2] / "runbooks").glob("*.ipynb"))

FORBIDDEN = {
    ast.FunctionDef: "def",
    ast.AsyncFunctionDef: "def",
    ast.ClassDef: "class",
    ast.Lambda: "lambda",
    ast.Try: "try",
    ast.For: "a loop",
    ast.While: "a loop",
    ast.ListComp: "a loop",
    ast.DictComp: "a loop",
    ast.SetComp: "a loop",
    ast.GeneratorExp: "a loop",
    ast.Assert: "a bare assert",
    ast.With: "with",
    ast.If: "if",
}


@pytest.fixture(params=RUNBOOKS, ids=lambda path: path.stem)
def runbook(request: pytest.FixtureRequest) -> NotebookNode:
    return nbformat.read(request.param, as_version=4)


def test_a_name_that_a_result_does_not_have_is_found(tmp_path: Path) -> None:
    """``make types`` reads every cell; here one of them is wrong."""
    notebook = tmp_path / "drill-monthly-verification.ipynb"
    text = (RUNBOOKS[0].parent / notebook.name).read_text(encoding="utf-8")
    notebook.write_text(text.replace("CompareWithObjectives(recovered)", "CompareWithObjectives(recovered.copi)"))
    found = subprocess.run(
        [sys.executable, RUNBOOKS[0].parents[1] / "tests" / "cells.py", notebook], capture_output=True, text=True
    )
    assert found.returncode == 1
    assert 'has no attribute "copi"' in found.stdout


def code_cells(runbook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in runbook.cells if cell.cell_type == "code"]


def lines(cell: NotebookNode) -> list[str]:
    return [line for line in cell.source.splitlines() if line.strip()]


def calls(cell: NotebookNode) -> Iterator[str]:
    for node in ast.walk(ast.parse(cell.source)):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func)


def parameters(runbook: NotebookNode) -> NotebookNode:
    found = [cell for cell in code_cells(runbook) if "parameters" in cell.metadata.get("tags", [])]
    assert len(found) == 1, "one cell is tagged 'parameters'"
    return found[0]


def step_cells(runbook: NotebookNode) -> list[NotebookNode]:
    """The code cells between the one that opens the run and the one that closes it."""
    return [cell for cell in code_cells(runbook)[2:-1] if not re.search(r"run\.(confirm|choose_target)\(", cell.source)]


def test_there_is_a_runbook() -> None:
    assert RUNBOOKS


def test_each_says_in_a_file_of_its_own_what_it_requires() -> None:
    for path in RUNBOOKS:
        kind_of(path.stem)
        assert path.with_suffix(".toml").is_file(), f"{path.stem} has no .toml"


def test_a_code_cell_is_an_assignment_and_a_call(runbook: NotebookNode) -> None:
    for cell in code_cells(runbook):
        assert not re.search(r"^\s*[%!]", cell.source, re.MULTILINE), f"a magic or a shell command: {cell.source}"
        for node in ast.walk(ast.parse(cell.source)):
            assert type(node) not in FORBIDDEN, f"{FORBIDDEN[type(node)]}: {cell.source}"
        assert "print" not in calls(cell), cell.source


def test_prose_stands_before_every_code_cell(runbook: NotebookNode) -> None:
    for before, cell in zip(runbook.cells, runbook.cells[1:], strict=False):
        if cell.cell_type == "code":
            assert before.cell_type == "markdown", f"no prose before: {cell.source}"
    assert runbook.cells[0].cell_type == "markdown"


def test_prose_before_a_step_says_what_to_expect(runbook: NotebookNode) -> None:
    for before, cell in zip(runbook.cells, runbook.cells[1:], strict=False):
        if cell in step_cells(runbook):
            assert re.search(r"\*\*expect:?\*\*", before.source, re.IGNORECASE), f"no **Expect:** before: {cell.source}"


def test_it_opens_with_what_an_engineer_must_know_first(runbook: NotebookNode) -> None:
    first = runbook.cells[0].source
    assert first.startswith("# ")
    for word in ("Use when", "Not when", "Effect", "Needs", "Takes", "Stops at"):
        assert word in first, word


def test_parameters_are_literals_and_the_mode_is_plan(runbook: NotebookNode) -> None:
    given = {}
    for statement in ast.parse(parameters(runbook).source).body:
        assert isinstance(statement, ast.Assign), ast.unparse(statement)
        assert isinstance(statement.value, ast.Constant), f"{ast.unparse(statement)} is not a literal"
        assert isinstance(statement.value.value, str | int | bool), ast.unparse(statement)
        (target,) = statement.targets
        given[ast.unparse(target)] = statement.value.value
    assert given["mode"] == "plan"
    assert given["site"] == ""
    for line in lines(parameters(runbook)):
        assert re.search(r"\S  # \S", line), f"a parameter says what it is for: {line}"


def test_it_opens_one_run_and_closes_it_last(runbook: NotebookNode) -> None:
    cells = code_cells(runbook)
    assert cells[0] is parameters(runbook)
    assert [cell for cell in cells if "open_run" in set(calls(cell))] == [cells[1]]
    assert cells[-1].source.strip() == "run.close()"
    assert sum(name == "run.close" for cell in cells for name in calls(cell)) == 1


def test_a_run_is_opened_under_the_notebooks_own_name() -> None:
    for path in RUNBOOKS:
        runbook = nbformat.read(path, as_version=4)
        assert re.search(rf'open_run\(\s*"{path.stem}"', code_cells(runbook)[1].source)


def test_a_step_cell_does_one_step(runbook: NotebookNode) -> None:
    for cell in step_cells(runbook):
        assert list(calls(cell)).count("run.do") == 1, cell.source
        (statement,) = ast.parse(cell.source).body
        assert isinstance(statement, ast.Assign | ast.Expr), cell.source


def test_a_destructive_section_says_so_and_has_its_three_cells(runbook: NotebookNode) -> None:
    for cell in runbook.cells:
        if cell.cell_type == "markdown" and re.search(r"^#+ .*DESTRUCTIVE", cell.source, re.MULTILINE):
            assert re.search(r"^---\n+## DESTRUCTIVE: ", cell.source, re.MULTILINE), cell.source
            assert re.search(r"\blost\b", cell.source), "it names what is lost"
    if any("DESTRUCTIVE:" in cell.source for cell in runbook.cells):
        assert any("run.confirm" in cell.source for cell in code_cells(runbook))


@pytest.mark.parametrize("path", RUNBOOKS, ids=lambda path: path.stem)
def test_it_is_kept_without_outputs(path: Path) -> None:
    done = subprocess.run(
        [str(Path(sys.executable).with_name("nbstripout")), "--verify", "--keep-id", str(path)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", RUNBOOKS, ids=lambda path: path.stem)
def test_it_is_a_valid_notebook(path: Path) -> None:
    nbformat.validate(nbformat.read(path, as_version=4))
