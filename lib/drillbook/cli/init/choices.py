"""What a person decides: names and objectives, each with a default that follows from what was found."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from drillbook.cli.init.discovery import Found
from drillbook.errors import ParameterError
from drillbook.profile import parse_duration

# CronJobs and what is named after a site must fit into Kubernetes' limits (52 characters for a CronJob).
LONGEST_NAME = 34
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")

Ask = Callable[[str, str], str]
"""A question and its default; the answer."""


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


def choose(found: Found, ask: Ask, name: str = "") -> Choices:
    """Ask what can't be found out. ParameterError with every answer that can't be used; nothing is written yet."""
    usual = f"{found.namespace}-{found.name}" if found.same_name else found.name
    site = ask("The site's name", name or usual[:LONGEST_NAME].strip("-"))
    chosen = Choices(
        name=site,
        environment=ask("What it is (production, staging, …)", "production"),
        drillbook_namespace=ask("Drillbook's own namespace", "drillbook"),
        drill_namespace=ask("The namespace for copies, of this site alone", f"drillbook-drills-{site}"),
        recovery_time=ask("Recovery time that was promised", "1h"),
        recovery_point=ask("Recovery point that was promised", "1h"),
        point_in_time_recovery=ask("Time for a point-in-time recovery that was promised", "45m"),
        sql_secret=ask("Secret for the password of the role drillbook", f"drillbook-sql-{site}"),
        reader_secret=ask(
            "Secret for the read-only key to the archive, in the namespace for copies", f"drillbook-archive-{site}"
        ),
    )
    faults = []
    if not _NAME.fullmatch(site) or len(site) > LONGEST_NAME:
        faults.append(f"the site's name {site!r} is not at most {LONGEST_NAME} lower-case letters, digits and '-'")
    for what in ("recovery_time", "recovery_point", "point_in_time_recovery"):
        try:
            parse_duration(getattr(chosen, what))
        except ValueError as error:
            faults.append(f"{what}: {error}")
    if faults:
        raise ParameterError(
            faults, where="drillbook init", todo="Start again with other answers; nothing was written."
        )
    return chosen
