"""How cards, the executed notebook, the report and the auditor's page look: contrast, headings of tables, nothing cut or overlapping."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import nbformat
import pytest
from fix_contrast import CONTRAST
from fix_jupyter import ARGUMENTS, CHROMIUM, NEEDS_CHROMIUM
from measured import FACTS
from playwright.sync_api import Page, sync_playwright

from drillbook.cli.headless.page import write_page
from drillbook.engine.gate_card import section_card
from drillbook.evidence import record
from drillbook.evidence.deviations import Noted
from drillbook.evidence.due import Due, State
from drillbook.evidence.population import Entry, Population
from drillbook.profile.schema import Every
from drillbook.report import cards, summary
from drillbook.report import page as report

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "unit"))

from evidence_sample import checks, opened, unproven, verified

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.long, NEEDS_CHROMIUM]

CUT = """
() => [...document.querySelectorAll('body *')].filter(e => {
  const s = getComputedStyle(e)
  return e.children.length === 0 && e.textContent.trim() && e.getClientRects().length && !e.closest('svg, pre, .wide, [style*=overflow-x]')
    && (e.scrollWidth > e.clientWidth + 1 && s.display !== 'inline' || e.getBoundingClientRect().right > innerWidth + 1)
}).map(e => `${e.tagName} ${e.textContent.trim().slice(0, 60)}`)"""
HEADERS = "() => [...document.querySelectorAll('th')].filter(e => !e.textContent.trim()).length"
# A word is broken if a cell's word is wider than the cell lets it be.
BROKEN = """
() => [...document.querySelectorAll('th, td')].flatMap(cell => {
  const found = []
  const walker = document.createTreeWalker(cell, NodeFilter.SHOW_TEXT)
  while (walker.nextNode()) {
    for (const word of walker.currentNode.textContent.matchAll(/[A-Za-z]{4,14}(?![\\w/.-])/g)) {
      if (/[\\w/.-]/.test(walker.currentNode.textContent[word.index - 1] || ' ')) continue
      const range = document.createRange()
      range.setStart(walker.currentNode, word.index); range.setEnd(walker.currentNode, word.index + word[0].length)
      if (new Set([...range.getClientRects()].map(r => Math.round(r.top))).size > 1) found.push(word[0])
    }
  }
  return found
})"""


# The same in the titles of cards and their steps, at any width.
IN_TITLES = BROKEN.replace("'th, td'", """'[style*="font-weight:650"]'""")
SCROLLED = """
() => [...document.querySelectorAll('.wide td')].filter(e => e.getClientRects().length
  && e.getBoundingClientRect().right > e.closest('.wide').getBoundingClientRect().right + 1).map(e => e.textContent.trim())"""
LABELS = """
() => [...document.querySelectorAll('.trend svg')].flatMap(picture => {
  const frame = picture.getBoundingClientRect()
  const boxes = [...picture.querySelectorAll('text')].map(e => [e.textContent, e.getBoundingClientRect()])
  return boxes.filter(([, r], n) => r.left < frame.left - 1 || r.right > frame.right + 1 || r.top < frame.top - 1 || r.bottom > frame.bottom + 1
    || boxes.slice(0, n).some(([, o]) => r.left < o.right && o.left < r.right && r.top + 2 < o.bottom && o.top + 2 < r.bottom))
    .map(([text]) => text)
})"""


PREDICTED: dict[str, Any] = {
    "samples": 0,
    "seconds": 240.0,
    "low": 200.0,
    "high": 300.0,
    "unknown": "",
    "advice": [],
    "phases": [{"name": "fetch", "seconds": 200.0, "low": 170.0, "high": 250.0, "how": "read at 80 MB/s"}],
}


def with_forecast() -> dict[str, Any]:
    """A sealed drill that was predicted: the first figure's note then needs a second line."""
    found = record(verified())
    first, *others = found["objectives"]["measured"]
    measured = [first | {"forecast_seconds": 240.0}, *others]
    return found | {
        "objectives": found["objectives"] | {"measured": measured},
        "forecast": {"predicted": PREDICTED, "compared": []},
    }


