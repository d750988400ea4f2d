"""What keeps the operator from acting on a Cluster at all: an invalid definition, or a volume with no room left.

The webhooks' own rules are asked again here, since a webhook can be out of use. An object whose annotation switches
its validation off is spared here, too: that is CNPG's way. Only the fields at fault are reported, never their values.
"""

from __future__ import annotations

from drillbook_lab.api import admission
from drillbook_lab.api.errors import Object
from drillbook_lab.api.patches import copy
from drillbook_lab.node import volume_capacity
from drillbook_lab.operator import phases, status
from drillbook_lab.operator.context import Operator
from drillbook_lab.operator.members import Halt, Members

_GROUP = "postgresql.cnpg.io"
_REFUSED = "the resource failed admission validation"
_INVALID_BACKUP = "invalid backup definition"
_NO_SPACE = (
    "Insufficient disk space detected in one or more pods is preventing PostgreSQL from running."
    "Please verify your storage settings. Further information inside .status.instancesReportedState"
)
_RETRY_SECONDS = 10.0


def refusal(obj: Object) -> str:
    """Why the operator doesn't take an object, in the words for its status; empty if it does."""
    rules = admission.rules_for(_GROUP, obj["kind"])
    if rules is None or admission.switched_off(obj):
        return ""
    fields = [fault.field for fault in rules.faults(obj, None)]
    if not fields:
        return ""
    return f"{_REFUSED} on: {', '.join(fields)} (see the operator logs for details)"


def defaulted(operator: Operator, obj: Object) -> Object:
    """The object with what its author left out, written down if no webhook has done it."""
    rules = admission.rules_for(_GROUP, obj["kind"])
    if rules is None:
        return obj
    filled = copy(obj)
    rules.default(filled)
    return obj if filled == obj else operator.registry.update(filled)


def admitted(operator: Operator, cluster: Object) -> Object:
    """The Cluster as it may be acted on; `Halt` with its phase set if it may not be."""
    cluster = defaulted(operator, cluster)
    if why := refusal(cluster):
        status.phase(operator, cluster, phases.INVALID_DEFINITION, why)
        raise Halt
    return cluster


def admits_backup(operator: Operator, backup: Object) -> bool:
    """Whether a Backup may be taken; its status says why not, and no longer says so once it may."""
    now = backup.get("status") or {}
    was_refused = now.get("phase") == _INVALID_BACKUP
    if why := refusal(backup) if was_refused or not now.get("phase") else "":
        operator.set_status(backup, {"phase": _INVALID_BACKUP, "error": why})
        return False
    if was_refused:
        operator.set_status(backup, {"phase": None, "error": None})
    return not was_refused


def admits(operator: Operator, obj: Object) -> bool:
    """Whether a Pooler or ScheduledBackup may be acted on; `.status.error` says why not."""
    why, said = refusal(obj), (obj.get("status") or {}).get("error") or ""
    if why != said and (
        why or said.startswith(_REFUSED)
    ):  # what else is wrong with it is said, and taken back, elsewhere
        operator.set_status(obj, {"error": why or None})
    return not why


def room_for_wal(operator: Operator, cluster: Object, members: Members) -> None:
    """No fail-over and no change while a volume is full: only its owner can help. `Halt` says that it is so."""
    if any(volume_capacity.is_out_of_space(pod) for pod in members.pods.values()):
        status.count(operator, cluster, members)
        status.phase(operator, cluster, phases.NOT_ENOUGH_DISK_SPACE, _NO_SPACE)
        raise Halt(_RETRY_SECONDS)
