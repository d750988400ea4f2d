"""Earlier rehearsals of the same migration on other major versions of PostgreSQL, compared with this one."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from drillbook.engine.step import CheckStep, Context
from drillbook.evidence import sealed_runs, verify
from drillbook.model import Check, Verdict
from drillbook.steps.indexes.rehearsing import Rehearsed, claim_rows

RUNBOOK = "drill-index-rehearsal"


@dataclass(frozen=True)
class SameOnOtherMajors(CheckStep):
    """The class of each index on this major version, compared with this site's newest sealed rehearsal on each other one.

    The migration must be the same to the byte. A difference is a finding about the upgrade, not a failure of the
    rehearsal: both reasons are given, as each server showed them.
    """

    rehearsal: Rehearsed
    name: ClassVar[str] = "other major versions"
    proves: ClassVar[str] = "whether what was measured holds for this major version of PostgreSQL only"
    required: ClassVar[bool] = False

    def observe(self, ctx: Context) -> Sequence[Check]:
        here = claim_rows(self.rehearsal)
        found = [self._compared(here, run_id, there) for run_id, there in earlier(ctx.outputs, ctx.site.name, here)]
        reason = f"no sealed rehearsal of {here['migration']} on another major version is in the outputs"
        return found or [self.result(Verdict.NOT_APPLICABLE, reason=reason)]

    def _compared(self, here: Mapping[str, Any], run_id: str, there: Mapping[str, Any]) -> Check:
        then = {row["index"]: row for row in there["rows"]}
        pairs = [(row, then[row["index"]]) for row in here["rows"] if row["index"] in then]
        others = [(now, was) for now, was in pairs if now["class"] != was["class"]]
        same = f"the same {len(pairs)} classes"
        return self.result(
            Verdict.FAILED if others else Verdict.VERIFIED,
            name=f"{self.name}: PostgreSQL {major(there)}",
            expected=f"{same} as on PostgreSQL {here['server_version']}",
            observed=f"{len(others)} of {len(pairs)} differ" if others else same,
            reason=f"PostgreSQL {there['server_version']} in run {run_id}",
            details=tuple((now["index"], f"{_class(now, here)}; {_class(was, there)}") for now, was in others),
        )


def earlier(outputs: Path | None, site: str, here: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The newest intact rehearsal of the same migration at ``site`` on each other major version: run id and its claims."""
    seen = {major(here)}
    for folder in sealed_runs(outputs, RUNBOOK):
        try:
            record = json.loads((folder / "record.json").read_bytes())
            claims = record["facts"].get("index_claims")
            same = claims and claims.get("digest") == here["digest"] and record["system"]["site"] == site
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue  # `drillbook verify` says what is wrong with it
        if not same or major(claims) in seen or outputs is None:
            continue
        if any(folder.name in finding.where or finding.tampered for finding in verify(outputs, folder)):
            continue
        seen.add(major(claims))
        yield folder.name, claims


def major(claims: Mapping[str, Any]) -> str:
    """The major version of the server that the claims were measured on."""
    return str(claims["server_version"]).split(".")[0].split()[0]


def _class(row: Mapping[str, Any], claims: Mapping[str, Any]) -> str:
    return f"{major(claims)}: {row['class']}{f' ({why})' if (why := row['why']) else ''}"


__all__ = ["SameOnOtherMajors"]
