"""What people read on cards and in errors: one format of time, units, no class names, no raw values."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from drillbook import errors
from drillbook import steps as procedures
from drillbook.engine.drawing import draw_step
from drillbook.engine.step import Checks, Pending, Step
from drillbook.errors import Changed, NotReady, RunbookError
from drillbook.model import Check, Frozen, Verdict
from drillbook.report import cards


def steps() -> Iterator[type[Step[object]]]:
    """Every step of the procedures."""
    for found in pkgutil.walk_packages(procedures.__path__, "drillbook.steps."):
        for item in vars(importlib.import_module(found.name)).values():
            if inspect.isclass(item) and issubclass(item, Step) and item.__module__ == found.name:
                yield item


ERRORS = {name for name, item in vars(errors).items() if inspect.isclass(item) and issubclass(item, RunbookError)}


@pytest.mark.parametrize(
    "step", list(steps()), ids=lambda step: f"{step.__module__.rpartition('.')[2]}.{step.__name__}"
)
def test_users_d_no_card_names_a_class_or_quotes_code(step: type[Step[object]]) -> None:
    some = object.__new__(step)
    words = f"{some.title} {some.why}"
    assert "`" not in words and ":func:" not in words and ":class:" not in words
    assert not ERRORS & set(re.findall(r"\w+", words))


@pytest.mark.parametrize("error", sorted(ERRORS))
def test_users_d_a_sentence_about_an_error_is_not_for_the_card(error: str) -> None:
    step = type("Some", (Step,), {"__doc__": f"Look.\n\nIt reads. {error} if it can't. Nothing is changed."})()
    assert step.why == "It reads. Nothing is changed."


class Result(Frozen):
    """A step's result without its own card."""

    size_bytes: int = 49059519
    oid: int = 16385
    patience: timedelta = timedelta(hours=1)
    took_seconds: float = 62.04
    ended_at: datetime = datetime(2026, 11, 28, 2, 10, 44, 793001, UTC)


class Look(Step[Result]):
    """Look."""


def test_users_d_a_result_is_shown_with_units_and_names() -> None:
    text = draw_step(1, Look(), "done", Result(), None, None, "", 1.0, [])["text/plain"]
    rows = dict(re.findall(r"^  (\S[^\n]*?)  +(.*)$", text, re.MULTILINE))
    assert rows == {
        "Size": "46.8 MiB",
        "OID": "16385",
        "Patience": "1 h",
        "Took": "1 min 02 s",
        "Ended at": "2026-11-28 02:10:44.793 UTC",
    }


@pytest.mark.parametrize(
    "value", [Result(), Checks(checks=()), Pending("known later")], ids=lambda value: type(value).__name__
)
def test_users_a12_a_cell_does_not_print_its_steps_result_a_second_time(
    value: object, capsys: pytest.CaptureFixture[str]
) -> None:
    value._ipython_display_()  # type: ignore[attr-defined]
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("required", "verdict", "word"),
    [
        (False, "VERIFIED", "info"),
        (True, "VERIFIED", "VERIFIED"),
        (False, "UNPROVEN", "UNPROVEN"),
        (False, "FAILED", "FAILED"),
    ],
)
def test_users_d_what_is_not_required_is_information_and_not_green(required: bool, verdict: str, word: str) -> None:
    check = Check(name="damage", proves="x", verdict=Verdict(verdict), required=required).model_dump(mode="json")
    card = cards.step_card(n=1, title="T", status="planned", checks=[check])
    assert card["text/plain"].splitlines()[1].split()[0] == word and f"<span>{word}</span>" in card["text/html"]
    assert (cards.environment().get_template("parts.html.j2").module.COLOURS["VERIFIED"] in card["text/html"]) is (
        word == "VERIFIED"
    )  # type: ignore[attr-defined]


@pytest.mark.parametrize("changed", list(Changed))
def test_users_a11_what_has_changed_is_said_in_words(changed: Changed) -> None:
    error = RunbookError("it broke", todo="look", changed=changed)
    assert "Changed so far: done" not in error.lines() and f"Changed so far: {changed.words}" in error.lines()
    card = cards.step_card(
        n=1, title="T", status="failed", error={"type": "X", "what": "y", "changed": str(changed), "todo": "z"}
    )
    assert changed.words in card["text/plain"]
    named = RunbookError("it broke", todo="look", changed=changed, changes="made: a copy")
    assert "Changed so far: made: a copy" in named.lines()


def test_users_d_not_ready_says_for_what() -> None:
    assert NotReady(["a right is missing"], where="ns/pg").what.startswith("ns/pg is not ready for this run:")


@pytest.mark.parametrize("where", ["reason", "notes", "progress"])
def test_users_d_times_on_cards_have_one_format(where: str) -> None:
    text = "kept until 2026-11-28T02:10:44.793001Z"
    html = {
        "reason": cards.step_card(n=1, title="T", reason=text),
        "notes": cards.step_card(n=1, title="T", status="planned", plan={"summary": text, "notes": [text]}),
        "progress": cards.progress_card("T", text),
    }[where]["text/html"]
    assert "2026-11-28 02:10:44.793 UTC" in html and "T02:10" not in html
