"""What a runbook says of itself, in ``runbooks/<name>.toml``: what must be seen for VERIFIED, and what it doesn't test."""

from __future__ import annotations

import os
import tomllib
from functools import cache
from pathlib import Path

from pydantic import ValidationError

from drillbook.engine.run_folders import runbook_folders
from drillbook.errors import ParameterError
from drillbook.model import Frozen


class RunbookKind(Frozen):
    """``required`` checks are a floor that no profile can switch off; ``recovers`` is whether recovery time and point
    are measured and compared with the objectives; ``to_an_instant`` whether that of a point-in-time recovery applies;
    ``resumes`` whether a run that stops midway is left as it is, to be resumed or abandoned, where others are settled
    at once; ``alone`` whether it takes the cluster's Lease when it opens: what only reads needs none, and must not keep
    a recovery waiting."""

    required: tuple[str, ...] = ()
    not_tested: tuple[str, ...] = ()
    recovers: bool = False
    to_an_instant: bool = True
    resumes: bool = False
    alone: bool = True


_DRILL = RunbookKind(
    required=("target and timeline", "boundary", "rows", "structure", "site questions", "quarantine"), recovers=True
)
_BY_PREFIX = {
    "check": RunbookKind(not_tested=("restoring anything: it was only read",), alone=False),
    "troubleshoot": RunbookKind(not_tested=("restoring anything: it was only read",), alone=False),
    "backup": RunbookKind(required=("backup in the bucket", "backup's WAL archived", "recovery window extended")),
    "recover": RunbookKind(
        required=("target and timeline", "structure", "site questions"), recovers=True, resumes=True
    ),
    "change": RunbookKind(resumes=True),
    "undo": RunbookKind(required=("application health",), resumes=True),
}


def kind_of(runbook: str) -> RunbookKind:
    """What the runbook's own file says; without one, by its prefix, another prefix as strictly as a drill. ParameterError."""
    path = _file(runbook)
    return _read(path) if path else _BY_PREFIX.get(runbook.partition("-")[0], _DRILL)


def _file(runbook: str) -> Path | None:
    """The runbook's file: by the notebook that a runner names, in the project, or in the checkout of this library."""
    given = os.environ.get("DRILLBOOK_NOTEBOOK", "")
    folders = [
        *([Path(given).parent] if given else []),
        *runbook_folders(),
    ]
    return next((path for folder in folders if (path := folder / f"{runbook}.toml").is_file()), None)


@cache
def _read(path: Path) -> RunbookKind:
    try:
        return RunbookKind.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except (ValidationError, tomllib.TOMLDecodeError) as error:
        raise ParameterError([str(error)], where=str(path)) from error
