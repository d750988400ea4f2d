"""What can go wrong, as an operator needs to read it.

Every error says what was found and required, what has changed so far, and what to do::

    RunbookError
    ├── ParameterError          bad input; every fault at once; nothing was touched          exit 4
    ├── PreconditionError       the world is not as the step needs                           FAILED
    │   ├── NotReady            cluster, identity, rights or storage; every fault at once    exit 4
    │   ├── TargetOutsideWindow the target can't be reached; the nearest instant is named    exit 4
    │   ├── RunInProgress       another run holds the Lease                                  exit 4
    │   ├── NotResumable        the run can't go on, or not as it was begun                  exit 4
    │   ├── NotConfirmed        a gated step outside of a confirmed section                  exit 4
    │   ├── BaseBackupMissing   no usable base backup
    │   └── WalGap              the WAL chain is broken at a named segment
    ├── ConfirmationRequired    a stop, not a fault                                          exit 3
    ├── UpstreamError           an outside system did not answer as it should                UNPROVEN
    │   ├── KubernetesError
    │   ├── PostgresError       SQLSTATE classes XX and 58 contradict the claim: FAILED
    │   └── ObjectStoreError
    ├── Overtaken               a value to be put back is not the one that this run set      UNPROVEN
    ├── LeaseLost               another run may act on the cluster now: change nothing more  UNPROVEN
    ├── StepTimeoutError        started, not seen to finish                                  UNPROVEN
    │   └── StillRunning        longer than its limit, and going on: resume waits on         UNPROVEN (6 midway)
    ├── BackupFailed            the backup itself said that it failed                        FAILED
    ├── RecoveryFailed          the recovery itself said that it failed                      FAILED
    ├── VerificationError       the step ran, its postcondition is false                     FAILED
    ├── NotVerified             the run ended and its verdict is not VERIFIED
    ├── StoppedMidway           halted behind the point of no return: resume or undo         exit 6
    └── EvidenceError
        ├── EvidenceUnwritable  stop before acting                              exit 5 (6 midway)
        └── EvidenceTampered    names the file, the line or the link
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import ClassVar

from drillbook.model import Verdict


class Changed(StrEnum):
    """What a failed action has left behind, the first thing an operator needs to know."""

    NOTHING = "nothing"
    UNKNOWN = "unknown"
    DONE = "done"

    @property
    def words(self) -> str:
        """As a person reads it."""
        return _CHANGED[self]


_CHANGED = {
    Changed.NOTHING: "nothing",
    Changed.UNKNOWN: "not known: it began, and was not seen to end; `drillbook list` shows what is still to be undone",
    Changed.DONE: "what the steps above say they did; `drillbook list` shows what is still to be undone",
}


class RunbookError(Exception):
    """Base of all errors that are meant for a person.

    ``what`` says what was found and what was required, ``changed`` what has changed so far (``changes`` names it,
    where it is known), ``todo`` what to do next. ``verdict`` is what the error means for a run's claim; ``None``
    where nothing was claimed or tried. ``exit_code`` is the command line's status (DESIGN section 8 in the project's
    words: see the README).
    """

    verdict: ClassVar[Verdict | None] = Verdict.UNPROVEN
    exit_code: ClassVar[int] = 2
    rolled_back: bool = False
    """Whether what was begun is known to have had no effect: ``changed`` is then ``nothing``, whatever the step does."""

    def __init__(self, what: str, *, todo: str, changed: Changed = Changed.NOTHING, changes: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.changed = changed
        self.changes = changes
        self.todo = todo

    def lines(self) -> list[str]:
        """The message as a person reads it, one fact a line."""
        changed = self.changes or self.changed.words
        return [f"{type(self).__name__}: {self.what}", f"Changed so far: {changed}", f"What to do: {self.todo}"]

    def _render_traceback_(self) -> list[str]:
        # IPython and papermill print these lines instead of a traceback; the traceback goes to the run's log.
        return self.lines()

    def __str__(self) -> str:
        return self.what


class ParameterError(RunbookError):
    """Bad input: every fault at once, and nothing was touched."""

    verdict = None
    exit_code = 4

    def __init__(self, faults: Sequence[str], *, where: str, todo: str = "Correct them and start again.") -> None:
        self.faults = list(faults)
        count = "one fault" if len(self.faults) == 1 else f"{len(self.faults)} faults"
        super().__init__(f"{where}: {count}\n" + "\n".join(f"  - {fault}" for fault in self.faults), todo=todo)


class PreconditionError(RunbookError):
    """The world is not as the step needs it; the step has not started."""

    verdict: ClassVar[Verdict | None] = Verdict.FAILED
    exit_code = 1


class NotReady(PreconditionError):
    """Cluster, identity pin, rights or storage are not as the profile says: every fault at once, nothing touched."""

    verdict = None
    exit_code = 4

    def __init__(self, faults: Sequence[str], *, where: str, todo: str = "Fix them and start again.") -> None:
        self.faults = list(faults)
        super().__init__(
            f"{where} is not ready for this run:\n" + "\n".join(f"  - {fault}" for fault in faults), todo=todo
        )


class TargetOutsideWindow(PreconditionError):
    """The recovery target can't be reached from the archive as it is now."""

    verdict = None
    exit_code = 4


