"""A gate as one card: planned, waiting with its text box, confirmed. It is drawn again in its place, never a second time."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from drillbook.engine import widgets
from drillbook.engine.gate import Section
from drillbook.engine.observations import Observations
from drillbook.engine.opening import UNATTENDED_ENV
from drillbook.engine.show import Display, execution
from drillbook.engine.stakes import stakes
from drillbook.engine.step import Context
from drillbook.evidence import gates
from drillbook.report import cards


def attended() -> bool:
    """Whether somebody sees a text box."""
    return not os.environ.get(UNATTENDED_ENV) and widgets.has_boxes()


def section_card(
    *,
    title: str,
    steps: Sequence[Mapping[str, Any]],
    top: cards.Rows = (),
    lost: Sequence[str] = (),
    outage: Sequence[str] = (),
    asked_by: str = "",
    blocked: str = "",
    phrase: str = "",
    asks: str = "",
    confirmed: str = "",
    unfolded: bool = False,
    framed: bool = True,
) -> cards.Bundle:
    """A destructive section: what it is about (``top``), what is lost and out of service, each step's plan, what it waits for.

    The plan is folded unless ``unfolded``; ``framed``: False inside a frame that is drawn by others.
    """
    harmless = bool(steps) and all(step["plan"].get("harmless") for step in steps)
    text = [
        f"{'Nothing to do' if harmless else 'DESTRUCTIVE'}: {title}",
        *cards.plain_rows([(cards.show_name(name), value) for name, value in top]),
        f"  asked for by {asked_by}" if asked_by else "",
    ]
    text += [] if harmless else [f"  lost: {line}" for line in lost] or ["  lost: nothing"]
    text += [f"  out of service: {line}" for line in outage]
    for step in steps:
        text.append(f"  {step['title']} ({step['effect']}): {step['plan'].get('summary', '')}")
        text += [f"    {line}" for line in step["plan"].get("touches") or ()]
        text += [f"    {line}" for line in step["plan"].get("sql") or ()]
        text += [f"    - {note}" for note in step["plan"].get("notes") or ()]
    text += [f"  nobody is asked to confirm it, because of: {blocked}" if blocked else "", f"  {asks}" if asks else ""]
    text += [f"  phrase: {phrase}" if phrase else "", f"  {confirmed}" if confirmed else ""]
    return cards.draw(
        "section",
        text,
        title=title,
        steps=steps,
        top=[(cards.show_name(name), value) for name, value in top],
        lost=lost,
        outage=outage,
        asked_by=asked_by,
        blocked=blocked,
        phrase=phrase,
        asks=asks,
        confirmed=confirmed,
        unfolded=unfolded,
        framed=framed,
        harmless=harmless,
        effect_words=cards.EFFECT_WORDS,
    )


class GateCards:
    """The cards of a run's gates."""

    def __init__(self, context: Context, observations: Observations) -> None:
        self._context, self._observations = context, observations
        self._shown: dict[str, tuple[int, Display]] = {}
        self._boxes: dict[str, widgets.PhraseBox] = {}

    def top(self) -> list[tuple[str, str]]:
        """What the card says first, and the journal and the terminal with it."""
        events = self._observations.journal.events()
        return stakes(events[0], gates.parameters(events), self._observations.facts)

    def show(self, section: Section, *, asks: str = "", confirmed: str = "") -> None:
        """Draw the section's card, in its place if this cell has drawn it already."""
        self._display(section).draw(self._card(section, asks=asks, confirmed=confirmed))

    def ask(self, section: Section, asks: str, answer: Callable[[str], tuple[str, bool]]) -> None:
        """Draw the card with a text box in it: what is typed goes to ``answer``."""
        bundle: dict[str, Any] = dict(self._card(section, asks=asks))
        bare = self._observations.masker.mask(self._card(section, asks=asks, framed=False)["text/html"])
        first = section.steps[0].title if section.steps else section.title
        self._boxes[section.title] = box = widgets.PhraseBox(
            bare, f"Then run this cell again (Shift+Enter); the first step behind it: {first}.", answer
        )
        self._display(section).draw(bundle | box.view)
        box.come_into_sight()

    def settle(self, section: Section, confirmed: str) -> None:
        """After the phrase was typed: the card says who confirmed it, and there is nothing more to type in."""
        bare = self._card(section, confirmed=confirmed, framed=False)["text/html"]
        if section.title in self._boxes:
            self._boxes[section.title].settle(self._observations.masker.mask(bare))
        if section.title in self._shown:
            self._shown[section.title][1].draw(self._card(section, confirmed=confirmed))

    def _display(self, section: Section) -> Display:
        now = execution()
        known = self._shown.get(section.title)
        if known is None or known[0] != now:
            self._shown[section.title] = known = (now, Display(self._observations.masker.mask))
        return known[1]

    def _card(self, section: Section, *, asks: str = "", confirmed: str = "", framed: bool = True) -> dict[str, str]:
        return section_card(
            title=section.title,
            top=self.top(),
            steps=[
                {
                    "title": part.step.title,
                    "why": part.step.why,
                    "effect": str(part.step.effect),
                    "plan": part.shown,
                    "begun": part.begun,
                }
                for part in section.parts
            ],
            lost=section.lost,
            outage=section.outage,
            asked_by=str((self._observations.journal.events()[0].get("actor") or {}).get("username", "")),
            blocked=section.blocked,
            phrase=section.phrase if asks else "",
            asks=asks,
            confirmed=confirmed,
            unfolded=self._context.mode == "plan" or bool(section.blocked),  # there is nothing to confirm, but to read
            framed=framed,
        )


def who_confirmed(given: Sequence[Mapping[str, Any]]) -> str:
    """``confirmed by NAME at TIME``, of each who did."""
    if not given:
        return "nothing here has to be confirmed"
    named = [
        f"{one['actor'].get('username') or 'somebody'} at {cards.show_instant(str(one['at'])[:19] + 'Z')}"
        for one in given
    ]
    return f"confirmed by {', '.join(named)}"


__all__ = ["GateCards", "attended", "section_card", "who_confirmed"]
