"""What an engineer touches in JupyterLab: a text box that collects a phrase and does nothing else with it."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any


def ask_phrase(phrase: str, answer: Callable[[str], str]) -> None:
    """Show a text box in the cell's output; what is typed goes to ``answer``, whose words are shown beneath.

    Shows nothing where there is no notebook or where ipywidgets isn't installed: the phrase can be given on a terminal.
    """
    if find_spec("ipywidgets") is None or not _in_a_notebook():
        return
    import ipywidgets
    from IPython.display import display

    typed = ipywidgets.Text(placeholder=phrase, description="Phrase", layout=ipywidgets.Layout(width="420px"))
    button = ipywidgets.Button(description="Confirm", button_style="danger")
    said = ipywidgets.HTML()

    def collect(_: Any) -> None:
        said.value = _escaped(answer(str(typed.value)))

    button.on_click(collect)
    box = ipywidgets.VBox([ipywidgets.HBox([typed, button]), said])
    display(box)  # type: ignore[no-untyped-call]


def _in_a_notebook() -> bool:
    from IPython import get_ipython

    return hasattr(get_ipython(), "kernel")


def _escaped(text: str) -> str:
    from markupsafe import escape

    return str(escape(text))
