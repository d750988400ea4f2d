"""The kinds of runbook, by their prefix: what a run must have judged to be VERIFIED, and what it doesn't test."""

from __future__ import annotations

from dataclasses import dataclass

_RECOVERED = ("target and timeline", "boundary", "rows", "structure", "site questions", "quarantine")
_RECOVERY_NOT_TESTED = (
    "putting the recovered data into service (no cut-over)",
    "recovery with the source's own load, nodes and volumes: times are technical recovery times on this hardware",
    "rows of tables that the profile does not name in digest_tables",
    "the application itself on the recovered data",
)


@dataclass(frozen=True)
class Kind:
    """``required`` rungs are the library's floor, which no profile can switch off; ``recovers`` is whether recovery
    time and point are measured and held against the objectives."""

    required: tuple[str, ...]
    not_tested: tuple[str, ...]
    recovers: bool


_KINDS = {
    "check": Kind(("WAL chain",), ("restoring anything: only the archive was read",), recovers=False),
    "backup": Kind(
        ("backup in the bucket", "backup's WAL archived", "recovery window extended"),
        ("restoring this backup: the monthly drill does that",),
        recovers=False,
    ),
    "drill": Kind(_RECOVERED, _RECOVERY_NOT_TESTED, recovers=True),
    "recover": Kind(("target and timeline", "structure", "site questions"), (), recovers=True),
}


def kind_of(runbook: str) -> Kind:
    """The kind by the name's prefix; what has another prefix is judged as strictly as a drill."""
    return _KINDS.get(runbook.partition("-")[0], _KINDS["drill"])
