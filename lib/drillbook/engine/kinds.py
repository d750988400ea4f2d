"""The kinds of runbook, by their prefix: what a run must have judged to be VERIFIED, and what it doesn't test."""

from __future__ import annotations

from dataclasses import dataclass

_RECOVERED = ("target and timeline", "boundary", "rows", "structure", "site questions", "quarantine")
_RECOVERY_NOT_TESTED = (
    "putting the recovered data into service (no cut-over)",
    "recovery with the source's own load, nodes and volumes: times are technical recovery times on this hardware",
    "rows of tables that the profile does not name in digest_tables, and of a sampled table those that the check `rows` does not count",
    "the application itself on the recovered data",
)
_RESTORE_NOT_TESTED = (
    "the applications beyond their health, one record through each API, and errors in their logs",
    "what other systems hold that refer to data that was lost",
    "tenants whose application the profile does not name",
)
_CHECK_NOT_TESTED = ("restoring anything: it was only read",)


@dataclass(frozen=True)
class RunbookKind:
    """``required`` checks are the library's floor, which no profile can switch off; ``recovers`` is whether recovery
    time and point are measured and held against the objectives; ``resumes`` whether a run that stops midway is left as
    it stands, to be resumed or abandoned, where others are settled at once; ``alone`` whether it takes the cluster's
    Lease when it opens: what only reads needs none, and must not keep a recovery waiting."""

    required: tuple[str, ...]
    not_tested: tuple[str, ...]
    recovers: bool
    to_an_instant: bool = True  # whether the objective of a point-in-time recovery applies to it
    resumes: bool = False
    alone: bool = True


_KINDS = {
    "check": RunbookKind((), _CHECK_NOT_TESTED, recovers=False, alone=False),
    "backup": RunbookKind(
        ("backup in the bucket", "backup's WAL archived", "recovery window extended"),
        ("restoring this backup: the monthly drill does that",),
        recovers=False,
    ),
    "drill": RunbookKind(_RECOVERED, _RECOVERY_NOT_TESTED, recovers=True),
    "recover": RunbookKind(("target and timeline", "structure", "site questions"), (), recovers=True, resumes=True),
    "change": RunbookKind((), (), recovers=False, resumes=True),
    "undo": RunbookKind(("application health",), (), recovers=False, resumes=True),
}

# What one runbook is judged by besides its prefix.
_OF_ONE = {
    "check-recovery-window": RunbookKind(
        ("base backup", "WAL chain", "WAL gaps", "recovery window", "damage"),
        (
            *_CHECK_NOT_TESTED,
            "base backups and WAL segments beyond those that the check `damage` says were read through",
        ),
        recovers=False,
        alone=False,
    ),
    "recover-point-in-time": RunbookKind(
        (
            "target and timeline",
            "boundary",
            "structure",
            "site questions",
            "quarantine",
            "backup before the cut",
            "carried structure",
            "carried rows",
            "application health",
            "smoke test",
            "application log",
            "backup after the cut",
            "declared state",
        ),
        (
            "the application beyond its health, one record through its API, and errors in its log",
            "what other systems hold that refer to data from after the target",
        ),
        recovers=True,
        resumes=True,
    ),
    "recover-full-restore": RunbookKind(
        (
            "backup before the cut",
            "old volume",
            "WAL chain",
            "complete",
            "site questions",
            "application health",
            "smoke test",
            "application log",
            "backup after the cut",
            "declared state",
        ),
        _RESTORE_NOT_TESTED,
        recovers=True,
        to_an_instant=False,
        resumes=True,
    ),
    "recover-full-restore-in-place": RunbookKind(
        (
            "backup before the cut",
            "old volume",
            "WAL chain",
            "copy: complete",
            "complete",
            "site questions",
            "app login",
            "application health",
            "smoke test",
            "application log",
            "backup after the cut",
            "declared state",
        ),
        _RESTORE_NOT_TESTED,
        recovers=True,
        to_an_instant=False,
        resumes=True,
    ),
    "undo-point-in-time": RunbookKind(
        ("written since", "application health", "smoke test", "application log", "backup after the cut"),
        _RESTORE_NOT_TESTED[:2],
        recovers=False,
        resumes=True,
    ),
    "undo-full-restore": RunbookKind(
        (
            "written since",
            "application health",
            "smoke test",
            "application log",
            "backup after the cut",
            "declared state",
        ),
        _RESTORE_NOT_TESTED,
        recovers=False,
        resumes=True,
    ),
    "change-drop-kept": RunbookKind(("backup of the cluster in service", "dropped"), (), recovers=False, resumes=True),
    "drill-quarterly-full-restore": RunbookKind(
        (
            "target and timeline",
            "boundary",
            "completeness",
            "newest changes",
            "structure",
            "site questions",
            "quarantine",
        ),
        (
            *_RECOVERY_NOT_TESTED,
            "rows digest against digest: the source goes on writing until the end of the WAL that is restored",
        ),
        recovers=True,
        to_an_instant=False,
    ),
}


def kind_of(runbook: str) -> RunbookKind:
    """The runbook's own kind, or that of its name's prefix; another prefix is judged as strictly as a drill."""
    return _OF_ONE.get(runbook) or _KINDS.get(runbook.partition("-")[0], _KINDS["drill"])
