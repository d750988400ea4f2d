"""The Deployment controller: one ReplicaSet a template, and the rolling way from one to the next.

It remembers nothing: revisions are annotations, progress is in the conditions, and what is to do next follows
from the ReplicaSets as they are.
"""

from __future__ import annotations

from drillbook_lab.api.errors import Object
from drillbook_lab.api.patches import copy
from drillbook_lab.operator import objects, rollout
from drillbook_lab.operator.context import Operator
from drillbook_lab.operator.replica_sets import adopt
from drillbook_lab.operator.revisions import (
    HASH_LABEL,
    REVISION,
    available,
    bounds,
    is_of,
    revision,
    same,
    template_hash,
    wanted,
)

_HISTORY = "deployment.kubernetes.io/revision-history"
_GLANCE_SECONDS = 0.25


class Deployments:
    """Keeps Deployments."""

    def __init__(self, operator: Operator) -> None:
        self._operator = operator

    async def reconcile(self, namespace: str, name: str) -> float | None:
        """Bring the ReplicaSets one step nearer to what the Deployment asks for."""
        found = self._operator.find("Deployment", namespace, name)
        if found is None or found["metadata"].get("deletionTimestamp"):
            return None
        adopt(self._operator, found, "ReplicaSet")
        sets = self._sets(found)
        current = next((entry for entry in sets if is_of(entry, found)), None)
        if found["spec"].get("paused"):
            self._scale_only(found, sets, current)
            return rollout.report(self._operator, found, self._sets(found), current)
        recreate = (found["spec"].get("strategy") or {}).get("type") == "Recreate"
        if recreate and self._old_ones_remain(found, [entry for entry in sets if entry is not current]):
            rollout.report(self._operator, found, self._sets(found), current)
            return _GLANCE_SECONDS  # a pod that ends is no longer counted, so nothing tells when it is gone
        created = current is None
        current = self._make(found, sets) if current is None else self._renumber(found, sets, current)
        if recreate:
            self._scale(found, current, int(found["spec"]["replicas"]))
        else:
            self._roll(found, current)
        sets = self._sets(found)
        self._forget(found, sets, current)
        now = next((entry for entry in sets if same(entry, current)), current)
        return rollout.report(self._operator, found, sets, now, created=created)

    # -- ReplicaSets -------------------------------------------------------------------------------------------

    def _sets(self, deployment: Object) -> list[Object]:
        """The Deployment's ReplicaSets, by age."""
        owned = self._operator.owned(deployment, "ReplicaSet")
        live = [entry for entry in owned if not entry["metadata"].get("deletionTimestamp")]
        return sorted(live, key=revision)

    def _make(self, deployment: Object, sets: list[Object]) -> Object:
        meta, spec = deployment["metadata"], deployment["spec"]
        number = max((revision(entry) for entry in sets), default=0) + 1
        digest = template_hash(spec["template"])
        template: Object = copy(spec["template"])
        labels = template.setdefault("metadata", {}).setdefault("labels", {})
        labels[HASH_LABEL] = digest
        selector: Object = copy(spec["selector"])
        selector.setdefault("matchLabels", {})[HASH_LABEL] = digest
        made: Object = {
            "apiVersion": "apps/v1",
            "kind": "ReplicaSet",
            "metadata": {
                "name": f"{meta['name']}-{digest}",
                "namespace": meta["namespace"],
                "labels": dict(labels),
                "annotations": self._annotations(deployment, number),
                "ownerReferences": [objects.owner_reference(deployment)],
            },
            "spec": {"replicas": 0, "selector": selector, "template": template},
        }
        if spec.get("minReadySeconds"):
            made["spec"]["minReadySeconds"] = spec["minReadySeconds"]
        stored = self._operator.registry.create(made)
        self._annotate(deployment, number)
        return stored

    def _annotations(self, deployment: Object, number: int) -> dict[str, str]:
        # kubectl's own note of what was applied stays with the Deployment.
        passed = {
            key: value
            for key, value in (deployment["metadata"].get("annotations") or {}).items()
            if key not in ("kubectl.kubernetes.io/last-applied-configuration", REVISION, _HISTORY)
        }
        replicas, (surge, _) = int(deployment["spec"]["replicas"]), bounds(deployment)
        return {
            **passed,
            REVISION: str(number),
            "deployment.kubernetes.io/desired-replicas": str(replicas),
            "deployment.kubernetes.io/max-replicas": str(replicas + surge),
        }

    def _renumber(self, deployment: Object, sets: list[Object], current: Object) -> Object:
        """An older ReplicaSet that is wanted again (`rollout undo`) becomes the newest revision."""
        newest, number = max(revision(entry) for entry in sets), revision(current)
        if number < newest or not number:
            notes = current["metadata"].get("annotations") or {}
            history = [entry for entry in (notes.get(_HISTORY, ""), str(number)) if entry and entry != "0"]
            number = newest + 1
            patch = {REVISION: str(number), **({_HISTORY: ",".join(history)} if history else {})}
            current = self._patch("ReplicaSet", current, {"metadata": {"annotations": patch}})
        if int(current["spec"].get("minReadySeconds") or 0) != int(deployment["spec"].get("minReadySeconds") or 0):
            seconds = deployment["spec"].get("minReadySeconds")
            current = self._patch("ReplicaSet", current, {"spec": {"minReadySeconds": seconds}})
        self._annotate(deployment, number)
        return current

    def _annotate(self, deployment: Object, number: int) -> None:
        if (deployment["metadata"].get("annotations") or {}).get(REVISION) != str(number):
            self._patch("Deployment", deployment, {"metadata": {"annotations": {REVISION: str(number)}}})

    def _patch(self, kind: str, obj: Object, patch: Object) -> Object:
        meta = obj["metadata"]
        return self._operator.registry.patch(kind, meta["namespace"], meta["name"], patch)

    def _forget(self, deployment: Object, sets: list[Object], current: Object) -> None:
        """Old templates are kept for an undo, but not all of them."""
        limit = deployment["spec"].get("revisionHistoryLimit")
        idle = [
            entry
            for entry in sets
            if not same(entry, current) and not wanted(entry) and not (entry.get("status") or {}).get("replicas")
        ]
        for entry in idle[: max(0, len(idle) - (10 if limit is None else int(limit)))]:
            self._operator.registry.delete("ReplicaSet", entry["metadata"]["namespace"], entry["metadata"]["name"])

    # -- scaling -----------------------------------------------------------------------------------------------

    def _scale(self, deployment: Object, entry: Object, number: int) -> None:
        before = wanted(entry)
        if before == number:
            return
        name = entry["metadata"]["name"]
        self._patch("ReplicaSet", entry, {"spec": {"replicas": number}})
        entry["spec"]["replicas"] = number
        verb = "up" if number > before else "down"
        message = f"Scaled {verb} replica set {name} from {before} to {number}"
        self._operator.event(deployment, "ScalingReplicaSet", message)

    def _scale_only(self, deployment: Object, sets: list[Object], current: Object | None) -> None:
        """A paused Deployment still follows its number of replicas, with the template that it has."""
        active = [entry for entry in sets if wanted(entry)]
        chosen = active[-1] if active else (current or (sets[-1] if sets else None))
        if chosen is not None and len(active) <= 1:
            self._scale(deployment, chosen, int(deployment["spec"]["replicas"]))

    def _old_ones_remain(self, deployment: Object, old: list[Object]) -> bool:
        """Recreate: nothing new before every pod of the old templates is really gone."""
        for entry in old:
            self._scale(deployment, entry, 0)
        return any(self._operator.owned(entry, "Pod") for entry in old)

    def _roll(self, deployment: Object, current: Object) -> None:
        replicas, (surge, unavailable) = int(deployment["spec"]["replicas"]), bounds(deployment)
        sets = self._sets(deployment)
        current = next(entry for entry in sets if same(entry, current))
        old = [entry for entry in sets if not same(entry, current) and wanted(entry)]
        total = sum(wanted(entry) for entry in sets)
        if wanted(current) > replicas:
            self._scale(deployment, current, replicas)
        elif wanted(current) < replicas and (room := replicas + surge - total) > 0:
            self._scale(deployment, current, min(wanted(current) + room, replicas))
        if not old:
            return
        # Old pods may go as far as enough are available without them; broken ones cost nothing and go first.
        minimum = replicas - unavailable
        total = sum(wanted(entry) for entry in sets)
        spare = total - minimum - (wanted(current) - available(current))
        for entry in old:
            broken = wanted(entry) - available(entry)
            if spare > 0 and broken > 0:
                gone = min(spare, broken)
                self._scale(deployment, entry, wanted(entry) - gone)
                spare -= gone
        spare = sum(min(available(entry), wanted(entry)) for entry in sets) - minimum
        for entry in old:
            if spare > 0 and wanted(entry):
                gone = min(spare, wanted(entry))
                self._scale(deployment, entry, wanted(entry) - gone)
                spare -= gone
