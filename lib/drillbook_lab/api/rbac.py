"""May this caller do that? Roles and bindings in the registry, evaluated as Kubernetes does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from drillbook_lab.api.errors import ApiError, Object, forbidden
from drillbook_lab.api.registry import Registry
from drillbook_lab.api.tokens import MASTERS, User


@dataclass(frozen=True)
class Action:
    """What a caller wants to do: a verb on a resource, perhaps on one name of it."""

    verb: str
    group: str
    plural: str
    subresource: str = ""
    namespace: str = ""
    name: str = ""

    @property
    def target(self) -> str:
        """`pods`, or `pods/exec`."""
        return f"{self.plural}/{self.subresource}" if self.subresource else self.plural


def allowed(registry: Registry, user: User, action: Action) -> bool:
    """Does any role that is bound to the user allow the action?"""
    if MASTERS in user.groups:
        return True
    return any(_permits(rule, action) for rule in rules_of(registry, user, action.namespace))


def demand(registry: Registry, user: User, action: Action) -> None:
    """Raise 403, in Kubernetes' words, unless the action is allowed."""
    if not allowed(registry, user, action):
        raise refusal(user, action)


def refusal(user: User, action: Action) -> ApiError:
    """The 403 for an action."""
    where = f'in the namespace "{action.namespace}"' if action.namespace else "at the cluster scope"
    return forbidden(
        action.plural,
        action.group,
        action.name,
        f'User "{user.name}" cannot {action.verb} resource "{action.target}" in API group "{action.group}" {where}',
    )


def rules_of(registry: Registry, user: User, namespace: str) -> Iterator[Object]:
    """Every rule that applies to the user, cluster-wide or in that namespace."""
    for binding in registry.peek("ClusterRoleBinding"):
        if _bound(binding, user, ""):
            yield from _rules(registry, binding, "")
    if namespace:
        for binding in registry.peek("RoleBinding", namespace):
            if _bound(binding, user, namespace):
                yield from _rules(registry, binding, namespace)


def _bound(binding: Object, user: User, namespace: str) -> bool:
    return any(_is(subject, user, namespace) for subject in binding.get("subjects") or ())


def _is(subject: dict[str, Any], user: User, namespace: str) -> bool:
    match subject.get("kind"):
        case "User":
            return subject.get("name") == user.name
        case "Group":
            return subject.get("name") in user.groups
        case "ServiceAccount":
            space = subject.get("namespace") or namespace
            return user.name == f"system:serviceaccount:{space}:{subject.get('name')}"
    return False


def _rules(registry: Registry, binding: Object, namespace: str) -> list[Object]:
    reference = binding["roleRef"]
    try:
        if reference["kind"] == "ClusterRole":
            role = registry.get("ClusterRole", None, reference["name"])
        else:
            role = registry.get("Role", namespace, reference["name"])
    except ApiError:
        # A binding may name a role that isn't there; it then grants nothing.
        return []
    return list(role.get("rules") or ())


def _permits(rule: Object, action: Action) -> bool:
    verbs, groups = rule.get("verbs") or (), rule.get("apiGroups") or ()
    if "*" not in verbs and action.verb not in verbs:
        return False
    if "*" not in groups and action.group not in groups:
        return False
    resources = rule.get("resources") or ()
    wanted = {"*", action.target}
    if action.subresource:
        wanted.add(f"*/{action.subresource}")
    if wanted.isdisjoint(resources):
        return False
    names = rule.get("resourceNames") or ()
    return not names or action.name in names
