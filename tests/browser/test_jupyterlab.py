"""The runbook stepped through by hand: JupyterLab in a real browser, one cell after the other, then sealed."""

from __future__ import annotations

import re
import shutil
import time
from pathlib import Path

import pytest
from fix_drills import NOTEBOOK, ROOT, DrillLab, until
from fix_jupyter import CELL_SECONDS, NEEDS_CHROMIUM, environment, jupyter, opened, save, shown
from playwright.sync_api import Page, expect

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(900),
    NEEDS_CHROMIUM,
]

# What the card of each cell says, in their order; each step's own title is in front of it.
CARDS: list[tuple[str, tuple[str, ...]]] = [
    ("open_run", ("drill-monthly-verification", "Apply: steps are carried out", "cnpg-system/shared-postgres")),
    ("CheckReadiness", ("done", "right cluster", "VERIFIED")),
    ("NothingElseRunning", ("done", "nothing else running")),
    ("EarlierRunsKnown", ("done", "earlier runs")),
    ("ChooseBaseBackup", ("done", "Backup ID", "backup age")),
    ("WalChainUnbroken", ("done", "First segment", "WAL chain")),
    ("ArchivingLive", ("done", "archiving live", "archive lag")),
    ("ForecastRecovery", ("done", "forecast", "What would shorten it")),
    ("MarkBefore", ("done", "creates", "Scratch rows")),
    ("SimulateMistake", ("done", "changes", "Rows deleted", "1000")),
    ("SwitchWal", ("done", "Segment")),
    ("ProveTargetReachable", ("done", "Own marker")),
    ("CreateRecoveryCluster", ("done", "creates", "UID")),
    ("WaitForRecovery", ("done", "Fetch", "Replay", "Promote", "Recovery")),
    ("TargetAndBoundary", ("target and timeline", "boundary", "VERIFIED")),
    ("SameAsSource", ("rows: synergyflow", "structure: synergyflow", "VERIFIED")),
    ("IntegrityChecks", ("amcheck: synergyflow", "VERIFIED")),
    ("SiteQuestionsAndLogins", ("site questions", "app login: synergyflow", "VERIFIED")),
    ("CopyQuarantined", ("quarantine: synergyflow", "VERIFIED")),
    ("CompareWithObjectives", ("objective: recovery time", "objective: recovery point")),
    ("RemoveRecoveryCluster", ("done", "destroys")),
    ("run.close", ("UNSEALED", "drillbook finish", "shared-postgres was restored to", "Achieved recovery time", "met")),
]


def set_mode(page: Page, mode: str) -> None:
    """Change ``mode`` in the cell of the parameters, as one types it."""
    line = page.locator(".jp-CodeCell").first.locator(".cm-line", has_text="mode =")
    page.locator(".jp-CodeCell").first.locator(".cm-content").click()
    for key in ("Control+Home", "ArrowDown", "Home", *["ArrowRight"] * len('mode = "'), *["Delete"] * len("plan")):
        page.keyboard.press(key)
    page.keyboard.type(mode)
    expect(line).to_contain_text(f'mode = "{mode}"')
    page.keyboard.press("Escape")


def step(page: Page) -> tuple[str, str, list[str]]:
    """Run the active cell with Shift+Enter; its source, its output's text, and what it showed while it ran."""
    active = page.locator(".jp-Notebook .jp-Cell.jp-mod-active")
    number = active.get_attribute("data-windowed-list-index")
    source = (
        active.locator(".cm-content").inner_text() if "jp-CodeCell" in (active.get_attribute("class") or "") else ""
    )
    cell = page.locator(f'.jp-Notebook .jp-Cell[data-windowed-list-index="{number}"]')
    page.keyboard.press("Shift+Enter")
    expect(active).not_to_have_attribute("data-windowed-list-index", number or "")
    if not source:
        return "", "", []
    meanwhile: list[str] = []
    deadline = time.monotonic() + CELL_SECONDS
    while not re.fullmatch(r"\[\d+\]:?", cell.locator(".jp-InputPrompt").inner_text().strip()):
        assert time.monotonic() < deadline, f"the cell never ended: {source}"
        meanwhile += shown(cell)
        page.wait_for_timeout(200)
    if re.search(r"open_run|\brun\.(do|plan|close)\b", source):
        expect(cell.locator(".jp-OutputArea-output").first).to_be_visible()
    outputs = shown(cell)
    assert len(outputs) <= 1, f"a step is one card, redrawn in place: {outputs}"
    return source, "".join(outputs), meanwhile


def test_a_drill_can_be_stepped_through_by_hand_and_sealed(browser_lab: DrillLab, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "sites", tmp_path / "sites")
    (tmp_path / "runbooks").mkdir()
    copy = tmp_path / "runbooks" / NOTEBOOK.name
    shutil.copy(NOTEBOOK, copy)
    before = set(browser_lab.folders())

    with jupyter(tmp_path, environment(browser_lab), f"runbooks/{NOTEBOOK.name}") as address, opened(address) as page:
        set_mode(page, "apply")
        cells: list[tuple[str, str, list[str]]] = []
        while not cells or not cells[-1][0].startswith("run.close"):
            source, card, meanwhile = step(page)
            if source and not source.startswith("site ="):
                cells.append((source, card, meanwhile))
                name, words = CARDS[len(cells) - 1]
                assert name in source
                assert not [word for word in words if word not in card], f"{name} shows: {card}"
        save(page)
        until(lambda: "Achieved recovery time" in copy.read_text(), "the notebook is saved")

    assert len(cells) == len(CARDS)
    waiting = next(meanwhile for source, _, meanwhile in cells if "WaitForRecovery" in source)
    assert any("running" in text and "fetching the base backup" in text for text in waiting)

    (folder,) = set(browser_lab.folders()) - before
    done = browser_lab.drillbook("finish", folder.name, "--notebook", str(copy))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "VERIFIED  shared-postgres was restored to" in done.stdout
    assert browser_lab.drillbook("verify", folder.name).returncode == 0
    assert "shared-postgres was restored to" in (folder / "executed.html").read_text()
    assert browser_lab.left() == []