def bundles() -> list[dict[str, str]]:
    """A card of each kind that an engineer meets."""
    found = record(verified())
    plan: dict[str, Any] = {
        "summary": "Make the copy",
        "notes": ["in namespace drills"],
        "sql": ["SELECT 1"],
        "touches": ["scale Deployment a/b"],
    }
    error = {
        "type": "WalGap",
        "what": "a segment is missing",
        "changed": "unknown",
        "todo": "look",
        "verdict": "FAILED",
    }
    steps = [{"title": "Scale to zero", "why": "nobody writes", "effect": "changes", "plan": plan, "begun": False}]
    gate = {
        "title": "Put it into service",
        "top": [("run", "r1"), ("NOT undone", "XID 1721")],
        "steps": steps,
        "lost": ["sessions"],
    }
    return [
        cards.run_card(opened()),
        cards.step_card(
            n=1, title="Verify the copy", why="because", rows=[("name", "value")] * 3, checks=checks(), seconds=2
        ),
        cards.step_card(n=2, title="Make it", effect="creates", status="planned", plan=plan),
        cards.step_card(n=3, title="Remove it", effect="destroys", status="failed", error=error),
        cards.step_card(n=4, title="Not run", status="not run", reason="step 3 failed"),
        section_card(phrase="shared-postgres 0123abcd", asks="Waiting for you.", unfolded=True, **gate),
        section_card(
            confirmed=f"confirmed by system:serviceaccount:{'a-long-name-' * 3}:drillbook at 2026-11-28 02:10:00 UTC",
            **gate,
        ),
        cards.progress_card("Wait", "fetching", fraction=0.5, rows=[("waited", "3 s")]),
        cards.verdict_card(
            found,
            seal_with="drillbook finish 20261101T101500Z-1a2b3c --notebook /a/path/that/is/rather/long/to/a/notebook.ipynb",
        ),
        cards.verdict_card(record(unproven())),
        cards.forecast_card(PREDICTED),
    ]


def summary_page() -> str:
    """A year with long names: met and missed objectives, tickets, retests, forecasts above and below."""
    begins = datetime(2026, 1, 4, 10, tzinfo=UTC)
    entries = []
    for n in range(24):
        at, missed, bad = begins + timedelta(days=15 * n), n % 5 == 0, n % 7 == 3
        note = Noted(
            run_id=str(n),
            at=at,
            ticket=f"https://tracker.example.org/browse/OPS-{n}",
            by="Ada",
            account="ada@example.org",
        )
        entries.append(
            Entry(
                run_id=f"{at:%Y%m%dT%H%M%SZ}-{n:06x}",
                runbook="recover-full-restore-in-place",
                state="sealed",
                verdict="FAILED" if bad else "VERIFIED",
                opened_at=at,
                asked_by="Ada Lovelace (system:serviceaccount:drillbook-production:drillbook-runner)",
                approved_by="Grace Hopper (grace.hopper@example.org)",
                measured=(("recovery time", 4354.0 if missed else 754.0, 3600.0, not missed),),
                backup_bytes=6_000_000_000,
                forecast_off=-0.31 if missed else 0.12,
                cause="amcheck: synergyflow: expected no finding, observed synergyflow_incidents.status_idx: item order"
                if bad
                else "",
                deviates=("recovery time was 1 h 12 min, its objective is 1 h",) if missed else (),
                noted=(note,) if missed and n else (),
                retested_by="20260607T100000Z-000007" if missed else "",
                retest="candidate" if missed else "",
                record_sha256="e" * 64,
                signed=True,
            )
        )
    owed = [
        Due(
            runbook=one.runbook,
            every=Every.MONTH,
            begins=one.opened_at,
            by=one.opened_at,
            ends=one.opened_at,
            state=state,
            runs=1,
        )
        for one, state in zip(entries, [*State, *State], strict=False)
        if one.opened_at
    ]
    found = Population(
        site="synergyflow",
        begins=begins,
        ends=begins + timedelta(days=365),
        entries=tuple(entries),
        due=tuple(owed),
        head_sha256="a" * 64,
        lines=99,
    )
    return summary.html(found, not_tested=["the application itself"], controls=["SOC 2 A1.3"], trust="")


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The executed notebook with every kind of card, and the report."""
    folder = tmp_path_factory.mktemp("look")
    notebook = nbformat.read(ROOT / "runbooks" / "drill-monthly-verification.ipynb", as_version=4)
    codes = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for cell, bundle in zip(codes[1:], bundles(), strict=False):
        cell.outputs = [nbformat.v4.new_output("display_data", bundle)]
        cell.execution_count = 1
    codes[0].source += '\nlong = "' + "a line of code that is longer than a page is wide, " * 4 + '"  # and a comment'
    nbformat.write(notebook, folder / "executed.ipynb")
    write_page(folder / "executed.ipynb")
    (folder / "report.html").write_text(report.html(with_forecast()), encoding="utf-8")
    found = record(verified())
    measured = report.html(found | {"facts": found["facts"] | FACTS})
    (folder / "measured.html").write_text(measured, encoding="utf-8")
    (folder / "summary.html").write_text(summary_page(), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def browser_page() -> Iterator[Page]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(ARGUMENTS), headless=True)
        yield browser.new_page()
        browser.close()


@pytest.mark.parametrize("width", [1280, 900, 420])
@pytest.mark.parametrize("name", ["executed.html", "report.html", "measured.html", "summary.html"])
def test_users_d_a_page_is_readable(pages: Path, browser_page: Page, name: str, width: int) -> None:
    page = browser_page
    page.set_viewport_size({"width": width, "height": 900})
    page.goto((pages / name).as_uri())
    page.screenshot(path=str(pages / f"{name}-{width}.png"), full_page=True)
    assert page.evaluate(CONTRAST, "body") == []
    assert page.evaluate(HEADERS) == 0
    assert page.evaluate(CUT) == []
    assert width < 900 or page.evaluate(BROKEN) == []
    assert name not in ("summary.html", "measured.html") or page.evaluate(SCROLLED) == [], (
        "a column has to be scrolled for"
    )
    assert page.evaluate(LABELS) == [], "labels of a picture that are cut off or upon each other"


def test_c17_no_title_of_a_card_is_squeezed_by_what_stands_at_its_right(pages: Path, browser_page: Page) -> None:
    """Between the side bars of JupyterLab in a small window little is left for an output."""
    browser_page.set_viewport_size({"width": 300, "height": 900})
    browser_page.goto((pages / "executed.html").as_uri())
    assert browser_page.evaluate(IN_TITLES) == []


def test_c17_on_paper_no_verdict_is_broken_or_stands_in_the_next_column(pages: Path, browser_page: Page) -> None:
    browser_page.set_viewport_size({"width": 688, "height": 900})  # A4 within its margins
    browser_page.goto((pages / "measured.html").as_uri())
    browser_page.emulate_media(media="print")
    outside = """
