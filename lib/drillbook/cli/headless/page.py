"""executed.html: the executed notebook as a page."""

from __future__ import annotations

import threading
from functools import cache
from pathlib import Path
from typing import Any

# Code is wrapped instead of cut, on paper too, and its colours have the contrast that text needs (WCAG 2 AA).
_STYLE = """<style>
:root { --jp-mirror-editor-operator-color: #7a1fb8; --jp-mirror-editor-comment-color: #2f6666; }
.highlight pre, .jp-OutputArea-output pre { white-space: pre-wrap !important; overflow-wrap: anywhere; }
</style>
"""

_ONE = threading.Lock()  # the exporter keeps state while it renders, and `prepare` has a thread of its own


def prepare() -> None:
    """Import what the page needs and compile its templates, ahead of time: over a second, which the notebook covers."""
    from nbformat.v4 import new_notebook

    with _ONE:
        _exporter().from_notebook_node(new_notebook())  # type: ignore[no-untyped-call]


@cache
def _exporter() -> Any:
    from nbconvert import HTMLExporter

    exporter = HTMLExporter(exclude_input_prompt=True, exclude_output_prompt=True)  # type: ignore[no-untyped-call]
    # Nothing is fetched when the page is read: no script from elsewhere.
    exporter.mathjax_url = ""
    exporter.require_js_url = ""
    exporter.jquery_url = ""
    exporter.mermaid_js_url = ""
    return exporter


def write_page(path: Path) -> None:
    """Render the executed notebook, if it is there, as a page next to it that needs nothing from elsewhere."""
    if not path.is_file():
        return
    folder = path.parent
    resources = {"metadata": {"name": folder.name}}
    with _ONE:
        body, _ = _exporter().from_filename(str(path), resources=resources)
    (folder / "executed.html").write_text(body.replace("</head>", f"{_STYLE}</head>", 1), encoding="utf-8")
