"""Who am I, and what may I do: the review kinds, which are answered and not stored."""

from __future__ import annotations

from typing import Any

from drillbook_lab.apiserver import errors, rbac
from drillbook_lab.apiserver.errors import Object
from drillbook_lab.apiserver.rbac import Action
from drillbook_lab.apiserver.registry import Registry
from drillbook_lab.apiserver.tokens import MASTERS, User


def answer(registry: Registry, user: User, kind: str, group: str, body: Any) -> Object:
    """Fill in the status of a review."""
    review: Object = dict(body) if isinstance(body, dict) else {}
    review["kind"] = kind
    review["apiVersion"] = f"{group}/v1"
    review.setdefault("metadata", {"creationTimestamp": None})
    spec = review.get("spec") or {}
    match kind:
        case "SelfSubjectReview":
            info: Object = {"username": user.name, "groups": list(user.groups)}
            if user.uid:
                info["uid"] = user.uid
            review["status"] = {"userInfo": info}
        case "SelfSubjectAccessReview":
            review["status"] = _access(registry, user, spec)
        case "SelfSubjectRulesReview":
            review["status"] = _rules(registry, user, spec)
    return review


def _access(registry: Registry, user: User, spec: Object) -> Object:
    if spec.get("nonResourceAttributes"):
        return {"allowed": MASTERS in user.groups}
    asked = spec.get("resourceAttributes")
    if not asked:
        raise errors.bad_request("spec.resourceAttributes: Required value")
    action = Action(
        asked.get("verb", ""), asked.get("group", ""), asked.get("resource", ""), asked.get("subresource", ""),
        asked.get("namespace", ""), asked.get("name", ""),
    )  # fmt: skip
    return {"allowed": rbac.allowed(registry, user, action)}


def _rules(registry: Registry, user: User, spec: Object) -> Object:
    if MASTERS in user.groups:
        everything = [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}]
        return {"resourceRules": everything, "nonResourceRules": [], "incomplete": False}
    return {
        "resourceRules": list(rbac.rules_of(registry, user, spec.get("namespace", ""))),
        "nonResourceRules": [],
        "incomplete": False,
    }
