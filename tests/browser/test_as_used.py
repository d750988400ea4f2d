"""JupyterLab as people use it: opened twice, a cell run again, the page reloaded, the kernel restarted, given up."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from fix_drills import DrillLab, until
from fix_jupyter import NEEDS_CHROMIUM, jupyter, opened, save, shown
from fix_tiny_page import cell_with, pictures, run_words, tiny_environment, tiny_for
from playwright.sync_api import Page, expect

from drillbook.evidence import Journal

pytestmark = [pytest.mark.long, pytest.mark.timeout(900), NEEDS_CHROMIUM]


def events(folder: Path, kind: str) -> list[dict[str, object]]:
    return [event for event in Journal(folder / "journal.jsonl").events() if event["type"] == kind]


def restart(page: Page) -> None:
    """Kernel, Restart Kernel…, as one does it by hand."""
    page.evaluate("() => { window.jupyterapp.commands.execute('kernelmenu:restart') }")
    page.locator(".jp-Dialog button.jp-mod-accept").click()
    expect(page.get_by_text("Python 3 (ipykernel) | Idle")).to_be_visible(timeout=240_000)
    page.wait_for_timeout(2000)


def test_users_a5_a7_a8_opened_twice_reloaded_restarted_and_resumed_in_the_notebook(
    browser_lab: DrillLab, tmp_path: Path
) -> None:
    tiny = tiny_for(browser_lab, tmp_path)
    before = set(tiny.folders())
    hold = tmp_path / "hold"
    hold.touch()
    env = tiny_environment(browser_lab, TINY_HOLD_IN=f"MakeThing:{hold}")
    with jupyter(tmp_path, env, tiny.notebook.name) as address, opened(address) as page:
        for words in ("site =", "open_run", "LookAround", "site =", "open_run", "LookAround"):
            run_words(page, words)
        first, run = sorted(set(tiny.folders()) - before)
        assert [event["by"] for event in events(first, "superseded")] == [run.name]
        assert browser_lab.drillbook("verify", first.name).returncode == 0

        cell_with(page, "MakeThing").locator(".cm-content").click()
        page.keyboard.press("Shift+Enter")
        until(lambda: len(events(run, "step_started")) == 2, "the step has begun")
        save(page)
        page.wait_for_timeout(1000)
        page.reload(wait_until="domcontentloaded", timeout=240_000)
        page.wait_for_selector(".jp-Notebook .jp-CodeCell", timeout=240_000)
        made = cell_with(page, "MakeThing")
        made.locator(".cm-content").click()
        page.keyboard.press("Shift+Enter")  # JupyterLab may pass it over: it does not know yet what the kernel does
        page.wait_for_timeout(2000)
        # The reloaded page draws nothing of the step that goes on; the terminal next to it says how far it is.
        listed = " ".join(browser_lab.drillbook("list", env=env).stdout.split())
        assert (
            f"{run.name}: step 2 (Make its own thing) since" in listed and "25%, making a thing; name: tiny-" in listed
        ), listed
        hold.unlink()
        expect(page.get_by_text("Python 3 (ipykernel) | Idle")).to_be_visible(timeout=240_000)
        page.wait_for_timeout(2000)
        if not made.get_by_text("already done at").count():
            run_words(page, "MakeThing")
        expect(made.get_by_text("already done at")).to_be_visible(timeout=60_000)
        assert len(events(run, "step_started")) == 2, "the step that ran was joined, not begun again"
        pictures(page, made, tmp_path, "already-done")

        run_words(page, "run.plan")
        assert "Waiting for you" in " ".join(shown(run_words(page, "run.confirm")))
        restart(page)
        assert "NameError" in " ".join(shown(run_words(page, "run.confirm")))
        run_words(page, "site =")
        opening = run_words(page, "open_run")
        said = " ".join(shown(opening))
        assert f"Run {run.name} (change-tiny) waits at gate 1 (Replace the value) since" in said, said
        assert "holds: ConfigMap/" in said and f'run = resume_run("{run.name}")' in said
        pictures(page, opening, tmp_path, "waits")
        assert set(tiny.folders()) - before == {first, run}, "no second, blind run"

        opening.locator(".cm-content").click()
        page.keyboard.press("Escape")
        page.keyboard.press("b")
        page.keyboard.press("Enter")
        page.keyboard.insert_text(f'from drillbook.engine import resume_run\nrun = resume_run("{run.name}")')
        run_words(page, "resume_run")
        for words in ("LookAround", "MakeThing", "run.plan"):
            done = run_words(page, words)
        assert "from the journal, as it was seen at" in " ".join(shown(cell_with(page, "MakeThing")))
        gate = run_words(page, "run.confirm")
        phrase = re.search(r"type (shared-postgres [0-9a-f]{8})", " ".join(shown(gate)))
        assert phrase and done
        gate.locator("input[type=text]").fill(phrase[1])
        gate.locator("input[type=text]").press("Enter")
        expect(gate.get_by_text("confirmed by lab-admin at ")).to_be_visible(timeout=240_000)
        for words in ("run.confirm", "run.do(drain)", "run.do(replace)", "run.do(scale)", "ValueIsNew", "RemoveThing"):
            run_words(page, words)
        end = run_words(page, "run.close")
        assert "UNSEALED" in " ".join(shown(end))
        pictures(page, end, tmp_path, "end")
        save(page)
        until(lambda: "UNSEALED" in tiny.notebook.read_text(), "the notebook is saved")

    assert tiny.state() == {"value": "new", "replicas": 3, "own": 0}
    started = [event["step"] for event in events(run, "step_started")]
    assert len(started) == len(set(started)) == 7
    sealed = browser_lab.drillbook("finish", run.name, "--notebook", str(tiny.notebook))
    assert sealed.returncode == 0 and "VERIFIED" in sealed.stdout, sealed.stdout + sealed.stderr
    assert browser_lab.drillbook("verify").returncode == 0
    tiny.clear()


def test_users_a9_a_run_that_is_given_up_keeps_its_notebook(browser_lab: DrillLab, tmp_path: Path) -> None:
    tiny = tiny_for(browser_lab, tmp_path)
    before = set(tiny.folders())
    with jupyter(tmp_path, tiny_environment(browser_lab), tiny.notebook.name) as address, opened(address) as page:
        for words in ("site =", "open_run", "LookAround", "MakeThing", "run.plan", "run.confirm"):
            run_words(page, words)
        (run,) = set(tiny.folders()) - before
        save(page)
        until(lambda: "Waiting for you" in tiny.notebook.read_text(), "the notebook is saved")
        refused = browser_lab.drillbook("abandon", run.name)
        assert refused.returncode == 4 and "can't be abandoned while its kernel runs" in refused.stderr
    ended = browser_lab.drillbook("abandon", run.name)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert (run / "executed.ipynb").read_bytes() == tiny.notebook.read_bytes()
    assert "Waiting for you" in (run / "executed.html").read_text()
    assert browser_lab.drillbook("verify").returncode == 0
    tiny.clear()
