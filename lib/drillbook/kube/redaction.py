"""Secrets that this process has seen, kept out of every message of the Kubernetes client."""

from __future__ import annotations

import base64
import threading
from collections.abc import Callable

from drillbook.profile.secrecy import secrets_of

_SHORTEST = 4  # a shorter text occurs by chance in any message
_MASK = "***"


class Redactor:
    """Registers secrets with the run's masker and masks them in text of our own."""

    def __init__(self, register: Callable[[str], None] | None = None) -> None:
        self._register = register
        self._secrets: set[str] = set()
        self._lock = threading.Lock()

    def add(self, secret: str) -> None:
        """Keep ``secret`` out of all messages from now on."""
        if not secret:
            return
        with self._lock:
            if secret in self._secrets:
                return
        # First: a secret that can't be masked in evidence is refused there, each time again.
        if self._register is not None:
            self._register(secret)
        with self._lock:
            self._secrets.add(secret)

    def add_entries(self, entries: dict[str, str]) -> None:
        """Register what is secret among the decoded entries of a Secret."""
        for key, value in entries.items():
            for secret in secrets_of(key, value):
                self.add(secret)

    def clean(self, text: str) -> str:
        """``text`` without any registered secret, plain or in base64."""
        with self._lock:
            secrets = sorted((s for s in self._secrets if len(s) >= _SHORTEST), key=len, reverse=True)
        for secret in secrets:
            for form in (secret, base64.b64encode(secret.encode()).decode()):
                text = text.replace(form, _MASK)
        return text


def decoded(data: dict[str, str]) -> dict[str, str]:
    """A Secret's ``data`` as text; bytes that are no UTF-8 are read as Latin-1, which loses nothing."""
    found = {}
    for key, value in data.items():
        raw = base64.b64decode(value)
        try:
            found[key] = raw.decode()
        except UnicodeDecodeError:
            found[key] = raw.decode("latin-1")
    return found
