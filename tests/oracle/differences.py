"""Where the lab may answer otherwise than the real operator did, and why no runbook can notice it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch

WORDS = "the same refusal at the same field, in other words: runbooks show words and decide by the code"
QUOTED = "the API server names the type in place of the value: the same refusal at the same field"
DECODED = "the operator's webhook stumbles before the schema is asked: refused by both"

# What was attempted: why the difference stands.
ADMISSION = {
    "name in upper case": WORDS,
    "instances -1": WORDS,
    "parameter min_wal_size=10GB": WORDS,
    "externalClusters twice the same name": WORDS,
    "parameter not a string": DECODED,
    "Database postgres": QUOTED,
    "Database template1": QUOTED,
}

# Changes of live objects.
CHANGES: dict[str, str] = {}


@dataclass(frozen=True)
class Difference:
    """What a replayed scenario may tell otherwise: which scenarios, which facts (patterns), and why nobody notices."""

    scenarios: str  # as `fnmatch` takes them, several by `|`
    what: str  # in words, for the page
    fact: str  # a regular expression that the whole difference matches
    reason: str


REPLAYED: tuple[Difference, ...] = (
    Difference(
        "*",
        "no event NoPods of a PodDisruptionBudget",
        r"PodDisruptionBudget .*: events \| there: Normal NoPods: No matching pods found",
        "an event of Kubernetes' own disruption controller, which the lab doesn't have: nobody evicts pods there",
    ),
    Difference(
        "*",
        "no ConfigMap `cnpg-default-monitoring`",
        r"ConfigMap cnpg-default-monitoring: .*",
        "the lab's metrics are asked for by its own code: no runbook reads the operator's queries",
    ),
    Difference(
        "11-deletion",
        "a Cluster that is deleted with `--cascade=orphan` goes in one step",
        r"Cluster again: life \| there: is to go",
        "the lab lets go of an orphaned Cluster's dependents at once: no runbook deletes in that way",
    ),
    Difference(
        "09-ha",
        "a replica's volume claim is made before its Job, not after it",
        r"order of creation for ha \| (here|there): PersistentVolumeClaim ha-[23]",
        "no runbook reads in which order they come",
    ),
    Difference(
        "09-ha",
        "a second failover names one candidate only",
        r"Cluster ha: targetPrimary \| there: (ha-1|pending)",
        "the recorded operator changed its mind once: runbooks wait for `currentPrimary`",
    ),
    Difference(
        "09-ha",
        "a pod that is deleted by force stays until its processes have ended; a demoted primary's container goes on",
        r"Pod ha-1: (phase|ready|restarts|role) \| .*",
        "runbooks don't delete pods by force, and tell instances by their role",
    ),
    Difference(
        "08-used",
        "a moment's error between the operator and the plugin",
        r"Cluster fresh: phase \| there: .* due to an error while interacting with plugins .*",
        "two Clusters were made at once there: an accident that passed by itself",
    ),
    Difference(
        "09-ha",
        "a Database that can't be applied says nothing of a primary that starts again",
        r"Database ha-noowner: applied \| (there|here): False while (detecting|creating) .*",
        "for half a minute it named the missing socket instead of the missing role: no runbook reads a Database's message",
    ),
    Difference(
        "02-backup|09-ha|11-deletion",
        "the Lease is not given back by a primary that stops",
        r"Lease .*: holder \| (there|here): .*",
        "it names the primary, which is all that it tells: no runbook reads it",
    ),
)


# What the scenarios don't show, or what no answer of the API tells.
OTHERS = {
    "the API server's remark that further rules were not checked": (
        "it stands next to a refusal by the schema, which is the same"
    ),
    "the default image": (
        "the recorded operator was set up with another one; runbooks read the image that runs from the status"
    ),
    "a port-forward reaches a server on its pod's address alone, too": (
        "the lab's pods share one network, where none can listen on all addresses: such an application is found on a real "
        "cluster only, by the check before the first gate. What listens on localhost alone is reached as there; the recordings "
        "hold one forward, to PostgreSQL, which listens everywhere"
    ),
    "a sidecar's first cycle comes after 20 s, not at once": (
        "there it skips, as there is no primary yet: no runbook waits for a retention cycle"
    ),
    "no conflict of two updates of an ObjectStore": (
        "there a window stayed behind its backup until the next cycle: runbooks read the bucket, not the window"
    ),
    "`archive_command` is a program of the lab's": (
        "quarantine accepts the operator's own command and commands that write nowhere"
    ),
    "the times between attempts": (
        "they grow as there, by settings that begin with less: a recovery Job's retry, a look for a missing ObjectStore, "
        "a Backup that waits"
    ),
}


def page() -> list[str]:
    """The rows of the page's table of differences."""
    by_reason: dict[str, list[str]] = {}
    for what, reason in [*ADMISSION.items(), *CHANGES.items()]:
        by_reason.setdefault(reason, []).append(f"`{what}`")
    admission = [f"| admission | {', '.join(names)} | {reason} |" for reason, names in by_reason.items()]
    replayed = [
        f"| {'all' if entry.scenarios == '*' else entry.scenarios.replace('|', ', ')} | {entry.what} | {entry.reason} |"
        for entry in REPLAYED
    ]
    return [*admission, *replayed, *(f"| - | {what} | {reason} |" for what, reason in OTHERS.items())]


def unexplained(scenario: str, found: list[str], table: Sequence[Difference] = REPLAYED) -> list[str]:
    """What of a scenario's differences the table doesn't explain, and what it explains though it is none."""
    mine = [entry for entry in table if any(fnmatch(scenario, part) for part in entry.scenarios.split("|"))]
    left = [how for how in found if not any(re.fullmatch(entry.fact, how) for entry in mine)]
    stale = [entry for entry in mine if not any(re.fullmatch(entry.fact, how) for how in found)]
    return [*left, *(f"no longer different: {entry.fact}" for entry in stale)]
