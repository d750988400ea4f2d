"""The tiny procedure in JupyterLab: its notebook ready for apply, and its cells by what they say."""

from __future__ import annotations

import os
from pathlib import Path

import nbformat
from fix_contrast import CONTRAST
from fix_drills import DrillLab
from fix_jupyter import environment, run_cell
from fix_tiny import HERE, Tiny, write_notebook
from playwright.sync_api import Locator, Page


def tiny_for(lab: DrillLab, folder: Path) -> Tiny:
    """Subject and application as before, and the notebook with its parameters typed in."""
    tiny = Tiny(lab, write_notebook(folder))
    tiny.prepare()
    site = tiny.profile("browser")
    notebook = nbformat.read(tiny.notebook, as_version=4)
    parameters = notebook.cells[1]
    parameters.source = parameters.source.replace('site = ""', f'site = "{site}"').replace('"plan"', '"apply"')
    nbformat.write(notebook, tiny.notebook)
    return tiny


def tiny_environment(lab: DrillLab, **more: str) -> dict[str, str]:
    """The lab's environment, with the tiny procedure's steps to import."""
    return environment(lab, PYTHONPATH=os.pathsep.join((str(HERE), os.environ.get("PYTHONPATH", ""))), **more)


def cell_with(page: Page, words: str) -> Locator:
    return page.locator(".jp-Notebook .jp-CodeCell", has=page.locator(".cm-content", has_text=words))


def pictures(page: Page, cell: Locator, folder: Path, name: str) -> None:
    """To be looked at: light and dark, wide and narrow; texts that have too little contrast are named."""
    for theme in ("Light", "Dark"):
        page.evaluate(
            "theme => window.jupyterapp && window.jupyterapp.commands.execute('apputils:change-theme', {theme})",
            f"JupyterLab {theme}",
        )
        for width in (1280, 900):
            page.set_viewport_size({"width": width, "height": 900})
            page.wait_for_timeout(800)
            cell.scroll_into_view_if_needed()
            pale = page.evaluate(CONTRAST, ".jp-OutputArea-output")
            assert pale == [], f"contrast, {theme}: {pale}"
            page.screenshot(path=str(folder / f"{name}-{theme.lower()}-{width}.png"))
    page.evaluate(
        "window.jupyterapp && window.jupyterapp.commands.execute('apputils:change-theme', {theme: 'JupyterLab Light'})"
    )
    page.set_viewport_size({"width": 1280, "height": 900})


def run_words(page: Page, words: str) -> Locator:
    """Run the cell that says so."""
    cell = cell_with(page, words)
    run_cell(page, cell, words)
    return cell
