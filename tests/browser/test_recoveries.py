"""The recoveries stepped through by hand in JupyterLab: each cell, each gate in its text box, to the sealed end."""

from __future__ import annotations

import json
import re
from pathlib import Path

import nbformat
import pytest
from fix_drills import ROOT, DrillLab, until
from fix_jupyter import NEEDS_CHROMIUM, environment, jupyter, opened, run_cell, save
from nbformat.reader import NotJSONError
from playwright.sync_api import Locator, Page, expect

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800), NEEDS_CHROMIUM]

DATABASE, TABLE = "synergyflow", "synergyflow_knowledge.articles"
NOW = """select to_char(clock_timestamp() at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')"""


def prepared(runbook: str, folder: Path, **parameters: str | int) -> Path:
    """The runbook as an engineer opens it, with the parameters typed in."""
    notebook = nbformat.read(ROOT / "runbooks" / f"{runbook}.ipynb", as_version=4)
    cell = next(cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ()))
    for name, value in parameters.items():
        cell.source, changed = re.subn(rf'(?m)^{name} = (".*?"|\d+)', f"{name} = {json.dumps(value)}", cell.source)
        assert changed == 1, name
    path = folder / f"{runbook}.ipynb"
    nbformat.write(notebook, path)
    return path


def confirm(page: Page, cell: Locator, said: str, picture: Path) -> None:
    """Type the phrase that the card names into its text box."""
    phrase = re.search(r"type ([\w-]+ [0-9a-f]{8})", said)
    assert phrase, said
    box = cell.locator("input[type=text]")
    box.fill(phrase[1])
    box.press("Enter")
    expect(cell.get_by_text("confirmed by ")).to_be_visible(timeout=240_000)
    cell.scroll_into_view_if_needed()
    page.screenshot(path=str(picture))


def ended(notebook: Path) -> bool:
    """Whether the saved notebook has the output of the cell that closes the run; JupyterLab adds an empty one below it."""
    try:
        cells = nbformat.read(notebook, as_version=4).cells
    except NotJSONError:  # JupyterLab is about to write it
        return False
    return any(cell.outputs for cell in cells if cell.cell_type == "code" and "run.close" in cell.source)


def step_through(lab: DrillLab, notebook: Path) -> tuple[int, str]:
    """Every code cell in its order; how many gates were passed, and what the last cell showed."""
    gates, said = 0, ""
    with jupyter(notebook.parent, environment(lab), notebook.name) as address, opened(address) as page:
        cells = page.locator(".jp-Notebook .jp-CodeCell")
        source, number = "", 0
        while "run.close" not in source:  # the cells below are drawn as one comes to them
            cell = cells.nth(number)
            source, number = cell.locator(".cm-content").inner_text(), number + 1
            said = run_cell(page, cell, source)
            if "ConfirmationRequired" in said:
                gates += 1
                confirm(page, cell, said, notebook.with_name(f"gate-{gates}.png"))
                said = run_cell(page, cell, source)
            assert "Traceback" not in said and "ConfirmationRequired" not in said, said
        page.screenshot(path=str(notebook.with_name("end.png")))
        save(page)
        until(lambda: ended(notebook), "the notebook is saved")
    return gates, said


@pytest.fixture
def rights(browser_lab: DrillLab) -> object:
    """Those of a recovery, for its time."""
    with browser_lab.recovering():
        yield


def test_one_database_to_a_point_in_time(browser_lab: DrillLab, rights: None, tmp_path: Path) -> None:
    lab = browser_lab
    count = int(lab.sql(DATABASE, f"select count(*) from {TABLE}"))
    target = lab.sql("postgres", NOW)
    lab.sql(DATABASE, f"delete from {TABLE}")
    notebook = prepared("recover-point-in-time", tmp_path, mode="apply", target_time=target, search_table=TABLE)
    gates, said = step_through(lab, notebook)
    assert (gates, "UNSEALED" in said) == (2, True), said
    assert int(lab.sql(DATABASE, f"select count(*) from {TABLE}")) == count
    (run,) = sorted((lab.outputs / "recover-point-in-time").iterdir())
    # Of each gate: the approval, and the passage that names it.
    assert (run / "journal.jsonl").read_text().count('"how":"widget"') == 2 * gates
    done = lab.drillbook("finish", run.name, "--notebook", str(notebook))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.soak
def test_the_whole_cluster_beside_the_old_one(browser_lab: DrillLab, rights: None, tmp_path: Path) -> None:
    """The last one: the lab's cluster is another afterwards."""
    notebook = prepared("recover-full-restore", tmp_path, mode="apply")
    gates, said = step_through(browser_lab, notebook)
    assert (gates, "UNSEALED" in said) == (2, True), said
    (run,) = sorted((browser_lab.outputs / "recover-full-restore").iterdir())
    done = browser_lab.drillbook("finish", run.name, "--notebook", str(notebook))
    assert done.returncode == 0, done.stdout + done.stderr