class RunInProgress(PreconditionError):
    """Another run holds the cluster's Lease."""

    verdict = None
    exit_code = 4


class NotResumable(PreconditionError):
    """The run can't go on where it stopped: what was begun is not what is here now, or can't be restored."""

    verdict = None
    exit_code = 4


class NotConfirmed(PreconditionError):
    """A step of a destructive section was reached, and that section was not confirmed."""

    verdict = None
    exit_code = 4


class BaseBackupMissing(PreconditionError):
    """The archive holds no base backup that can be used for the target."""


class WalGap(PreconditionError):
    """The WAL chain from the base backup is broken."""


class ConfirmationRequired(RunbookError):
    """A destructive section waits for its typed confirmation."""

    verdict = None
    exit_code = 3


class UpstreamError(RunbookError):
    """An outside system refused, failed or did not answer."""


class KubernetesError(UpstreamError):
    """The Kubernetes API's own answer: ``status`` is the HTTP code (0: no answer), ``reason`` its Status reason.

    ``undone``: the server certainly did nothing. ``retry_after``: how many seconds it asks to wait, None if it doesn't.
    """

    def __init__(
        self,
        what: str,
        *,
        status: int = 0,
        reason: str = "",
        todo: str,
        changed: Changed = Changed.NOTHING,
        undone: bool = False,
        retry_after: float | None = None,
    ):
        super().__init__(what, todo=todo, changed=changed)
        self.status = status
        self.reason = reason
        self.undone = undone
        self.retry_after = retry_after


class PostgresError(UpstreamError):
    """PostgreSQL's own answer without DETAIL and CONTEXT, which may hold a row; ``sqlstate`` is ``""`` if unknown."""

    def __init__(self, what: str, *, sqlstate: str = "", todo: str, changed: Changed = Changed.NOTHING):
        super().__init__(what, todo=todo, changed=changed)
        self.sqlstate = sqlstate

    @property
    def contradicts(self) -> bool:
        """Whether the server says that data is damaged (XX internal error, 58 system error), not that it can't say."""
        return self.sqlstate[:2] in {"XX", "58"}


class ObjectStoreError(UpstreamError):
    """The object store's own answer: ``status`` is the HTTP code (0: no answer), ``reason`` its error code."""

    def __init__(self, what: str, *, status: int = 0, reason: str = "", todo: str, changed: Changed = Changed.NOTHING):
        super().__init__(what, todo=todo, changed=changed)
        self.status = status
        self.reason = reason


class ConflictError(RunbookError):
    """Another controller has changed what this run changed: it is left as it is now, and not put back."""


class LeaseLost(RunbookError):
    """The run's Lease is no longer its own: another run may act on the cluster, so this one changes nothing more."""


class StepTimeoutError(RunbookError):
    """The step started and was not seen to finish: the state is unknown, ``todo`` says how to look."""

    def __init__(self, what: str, *, todo: str, changed: Changed = Changed.UNKNOWN) -> None:
        super().__init__(what, todo=todo, changed=changed)


class StillRunning(StepTimeoutError):
    """What was begun takes longer than its limit and goes on: a run that can be resumed stops midway, and waits on then."""


class BackupFailed(RunbookError):
    """The backup itself failed, or can't end."""

    verdict = Verdict.FAILED
    exit_code = 1


class RecoveryFailed(RunbookError):
    """The recovery job or PostgreSQL said that the recovery failed."""

    verdict = Verdict.FAILED
    exit_code = 1


class VerificationError(RunbookError):
    """The step ran and its postcondition is false."""

    verdict = Verdict.FAILED
    exit_code = 1

    def __init__(self, what: str, *, expected: str, observed: str, todo: str, changed: Changed = Changed.DONE) -> None:
        super().__init__(f"{what}: expected {expected}, observed {observed}", todo=todo, changed=changed)
        self.expected = expected
        self.observed = observed


class NotVerified(RunbookError):
    """The run is closed and its verdict is not VERIFIED."""

    def __init__(
        self, what: str, *, run_verdict: Verdict, todo: str, changed: Changed = Changed.DONE, changes: str = ""
    ) -> None:
        super().__init__(what, todo=todo, changed=changed, changes=changes)
        self.run_verdict = run_verdict


class StoppedMidway(RunbookError):
    """The run halted behind its point of no return: it stays as it is, and a person resumes it or goes back."""

    exit_code = 6

    def __init__(self, what: str, *, todo: str) -> None:
        super().__init__(what, todo=todo, changed=Changed.DONE)


class EvidenceError(RunbookError):
    """The evidence can't be written or can't be trusted."""


class EvidenceUnwritable(EvidenceError):
    """The evidence can't be written: stop before acting. The status is `MIDWAY` where the run has acted before."""

    MIDWAY: ClassVar[int] = 6
    verdict = None
    exit_code = 5


class EvidenceTampered(EvidenceError):
    """The evidence is not what was sealed: the message names the file, the line or the link."""

    verdict = Verdict.FAILED
    exit_code = 1
