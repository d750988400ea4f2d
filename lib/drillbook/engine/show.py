"""Showing mime bundles where a notebook is looked at; nothing is shown elsewhere. Secrets are masked on the way."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

Mask = Callable[[Any], Any]


def shell() -> Any | None:
    """The running IPython shell, or None outside a notebook."""
    try:
        from IPython import get_ipython
    except ImportError:
        return None
    return get_ipython()


def cell() -> str:
    """Which cell is being run: the front end's id of it, else its text; "" outside a notebook."""
    ip = shell()
    if ip is None:
        return ""
    parent = ip.get_parent() if hasattr(ip, "get_parent") else {}
    known = (parent.get("metadata") or {}).get("cellId")
    return str(known or (ip.user_ns.get("In") or [""])[-1])


def execution() -> int:
    """The number of the cell's execution that is under way; 0 outside a notebook."""
    return int(getattr(shell(), "execution_count", 0))


def mask_outputs(mask: Mask) -> None:
    """Mask registered secrets in everything the kernel sends: streams, results, displays and errors."""
    ip = shell()
    if ip is None or not hasattr(ip, "kernel"):
        return
    import sys

    def hook(message: dict[str, Any]) -> dict[str, Any]:
        message["content"] = mask(message["content"])
        return message

    for channel in (ip.display_pub, ip.displayhook, sys.stdout, sys.stderr):
        if hasattr(channel, "register_hook"):
            channel.register_hook(hook)
        # A channel's hooks are each thread's own, and what is printed is sent by the kernel's own thread.
        if hasattr(channel, "register_hook") and hasattr(channel, "pub_thread"):
            channel.pub_thread.schedule(partial(channel.register_hook, hook))


class Display:
    """One place in a cell's output that is redrawn."""

    def __init__(self, mask: Mask) -> None:
        self._mask = mask
        self._handle: Any = None
        self._drawn = 0.0

    def draw(self, bundle: Mapping[str, Any], *, at_most_every_seconds: float = 0.0) -> None:
        """Draw ``bundle``; skipped if the last drawing is younger than the given time."""
        if shell() is None or time.monotonic() - self._drawn < at_most_every_seconds:
            return
        from IPython.display import display

        masked = self._mask(dict(bundle))
        if self._handle is None:
            self._handle = display(masked, raw=True, display_id=True)  # type: ignore[no-untyped-call]
        else:
            self._handle.update(masked, raw=True)
        self._drawn = time.monotonic()
