"""JupyterLab in a real browser: started for one test, and looked at cell by cell."""

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
from fix_drills import DrillLab, until
from playwright.sync_api import Locator, Page, expect, sync_playwright

from drillbook_lab.addresses import free_port

CHROMIUM = next((path for name in ("chromium", "chromium-browser") if (path := shutil.which(name))), None)
ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
CELL_SECONDS = 180.0
NOTIFICATIONS = "@jupyterlab/apputils-extension/notification.jupyterlab-settings"

NEEDS_CHROMIUM = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium: apt-get install chromium")


@contextmanager
def jupyter(folder: Path, env: dict[str, str], notebook: str) -> Iterator[str]:
    """A JupyterLab on ``folder`` that knows nothing of this user's settings; the notebook's address with the token."""
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
        sys.executable,
        "-m",
        "jupyterlab",
        "--no-browser",
        "--allow-root",
        "--ip=127.0.0.1",
        f"--port={port}",
        "--ServerApp.port_retries=0",
        f"--IdentityProvider.token={token}",
        "--LabApp.extension_manager=readonly",
        "--LabApp.expose_app_in_browser=True",  # so that a test can change the theme and save
    ]
    with (folder / "jupyter.log").open("wb") as log:
        server = subprocess.Popen(command, cwd=folder, env=env, stdout=log, stderr=subprocess.STDOUT)
    try:
        until(lambda: answers(f"http://127.0.0.1:{port}/api", server), "JupyterLab answers")
        yield f"http://127.0.0.1:{port}/lab/tree/{notebook}?token={token}"
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
            page.goto(address, wait_until="domcontentloaded", timeout=240_000)
            page.wait_for_selector(".jp-Notebook .jp-CodeCell", timeout=240_000)
            expect(page.locator(".jp-Notebook-ExecutionIndicator")).to_have_attribute(
                "data-status", "idle", timeout=240_000
            )
            # Before the kernel is connected a cell that is run is passed over, and nothing says so.
            expect(page.get_by_text("Python 3 (ipykernel) | Idle")).to_be_visible(timeout=240_000)
            yield page
        finally:
            browser.close()


def save(page: Page) -> None:
    """Save the notebook: a key would go to the text box of a gate, if that has the focus."""
    page.evaluate("() => window.jupyterapp.commands.execute('docmanager:save')")


def environment(lab: DrillLab, **more: str) -> dict[str, str]:
    """The lab's environment, and this installation's programs first."""
    env = {name: value for name, value in lab.env.items() if not name.startswith("JUPYTER")}
    return env | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}"} | more


def shown(cell: Locator) -> list[str]:
    return [" ".join(text.split()) for text in cell.locator(".jp-OutputArea-output").all_inner_texts()]


def run_cell(page: Page, cell: Locator, what: str) -> str:
    """Run a cell with Shift+Enter and wait for its end; what it shows. ``what`` names it if it never ends.

    JupyterLab numbers a cell before it has drawn all that the cell shows, and what acts on a run shows something.
    """
    acts = re.search(r"open_run|\brun\.(do|plan|close)\b", cell.locator(".cm-content").inner_text())
    cell.locator(".cm-content").click()
    before = cell.locator(".jp-InputPrompt").inner_text().strip()
    page.keyboard.press("Shift+Enter")
    deadline = time.monotonic() + CELL_SECONDS
    while not re.fullmatch(r"\[\d+\]:?", now := cell.locator(".jp-InputPrompt").inner_text().strip()) or now == before:
        assert time.monotonic() < deadline, f"the cell never ended: {what}"
        page.wait_for_timeout(200)
    if acts:
        expect(cell.locator(".jp-OutputArea-output").first).to_be_visible(timeout=60_000)
    said: list[str] | None = None
    while said != (said := shown(cell)):
        page.wait_for_timeout(500)
    return " ".join(said)
