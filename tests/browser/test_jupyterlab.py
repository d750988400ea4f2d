"""The runbook stepped through by hand: JupyterLab in a real browser, one cell after the other, then sealed."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.request import urlopen

import pytest
from fix_drills import NOTEBOOK, ROOT, DrillLab, until
from playwright.sync_api import Locator, Page, expect, sync_playwright

from drillbook_lab.addresses import free_port

CHROMIUM = next((path for name in ("chromium", "chromium-browser") if (path := shutil.which(name))), None)
ARGUMENTS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
CELL_SECONDS = 180.0
NOTIFICATIONS = "@jupyterlab/apputils-extension/notification.jupyterlab-settings"

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(900),
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium: apt-get install chromium"),
]

# What the card of each cell says, in their order; each step's own title stands in front of it.
CARDS: list[tuple[str, tuple[str, ...]]] = [
    ("open_run", ("drill-monthly-verification", "Apply: steps are carried out", "cnpg-system/shared-postgres")),
    ("CheckReadiness", ("done", "right cluster", "VERIFIED")),
    ("NothingElseRunning", ("done", "nothing else running")),
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
    ("SoundInside", ("amcheck: synergyflow", "VERIFIED")),
    ("SiteAgrees", ("site questions", "app login: synergyflow", "VERIFIED")),
    ("CopyQuarantined", ("quarantine: synergyflow", "VERIFIED")),
    ("CompareWithObjectives", ("objective: recovery time", "objective: recovery point")),
    ("RemoveRecoveryCluster", ("done", "destroys")),
    ("run.close", ("VERIFIED", "shared-postgres was restored to", "Achieved recovery time", "met")),
]


@contextmanager
def jupyter(folder: Path, env: dict[str, str]) -> Iterator[str]:
    """A JupyterLab on ``folder`` that knows nothing of this user's settings; its address with the token."""
    own = folder / ".jupyter"
    settings = own / "settings" / NOTIFICATIONS
    settings.parent.mkdir(parents=True)
    settings.write_text('{"fetchNews": "false", "checkForUpdates": false}')
    env = env | {
        "JUPYTER_CONFIG_DIR": str(own / "config"),
        "JUPYTER_DATA_DIR": str(own / "data"),
        "JUPYTER_RUNTIME_DIR": str(own / "runtime"),
        "JUPYTERLAB_SETTINGS_DIR": str(own / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(own / "workspaces"),
        "IPYTHONDIR": str(own / "ipython"),
    }
    port, token = free_port(), secrets.token_hex(16)
    command = [
        sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}",
        "--ServerApp.port_retries=0", f"--IdentityProvider.token={token}", "--LabApp.extension_manager=readonly",
    ]  # fmt: skip
    with (folder / "jupyter.log").open("wb") as log:
        server = subprocess.Popen(command, cwd=folder, env=env, stdout=log, stderr=subprocess.STDOUT)
    try:
        until(lambda: answers(f"http://127.0.0.1:{port}/api", server), "JupyterLab answers")
        yield f"http://127.0.0.1:{port}/lab/tree/runbooks/{NOTEBOOK.name}?token={token}"
    finally:
        server.terminate()
        with suppress(subprocess.TimeoutExpired):
            server.wait(20)
        if server.poll() is None:
            server.kill()
            server.wait()


def answers(address: str, server: subprocess.Popen[bytes]) -> bool:
    assert server.poll() is None, "JupyterLab has ended"
    with suppress(OSError), urlopen(address, timeout=5) as answer:  # noqa: S310 - our own server
        return bool(answer.status == 200)
    return False


@contextmanager
def opened(address: str) -> Iterator[Page]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(ARGUMENTS), headless=True)
        try:
            page = browser.new_page(viewport={"width": 1280, "height": 900})
            page.goto(address, wait_until="domcontentloaded")
            page.wait_for_selector(".jp-Notebook .jp-CodeCell", timeout=60_000)
            expect(page.locator(".jp-Notebook-ExecutionIndicator")).to_have_attribute(
                "data-status", "idle", timeout=60_000
            )
            yield page
        finally:
            browser.close()


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
    if "run" in source:
        expect(cell.locator(".jp-OutputArea-output").first).to_be_visible()
    outputs = shown(cell)
    assert len(outputs) <= 1, f"a step is one card, redrawn in place: {outputs}"
    return source, "".join(outputs), meanwhile


def shown(cell: Locator) -> list[str]:
    return [" ".join(text.split()) for text in cell.locator(".jp-OutputArea-output").all_inner_texts()]


def test_a_drill_can_be_stepped_through_by_hand_and_sealed(browser_lab: DrillLab, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "sites", tmp_path / "sites")
    (tmp_path / "runbooks").mkdir()
    copy = tmp_path / "runbooks" / NOTEBOOK.name
    shutil.copy(NOTEBOOK, copy)
    env = {name: value for name, value in browser_lab.env.items() if not name.startswith("JUPYTER")}
    env |= {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}"}

    with jupyter(tmp_path, env) as address, opened(address) as page:
        set_mode(page, "apply")
        cells: list[tuple[str, str, list[str]]] = []
        while not cells or not cells[-1][0].startswith("run.close"):
            source, card, meanwhile = step(page)
            if source and not source.startswith("site ="):
                cells.append((source, card, meanwhile))
                name, words = CARDS[len(cells) - 1]
                assert name in source
                assert not [word for word in words if word not in card], f"{name} shows: {card}"
        page.keyboard.press("Control+s")
        until(lambda: "Achieved recovery time" in copy.read_text(), "the notebook is saved")

    assert len(cells) == len(CARDS)
    waiting = next(meanwhile for source, _, meanwhile in cells if "WaitForRecovery" in source)
    assert any("running" in text and "fetching the base backup" in text for text in waiting)

    (folder,) = browser_lab.folders()
    done = browser_lab.drillbook("finish", folder.name, "--notebook", str(copy))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "VERIFIED  shared-postgres was restored to" in done.stdout
    assert browser_lab.drillbook("verify", folder.name).returncode == 0
    assert "shared-postgres was restored to" in (folder / "executed.html").read_text()
    assert browser_lab.left() == []
