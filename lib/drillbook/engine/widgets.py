"""What an engineer touches in JupyterLab: a card with a text box that collects a phrase and does nothing else with it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from markupsafe import escape

# The frame of a card, drawn around card and text box alike.
_FRAME = (
    "<style>.drillbook-gate{box-sizing:border-box;max-width:920px;margin:4px 0!important;padding:14px 18px!important;"
    "border:1px solid rgba(128,136,148,.32)!important;border-radius:8px}"
    ".drillbook-gate .widget-html-content{line-height:19px;white-space:normal;overflow:visible}"
    ".drillbook-gate .widget-html{height:auto;overflow:visible}</style>"
)
WIDGET = "application/vnd.jupyter.widget-view+json"


class PhraseBox:
    """A card, beneath it a text box with a button, and what comes next. Enter confirms as the button does.

    What is typed goes to ``answer``, which says in words what came of it, and whether it counts: then the box is gone.
    """

    def __init__(self, card: str, next_step: str, answer: Callable[[str], tuple[str, bool]]) -> None:
        import ipywidgets

        self._answer = answer
        self._card = ipywidgets.HTML(_FRAME + card)
        self._typed = ipywidgets.Text(
            placeholder="the phrase",
            description="Phrase",
            layout=ipywidgets.Layout(width="420px", max_width="calc(100% - 4px)"),
        )
        self._button = ipywidgets.Button(description="Confirm", button_style="danger")
        self._said = ipywidgets.HTML(str(escape(next_step)))
        # Not the observed value: that would take a phrase as confirmed when the box only loses the focus.
        self._typed.on_msg(self._on_message)
        self._button.on_click(self._collect)
        self._line = ipywidgets.HBox([self._typed, self._button], layout=ipywidgets.Layout(flex_flow="row wrap"))
        self._box = ipywidgets.VBox([self._card, self._line, self._said])
        self._box.add_class("drillbook-gate")

    def come_into_sight(self) -> None:
        """Put the cursor into the box once it is drawn: after Run All the notebook shows its end, and the gate is far above."""
        for seconds in (0.7, 2.0):
            timer = threading.Timer(seconds, self._focus)
            timer.daemon = True
            timer.start()

    def _focus(self) -> None:
        if not self._typed.disabled and not self._typed.value:
            self._typed.focus()

    @property
    def view(self) -> dict[str, Any]:
        """The mime bundle's part that shows it."""
        return {WIDGET: {"version_major": 2, "version_minor": 0, "model_id": self._box.model_id}}

    def settle(self, card: str) -> None:
        """Show another card, and nothing more to type in: also where the page was reloaded in the meantime."""
        self._card.value = _FRAME + card
        self._box.children = [self._card]

    def _on_message(self, _: Any, content: dict[str, Any], __: Any) -> None:
        if content.get("event") == "submit":
            self._collect(None)

    def _collect(self, _: Any) -> None:
        said, counts = self._answer(str(self._typed.value))
        self._said.value = str(escape(said))
        if counts:
            self._typed.disabled = self._button.disabled = True


def has_boxes() -> bool:
    """Whether a text box can be shown here: in a notebook's kernel, with ipywidgets installed."""
    if find_spec("ipywidgets") is None:
        return False
    from IPython import get_ipython

    return hasattr(get_ipython(), "kernel")
