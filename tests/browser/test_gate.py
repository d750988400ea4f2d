"""A gate in JupyterLab: the card, the text box that collects the phrase, and the same cell run again."""

from __future__ import annotations

import os
import re
from pathlib import Path

import nbformat
import pytest
from fix_drills import DrillLab, until
from fix_jupyter import NEEDS_CHROMIUM, environment, jupyter, opened, run_cell, shown
from fix_tiny import HERE, Tiny, write_notebook
from playwright.sync_api import Locator, Page, expect

pytestmark = [pytest.mark.long, pytest.mark.timeout(900), NEEDS_CHROMIUM]


def cell_with(page: Page, words: str) -> Locator:
    return page.locator(".jp-Notebook .jp-CodeCell", has=page.locator(".cm-content", has_text=words))


def run_words(page: Page, words: str) -> Locator:
    """Run the cell that says so."""
    cell = cell_with(page, words)
    run_cell(page, cell, words)
    return cell


def test_a_gate_is_confirmed_in_the_text_box_of_its_card(browser_lab: DrillLab, tmp_path: Path) -> None:
    tiny = Tiny(browser_lab, write_notebook(tmp_path))
    tiny.prepare()
    site = tiny.profile("browser")
    notebook = nbformat.read(tiny.notebook, as_version=4)
    parameters = notebook.cells[1]
    parameters.source = parameters.source.replace('site = ""', f'site = "{site}"').replace('"plan"', '"apply"')
    nbformat.write(notebook, tiny.notebook)
    env = environment(browser_lab, PYTHONPATH=os.pathsep.join((str(HERE), os.environ.get("PYTHONPATH", ""))))

    with jupyter(tmp_path, env, tiny.notebook.name) as address, opened(address) as page:
        for words in ("site =", "open_run", "LookAround", "MakeThing", "run.plan"):
            run_words(page, words)
        card = " ".join(shown(cell_with(page, "run.plan")))
        assert "Replace the value" in card and "What is lost" in card and "the old value 'old'" in card

        gate = run_words(page, "run.confirm")
        said = " ".join(shown(gate))
        assert "ConfirmationRequired" in said and "Traceback" not in said
        (run,) = tiny.folders()
        phrase = re.search(r"type (shared-postgres [0-9a-f]{8})", said)
        assert phrase, said
        gate.locator("input[type=text]").fill("shared-postgres 00000000")
        gate.get_by_role("button", name="Confirm").click()
        expect(gate.get_by_text("Not noted")).to_be_visible(timeout=240_000)
        assert tiny.untouched
        gate.locator("input[type=text]").fill(phrase[1])
        gate.get_by_role("button", name="Confirm").click()
        expect(gate.get_by_text("Noted. Run this cell again to go on.")).to_be_visible(timeout=240_000)
        gate.scroll_into_view_if_needed()
        page.screenshot(path=str(tmp_path / "gate.png"))
        assert tiny.untouched, "the text box only collects the phrase"

        assert "ConfirmationRequired" not in " ".join(shown(run_words(page, "run.confirm")))
        for words in ("run.do(drain)", "run.do(replace)", "run.do(scale)", "ValueIsNew", "RemoveThing"):
            run_words(page, words)
        assert "VERIFIED" in " ".join(shown(run_words(page, "run.close")))
        page.keyboard.press("Control+s")
        until(lambda: "VERIFIED" in tiny.notebook.read_text(), "the notebook is saved")

    assert tiny.state() == {"value": "new", "replicas": 3, "own": 0}
    done = browser_lab.drillbook("finish", run.name, "--notebook", str(tiny.notebook))
    assert done.returncode == 0, done.stdout + done.stderr
    assert '"how":"widget"' in (run / "journal.jsonl").read_text()
    tiny.clear()