() => [...document.querySelectorAll('td')].filter(e => /^(VERIFIED|UNPROVEN|FAILED)$/.test(e.textContent.trim())).filter(e => {
  const range = document.createRange(); range.selectNodeContents(e)
  return range.getBoundingClientRect().right > e.getBoundingClientRect().right + 1 || range.getBoundingClientRect().height > 24
}).map(e => e.textContent.trim())"""
    found = browser_page.evaluate(outside)
    browser_page.emulate_media(media="screen")
    assert found == []


def test_users_a12_no_line_of_code_is_cut_on_the_page(pages: Path, browser_page: Page) -> None:
    browser_page.set_viewport_size({"width": 900, "height": 900})
    browser_page.goto((pages / "executed.html").as_uri())
    browser_page.emulate_media(media="print")
    wide = (
        "() => [...document.querySelectorAll('.highlight pre')].filter(e => e.scrollWidth > e.clientWidth + 1).length"
    )
    assert browser_page.evaluate(wide) == 0
    browser_page.emulate_media(media="screen")
    assert browser_page.evaluate(wide) == 0


@pytest.mark.parametrize("width", [1280, 900])
def test_d05_the_figures_of_one_row_stand_on_one_line(pages: Path, browser_page: Page, width: int) -> None:
    """However many lines a figure's label or note takes; the headings' contrast is in the test of the whole page."""
    browser_page.set_viewport_size({"width": width, "height": 900})
    browser_page.goto((pages / "report.html").as_uri())
    boxes = browser_page.evaluate(
        "() => [...document.querySelectorAll('.figures .big')].map(e => e.getBoundingClientRect()).map(r => [r.left, r.top])"
    )
    rows = [top for n, (left, top) in enumerate(boxes) if n == 0 or left <= boxes[n - 1][0]]
    assert len(boxes) >= 3 and {top for _, top in boxes} == set(rows), boxes
