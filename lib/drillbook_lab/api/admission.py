"""CloudNativePG's admission webhooks, kind by kind: the rules that its CRDs don't hold.

On a real cluster they live in the operator. A denial lists every fault at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from drillbook_lab.api import cluster_changes, cluster_defaults, cluster_rules, target_rules
from drillbook_lab.api.errors import ApiError, Fault, Object
from drillbook_lab.api.pooler_rules import pooler_faults, pooler_warnings
from drillbook_lab.api.schedules import count_fields, schedule_fault
from drillbook_lab.api.schema import denied_value

_ANNOTATION = "cnpg.io/validation"


def _nothing(obj: Object) -> None:
    return None


def _silent(obj: Object) -> list[str]:
    return []


@dataclass(frozen=True)
class Rules:
    """What the webhooks do to one kind."""

    webhook: str
    faults: Callable[[Object, Object | None], list[Fault]]
    """Everything the object breaks; the second argument is the stored object, on an update."""
    default: Callable[[Object], None] = _nothing
    """Write into the object, in place, what its author left out."""
    warnings: Callable[[Object], list[str]] = _silent
    """What is allowed but should be known."""
    defaulter: str = ""
    """The webhook that does the filling in."""


def switched_off(obj: Object) -> bool:
    """An annotation on the object turns its webhook off, as the real operator allows."""
    return _validation(obj) == "disabled"


def _validation(obj: Object) -> str:
    return str((obj["metadata"].get("annotations") or {}).get(_ANNOTATION, ""))


def review(rules: Rules, new: Object, old: Object | None) -> tuple[list[Fault], list[str]]:
    """What the webhook answers: all that it refuses, and what it warns about."""
    value = _validation(new)
    told = []
    if value not in ("", "enabled", "disabled"):
        told.append(f'invalid "{_ANNOTATION}" annotation: "{value}" (expected "enabled" or "disabled")')
    if value == "disabled":
        return [], [
            "validation webhook is disabled — all changes are accepted without validation. "
            "This may lead to unsafe or destructive operations. Proceed with extreme caution."
        ]
    return rules.faults(new, old), [*told, *rules.warnings(new)]


def configurations() -> list[Object]:
    """What registers the webhooks, as the operator's manifest brings it: without it they aren't called."""
    made = []
    for kind, name, hooks in (
        ("MutatingWebhookConfiguration", "cnpg-mutating-webhook-configuration", ["mcluster.cnpg.io"]),
        (
            "ValidatingWebhookConfiguration",
            "cnpg-validating-webhook-configuration",
            [rules.webhook for rules in _RULES.values()],
        ),
    ):
        service = {"name": "cnpg-webhook-service", "namespace": "cnpg-system"}
        webhooks = [
            {
                "name": hook,
                "clientConfig": {"service": service},
                "failurePolicy": "Fail",
                "sideEffects": "None",
                "admissionReviewVersions": ["v1"],
            }
            for hook in hooks
        ]
        api = "admissionregistration.k8s.io/v1"
        made.append({"apiVersion": api, "kind": kind, "metadata": {"name": name}, "webhooks": webhooks})
    return made


def unreachable(webhook: str) -> ApiError:
    """500: the webhook's policy is Fail, and nobody is there to ask."""
    verb = "mutate" if webhook.startswith("m") else "validate"
    path = f"{verb}-postgresql-cnpg-io-v1-{webhook[1:].partition('.')[0]}"
    return ApiError(
        500,
        "InternalError",
        f'Internal error occurred: failed calling webhook "{webhook}": failed to call webhook: Post '
        f'"https://cnpg-webhook-service.cnpg-system.svc:443/{path}?timeout=10s": '
        'no endpoints available for service "cnpg-webhook-service"',
    )


def _backup_faults(new: Object, old: Object | None) -> list[Fault]:
    spec = new["spec"]
    found = [*_online_faults(spec, "the backup method")]
    if spec["method"] == "plugin" and not (spec.get("pluginConfiguration") or {}).get("name"):
        why = "cannot be empty when the backup method is plugin"
        found.append(denied_value("spec.pluginConfiguration", spec.get("pluginConfiguration"), why))
    return found


def _online_faults(spec: Object, what: str) -> list[Fault]:
    method = spec.get("method") or "barmanObjectStore"
    if method == "volumeSnapshot":
        why = (
            "Cannot use volumeSnapshot backup method due to missing VolumeSnapshot CRD. If you installed the CRD after "
            "having started the operator, please restart it to enable VolumeSnapshot support"
        )
        return [denied_value("spec.method", method, why)]
    only = f"parameter can be specified only if {what} is volumeSnapshot"
    fields = (("online", "Online"), ("onlineConfiguration", "OnlineConfiguration"))
    return [
        denied_value(f"spec.{field}", spec[field], f"{word} {only}")
        for field, word in fields
        if method == "barmanObjectStore" and spec.get(field) is not None
    ]


def _scheduled_faults(new: Object, old: Object | None) -> list[Fault]:
    fault = schedule_fault(new["spec"]["schedule"])
    # A plugin that isn't named is reported when a Backup is to be made, by an event.
    return [*([fault] if fault else []), *_online_faults(new["spec"], "the method")]


def _scheduled_warnings(obj: Object) -> list[str]:
    schedule = obj["spec"]["schedule"]
    if count_fields(schedule) == 6:
        return []
    return ["Schedule parameter may not have the right number of arguments (usually six arguments are needed)"]


def _cluster_faults(new: Object, old: Object | None) -> list[Fault]:
    changes = cluster_changes.faults(new, old) if old is not None else ()
    return [*cluster_rules.faults(new), *target_rules.faults(new), *changes]


_RULES: dict[tuple[str, str], Rules] = {
    ("postgresql.cnpg.io", "Cluster"): Rules(
        "vcluster.cnpg.io", _cluster_faults, cluster_defaults.default, cluster_changes.warnings, "mcluster.cnpg.io"
    ),
    ("postgresql.cnpg.io", "Backup"): Rules("vbackup.cnpg.io", _backup_faults),
    ("postgresql.cnpg.io", "Pooler"): Rules("vpooler.cnpg.io", pooler_faults, warnings=pooler_warnings),
    ("postgresql.cnpg.io", "ScheduledBackup"): Rules(
        "vscheduledbackup.cnpg.io", _scheduled_faults, warnings=_scheduled_warnings
    ),
}


def rules_for(group: str, kind: str) -> Rules | None:
    """The webhook of a kind, if it has one."""
    return _RULES.get((group, kind))
