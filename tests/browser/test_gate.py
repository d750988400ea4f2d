"""A gate in JupyterLab: the card, the text box that collects the phrase, and the same cell run again."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from fix_drills import DrillLab, until
from fix_jupyter import NEEDS_CHROMIUM, jupyter, opened, save, shown
from fix_tiny_page import cell_with, pictures, run_words, tiny_environment, tiny_for
from playwright.sync_api import expect

pytestmark = [pytest.mark.long, pytest.mark.timeout(900), NEEDS_CHROMIUM]


def test_a_gate_is_confirmed_in_the_text_box_of_its_card(browser_lab: DrillLab, tmp_path: Path) -> None:
    tiny = tiny_for(browser_lab, tmp_path)
    before = set(tiny.folders())
    with jupyter(tmp_path, tiny_environment(browser_lab), tiny.notebook.name) as address, opened(address) as page:
        page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-all-cells') }")
        gate = cell_with(page, "run.confirm")
        expect(gate.locator("input[type=text]")).to_be_focused(timeout=240_000)  # so it is in sight, and one can type
        assert gate.locator("input[type=text]").is_visible()
        card = " ".join(shown(cell_with(page, "run.plan")))
        assert "Replace the value" in card and "What is lost" in card and "the old value 'old'" in card

        said = " ".join(shown(gate))
        assert "ConfirmationRequired" in said and "Traceback" not in said
        assert "Waiting for you: type the phrase and press Enter or Confirm." in said and "drillbook resume" not in said
        (run,) = set(tiny.folders()) - before
        phrase = re.search(r"type (shared-postgres [0-9a-f]{8})", said)
        assert phrase, said
        assert len(gate.locator(".drillbook-gate").all()) == 1 and len(gate.locator("details[open]").all()) == 0
        assert run.name in said and "Then run this cell again (Shift+Enter)" in said
        box = gate.locator("input[type=text]")
        box.fill("shared-postgres 00000000")
        gate.get_by_role("button", name="Confirm").click()
        expect(gate.get_by_text("Not noted")).to_be_visible(timeout=240_000)
        box.fill(phrase[1])
        cell_with(page, "LookAround").locator(".cm-content").click()
        page.wait_for_timeout(1000)
        assert '"approved"' not in (run / "journal.jsonl").read_text(), "leaving the box confirms nothing"
        assert tiny.untouched
        pictures(page, gate, tmp_path, "waiting")
        box.press("Enter")
        expect(gate.get_by_text("confirmed by lab-admin at ")).to_be_visible(timeout=240_000)
        expect(gate.locator("input[type=text]")).to_have_count(0)
        pictures(page, gate, tmp_path, "confirmed")
        assert tiny.untouched, "the text box only collects the phrase"

        passed = " ".join(shown(run_words(page, "run.confirm")))
        assert "ConfirmationRequired" not in passed and "confirmed by lab-admin at 20" in passed
        for words in ("run.do(drain)", "run.do(replace)", "run.do(scale)", "ValueIsNew", "RemoveThing"):
            run_words(page, words)
        pictures(page, cell_with(page, "ValueIsNew"), tmp_path, "checks")
        end = " ".join(shown(run_words(page, "run.close")))
        line = f"drillbook finish {run.name} --notebook {tiny.notebook}"
        assert line in end and "UNSEALED" in end and "VERIFIED" not in end
        save(page)
        until(lambda: "UNSEALED" in tiny.notebook.read_text(), "the notebook is saved")

    assert tiny.state() == {"value": "new", "replicas": 3, "own": 0}
    done = browser_lab.drillbook("finish", run.name, "--notebook", str(tiny.notebook))
    assert done.returncode == 0 and "VERIFIED" in done.stdout, done.stdout + done.stderr
    assert "widget-view" not in (run / "executed.ipynb").read_text(), "what is kept shows without a kernel"
    assert '"how":"widget"' in (run / "journal.jsonl").read_text()
    tiny.clear()
