"""`metadata.managedFields`: who has written which field, kept at every write.

One entry for each manager, operation and subresource, so the record is as long as the object has
writers; an entry that a write doesn't touch is shared with the version before.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from drillbook_lab.api import errors, field_sets, strategies
from drillbook_lab.api.errors import Object
from drillbook_lab.api.field_sets import Fields
from drillbook_lab.api.resources import Resource

LAB = "drillbook-lab"
"""The manager of what the lab's own controllers write."""

_MOST = 10
_ANCIENT = "ancient-changes"


@dataclass(frozen=True)
class Manager:
    """Who writes, how, and through which endpoint."""

    name: str
    operation: str = "Update"
    subresource: str = ""

    def shown(self, api_version: str) -> str:
        """As a conflict names it."""
        text = f'"{self.name}"' + (f' with subresource "{self.subresource}"' if self.subresource else "")
        return f"{text} using {api_version}" if self.operation == "Update" else text


@dataclass(frozen=True)
class Owned:
    """A manager's entry: its fields, and the entry as it was read, while it stands."""

    fields: Fields
    api_version: str
    entry: Object | None = None


Managed = dict[Manager, Owned]


def read(meta: dict[str, Any]) -> Managed:
    """The managers of an object."""
    found: Managed = {}
    for entry in meta.get("managedFields") or ():
        try:
            manager = Manager(entry["manager"], entry["operation"], entry.get("subresource") or "")
            found[manager] = Owned(field_sets.decode(entry["fieldsV1"]), entry["apiVersion"], entry)
        except (KeyError, TypeError, AttributeError):
            # `[{}]` is how a client asks for the record to be forgotten.
            continue
    return found


def write(meta: dict[str, Any], managed: Managed) -> None:
    """Put managers into an object; entries that haven't changed keep their time."""
    entries: list[Object] = []
    for manager, owned in managed.items():
        if not owned.fields:
            continue
        entry = owned.entry
        if entry is None:
            entry = {
                "manager": manager.name,
                "operation": manager.operation,
                "apiVersion": owned.api_version,
                "time": strategies.now(),
                "fieldsType": "FieldsV1",
                "fieldsV1": field_sets.encode(owned.fields),
            }
            if manager.subresource:
                entry["subresource"] = manager.subresource
        entries.append(entry)
    if entries:
        meta["managedFields"] = entries
    else:
        meta.pop("managedFields", None)


def lose(managed: Managed, fields: Fields, *, but: Manager | None = None) -> Managed:
    """The managers without some fields; whom nothing is taken from keeps the entry as it is."""
    result: Managed = {}
    for manager, owned in managed.items():
        if manager == but or not fields or not field_sets.both(owned.fields, fields):
            result[manager] = owned
            continue
        rest = field_sets.minus(owned.fields, fields)
        if rest:
            result[manager] = replace(owned, fields=rest, entry=None)
    return result


def track(resource: Resource, old: Object | None, new: Object, manager: str, subresource: str = "") -> None:
    """Record, in the new object, an ordinary write: what it changed is the writer's now."""
    managed = read(new["metadata"])
    touched, removed = field_sets.compare(old, new, resource.schema)
    if not touched and not removed:
        if len(managed) != len(new["metadata"].get("managedFields") or ()):
            write(new["metadata"], managed)
        return
    me = Manager(manager, "Update", subresource)
    managed = lose(lose(managed, touched, but=me), removed)
    mine = managed.get(me)
    fields = field_sets.union(mine.fields if mine else {}, touched)
    managed[me] = written(resource, mine, fields)
    write(new["metadata"], _bounded(managed))


def written(resource: Resource, before: Owned | None, fields: Fields) -> Owned:
    """A manager's entry after a write of now; the set of fields is shared while it is the same."""
    if before is None or before.entry is None or fields != before.fields or before.api_version != resource.api_version:
        return Owned(fields, resource.api_version)
    return replace(before, entry={**before.entry, "time": strategies.now()})


def _bounded(managed: Managed) -> Managed:
    """No more than ten that have updated: the oldest become one."""
    updaters = [manager for manager in managed if manager.operation == "Update" and manager.name != _ANCIENT]
    if len(updaters) <= _MOST:
        return managed
    updaters.sort(key=lambda manager: str((managed[manager].entry or {}).get("time", "~")))
    result = dict(managed)
    for manager in updaters[: len(updaters) - _MOST]:
        gone = result.pop(manager)
        ancient = Manager(_ANCIENT, "Update", manager.subresource)
        before = result.get(ancient)
        fields = field_sets.union(before.fields if before else {}, gone.fields)
        result[ancient] = Owned(fields, gone.api_version)
    return result


def conflicts(managed: Managed, touched: Fields, me: Manager) -> list[tuple[str, str]]:
    """(the other manager as it is shown, path) of every field that an apply would take from somebody."""
    found: list[tuple[str, str]] = []
    for manager, owned in managed.items():
        if manager != me:
            common = field_sets.both(owned.fields, touched)
            found.extend((manager.shown(owned.api_version), path) for path in field_sets.paths(common))
    return found


def refusal(found: list[tuple[str, str]]) -> errors.ApiError:
    """The 409 that names each conflict."""
    causes = [
        {"reason": "FieldManagerConflict", "message": f"conflict with {manager}", "field": path}
        for manager, path in found
    ]
    if len(found) == 1:
        message = f"Apply failed with 1 conflict: conflict with {found[0][0]}: {found[0][1]}"
    else:
        lines: list[str] = []
        for manager in sorted({manager for manager, _ in found}):
            lines.append(f"conflicts with {manager}:")
            lines.extend(f"- {path}" for owner, path in found if owner == manager)
        message = f"Apply failed with {len(found)} conflicts: " + "\n".join(lines)
    return errors.ApiError(409, "Conflict", message, {"causes": causes})
