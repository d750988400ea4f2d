"""Secrets are masked where text leaves the process: journal, cell outputs, report and log alike."""

from __future__ import annotations

import base64
import html
import json
import re
import threading
from collections.abc import Iterable
from typing import Any, TypeVar
from urllib.parse import quote, quote_plus

from drillbook.errors import ParameterError
from drillbook.profile.secrecy import SHORTEST, secrets_of

T = TypeVar("T")

MASK = "[masked]"
_ALONE_ON_A_LINE = 16
_BREAK = re.compile(r"\\?\r?\n[ \t]*")


class Masker:
    """Knows the secrets that this process has seen, and masks them in whatever form they appear.

    The forms are the text itself, as JSON, HTML, a URL, YAML, libpq and a shell write it, in hexadecimal, and in base64 at
    any offset (an ``Authorization`` header holds a password in the middle of one); long ones with line breaks in them, as a
    terminal wraps them, too. ``keep`` names words that stay readable even if
    a Secret holds them, such as a role's or a database's name.
    """

    def __init__(self, keep: Iterable[str] = ()) -> None:
        self._keep = set(keep)
        self._forms: set[str] = set()
        self._wrapped: set[str] = set()  # forms that are met with line breaks in them, too
        self._whole: set[str] = set()
        self._pattern: re.Pattern[str] | None = None
        self._lock = threading.Lock()

    def keep(self, *words: str) -> None:
        """Leave ``words`` readable from now on; they are public names, not secrets."""
        with self._lock:
            self._keep.update(words)
            self._whole -= self._keep
            self._wrapped -= self._keep
            self._forms -= self._keep
            self._pattern = None

    def add(self, secret: str, *, key: str = "") -> bool:
        """Mask ``secret`` from now on; whether it is masked is the answer.

        ``key`` is its key in a Kubernetes Secret: of an entry only what is secret is masked (``site.secrecy``).
        Raises :class:`ParameterError` for a secret of less than six characters, which can't be masked.
        """
        if key:
            return sum(self._add(one, key) for one in secrets_of(key, secret)) > 0
        return self._add(secret, key)

    def _add(self, secret: str, key: str) -> bool:
        if not secret or secret in self._keep:
            return False
        if len(secret) < SHORTEST:
            raise ParameterError(
                [f"{key or 'a secret'} has {len(secret)} characters: less than {SHORTEST} can't be masked in evidence"],
                where="secrets",
                todo="Give it a longer value, then start again.",
            )
        with self._lock:
            if secret not in self._whole:
                self._whole.add(secret)
                self._forms |= {form for form in _forms(secret) if form not in self._keep}
                whole = base64.standard_b64encode(secret.encode("utf-8", errors="surrogateescape")).decode()
                self._wrapped |= {form for form in (secret, whole) if len(form) >= _ALONE_ON_A_LINE}
                self._pattern = None
        return True

    def register(self, secret: str) -> None:
        """``add`` as a plain call, for a client that tells each secret that it reads."""
        self.add(secret)

    def mask(self, value: T) -> T:
        """``value`` (text, bytes, or JSON with its keys) with every secret replaced."""
        pattern = self._compiled()
        return value if pattern is None else self._mask(value, pattern)

    def _compiled(self) -> re.Pattern[str] | None:
        with self._lock:
            if self._pattern is None and self._forms:
                longest_first = sorted(self._forms, key=lambda form: (-len(form), form))
                self._pattern = re.compile("|".join(map(re.escape, longest_first)))
            return self._pattern

    def _mask(self, value: Any, pattern: re.Pattern[str]) -> Any:
        if isinstance(value, str):
            return self._mask_wrapped(pattern.sub(MASK, value))
        if isinstance(value, bytes):
            return self._mask(value.decode("utf-8", errors="surrogateescape"), pattern).encode(
                "utf-8", errors="surrogateescape"
            )
        if isinstance(value, dict):
            return {self._mask(key, pattern): self._mask(item, pattern) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self._mask(item, pattern) for item in value]
        if isinstance(value, int | float) and str(value) in self._whole:
            return MASK
        return value

    def _mask_wrapped(self, text: str) -> str:
        """Mask what is met with line breaks in it. A pattern for that is slow, so it is made for what is seen to be there alone."""
        if "\n" in text:
            joined = _BREAK.sub("", text)
            for form in [form for form in tuple(self._wrapped) if form in joined]:
                text = re.sub(_across_lines(form), MASK, text)
        return text


def _forms(secret: str) -> set[str]:
    """Every form in which ``secret`` may be met in text."""
    texts = {secret}
    if "\n" in secret:
        # A key in PEM is printed line by line, indented, or as a list of lines; its armour is no secret.
        lines = (line.strip() for line in secret.splitlines())
        texts |= {line for line in lines if len(line) >= _ALONE_ON_A_LINE and not line.startswith("-----")}
    forms: set[str] = set()
    for text in texts:
        as_json = {json.dumps(text, ensure_ascii=ascii_only)[1:-1] for ascii_only in (True, False)}
        forms |= {text, repr(text)[1:-1]} | as_json | {json.dumps(form)[1:-1] for form in as_json}
        forms |= {text.replace("'", other) for other in ("''", "'\\''", "'\"'\"'")}  # YAML and SQL; shells
        forms.add(text.replace("\\", "\\\\").replace("'", "\\'"))  # libpq
        forms |= {html.escape(text), _as_text_in_html(text), _as_jinja_escapes(text)}
        for quoted in (quote(text), quote(text, safe=""), quote_plus(text)):
            forms |= {quoted, re.sub("%[0-9A-F]{2}", lambda match: match[0].lower(), quoted)}
        raw = text.encode("utf-8", errors="surrogateescape")
        forms |= {raw.hex(), raw.hex().upper()} | _base64_forms(raw)
    # A card is HTML of a text that may hold any of them.
    forms |= {escaped(form) for form in forms for escaped in (html.escape, _as_text_in_html, _as_jinja_escapes)}
    return {form for form in forms if len(form) >= SHORTEST}


def _across_lines(form: str) -> str:
    """A pattern of a form with at most one line break behind each character, and the next line's indentation."""
    return f"(?:{_BREAK.pattern})?".join(map(re.escape, form))


def _as_text_in_html(text: str) -> str:
    return html.escape(text, quote=False)


def _as_jinja_escapes(text: str) -> str:
    return html.escape(text, quote=False).replace('"', "&#34;").replace("'", "&#39;")


def _base64_forms(raw: bytes) -> set[str]:
    """``raw`` in base64: alone, in wrapped lines, and inside a longer text at each of the three offsets."""
    forms: set[str] = set()
    for encode in (base64.standard_b64encode, base64.urlsafe_b64encode):
        whole = encode(raw).decode()
        forms |= {whole, whole.rstrip("=")}
        if len(whole) > 76:
            forms |= {line for line in re.findall(".{1,76}", whole) if len(line) >= _ALONE_ON_A_LINE}
        for offset in range(3):
            padded = encode(b"\0" * offset + raw).decode().rstrip("=")
            # Characters at either end that the neighbours' bits share are left out.
            first = (offset * 8 + 5) // 6
            last = (offset + len(raw)) * 8 // 6
            forms.add(padded[first:last])
    return forms
