"""What a person decides: names and objectives, each with a default that follows from what was found."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from drillbook.cli.init.discovery import Found
from drillbook.errors import ParameterError
from drillbook.profile import parse_duration

# CronJobs and what is named after a site must fit into Kubernetes' limits (52 characters for a CronJob).
LONGEST_NAME = 34
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_SUBDOMAIN = re.compile(rf"{_LABEL.pattern}(\.{_LABEL.pattern})*")

Check = Callable[[str], object]
"""Raises ValueError with what is wrong with an answer."""

Ask = Callable[[str, str, Check], str]
"""A question, its default, and the check of an answer, which anyone who can ask again does at once; the answer."""


def usual(_question: str, default: str, _check: Check) -> str:
    """The ``Ask`` of who asks nobody: every default."""
    return default


def _namespace(answer: str) -> None:
    if not _LABEL.fullmatch(answer):
        raise ValueError(f"{answer!r} is no name of a namespace: at most 63 lower-case letters, digits and '-'")


def _secret(answer: str) -> None:
    if not _SUBDOMAIN.fullmatch(answer) or len(answer) > 253:
        raise ValueError(f"{answer!r} is no name of a Secret: lower-case letters, digits, '-' and '.'")


def _text(answer: str) -> None:
    if not answer.strip():
        raise ValueError("it is empty")


@dataclass(frozen=True)
class Choices:
    """The answers. Durations are written as a profile has them (1h, 45m)."""

    name: str
    environment: str
    drillbook_namespace: str
    drill_namespace: str
    recovery_time: str
    recovery_point: str
    point_in_time_recovery: str
    sql_secret: str
    reader_secret: str

    def login_secret(self, database: str) -> str:
        """The Secret in Drillbook's namespace with a tenant's login; a database's name may hold what a Secret's may not."""
        plain = re.sub(r"[^a-z0-9]+", "-", database.lower()).strip("-")
        # Different names stay different: "A b" and "a-b" would else share a Secret.
        mark = "" if plain == database else f"-{database.encode().hex()[:12]}"
        return f"app-login-{self.name}-{plain or 'x'}{mark}"


def choose(found: Found, ask: Ask, name: str = "", folder: Callable[[str], Path] | None = None) -> Choices:
    """Ask what can't be found out. ParameterError with every answer that can't be used; nothing is written yet.

    ``folder``: what will be written for a site of that name; a name whose folder is there already is refused.
    """
    faults: list[str] = []

    def asked(question: str, default: str, check: Check) -> str:
        answer = ask(question, default, check)
        try:
            check(answer)
        except ValueError as error:
            faults.append(f"{question}: {error}")
        return answer

    def new_site(answer: str) -> None:
        if not _LABEL.fullmatch(answer) or len(answer) > LONGEST_NAME:
            raise ValueError(f"{answer!r} is not at most {LONGEST_NAME} lower-case letters, digits and '-'")
        if folder is not None and folder(answer).exists():
            raise ValueError(f"{folder(answer)} is there already: answer another name, or start again with --out")

    plain = f"{found.namespace}-{found.name}" if found.same_name else found.name
    site = asked("The site's name", name or plain[:LONGEST_NAME].strip("-"), new_site)
    chosen = Choices(
        name=site,
        environment=asked("What it is (production, staging, …)", "production", _text),
        drillbook_namespace=asked("Drillbook's own namespace", "drillbook", _namespace),
        drill_namespace=asked("The namespace for copies, of this site alone", f"drillbook-drills-{site}", _namespace),
        recovery_time=asked("Recovery time that was promised", "1h", parse_duration),
        recovery_point=asked("Recovery point that was promised", "1h", parse_duration),
        point_in_time_recovery=asked("Time for a point-in-time recovery that was promised", "45m", parse_duration),
        sql_secret=asked("Secret for the password of the role drillbook", f"drillbook-sql-{site}", _secret),
        reader_secret=asked(
            "Secret for the read-only key to the archive, in the namespace for copies",
            f"drillbook-archive-{site}",
            _secret,
        ),
    )
    if faults:
        raise ParameterError(
            faults, where="drillbook init", todo="Start again with other answers; nothing was written."
        )
    return chosen
