"""Who am I, and what may I do: the review kinds, which are answered and not stored."""

from __future__ import annotations

from typing import Any

from drillbook_lab.api import errors, rbac
from drillbook_lab.api.errors import Object
from drillbook_lab.api.rbac import Action
from drillbook_lab.api.registry import Registry
from drillbook_lab.api.token_requests import looks_up
from drillbook_lab.api.tokens import AUDIENCE, MASTERS, TokenDirectory, User


def answer(registry: Registry, tokens: TokenDirectory, user: User, kind: str, group: str, body: Any) -> Object:
    """Fill in the status of a review."""
    review: Object = dict(body) if isinstance(body, dict) else {}
    review["kind"] = kind
    review["apiVersion"] = f"{group}/v1"
    review.setdefault("metadata", {"creationTimestamp": None})
    spec = review.get("spec") or {}
    match kind:
        case "SelfSubjectReview":
            review["status"] = {"userInfo": _info(user)}
        case "TokenReview":
            review["status"] = _token(registry, tokens, spec)
        case "SubjectAccessReview":
            if not spec.get("user") and not spec.get("groups"):
                raise errors.bad_request(
                    'spec.user: Invalid value: "": at least one of user or group must be specified'
                )
            about = User(str(spec.get("user") or ""), tuple(spec.get("groups") or ()), str(spec.get("uid") or ""))
            review["status"] = _access(registry, about, spec)
        case "SelfSubjectAccessReview":
            review["status"] = _access(registry, user, spec)
        case "SelfSubjectRulesReview":
            review["status"] = _rules(registry, user, spec)
    return review


def _info(user: User) -> Object:
    info: Object = {"username": user.name, "groups": list(user.groups)}
    if user.uid:
        info["uid"] = user.uid
    if user.extra:
        info["extra"] = user.extra
    return info


def _token(registry: Registry, tokens: TokenDirectory, spec: Object) -> Object:
    token = spec.get("token")
    if not token:
        raise errors.bad_request("token is required for TokenReview in authentication")
    audiences = list(spec.get("audiences") or [AUDIENCE])
    holder = tokens.holder(token, looks_up(registry), audiences)
    if holder is None:
        return {"user": {}, "error": "invalid bearer token"}
    claims = tokens.claims(token) or {"aud": audiences}
    return {
        "authenticated": True,
        "user": _info(holder),
        "audiences": [name for name in audiences if name in claims["aud"]],
    }


def _access(registry: Registry, user: User, spec: Object) -> Object:
    if spec.get("nonResourceAttributes"):
        return {"allowed": MASTERS in user.groups}
    asked = spec.get("resourceAttributes")
    if not asked:
        raise errors.bad_request("spec.resourceAttributes: Required value")
    action = Action(
        asked.get("verb", ""),
        asked.get("group", ""),
        asked.get("resource", ""),
        asked.get("subresource", ""),
        asked.get("namespace", ""),
        asked.get("name", ""),
    )
    return {"allowed": rbac.allowed(registry, user, action)}


# What everybody may who is known: ask about themselves.
_BASIC: list[Object] = [
    {"verbs": ["create"], "apiGroups": [group], "resources": list(plurals)}
    for group, plurals in (
        ("authorization.k8s.io", ("selfsubjectaccessreviews", "selfsubjectrulesreviews")),
        ("authentication.k8s.io", ("selfsubjectreviews",)),
    )
]


def _rules(registry: Registry, user: User, spec: Object) -> Object:
    if MASTERS in user.groups:
        everything = [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}]
        return {"resourceRules": everything, "nonResourceRules": [], "incomplete": False}
    return {
        "resourceRules": [*_BASIC, *rbac.rules_of(registry, user, spec.get("namespace", ""))],
        "nonResourceRules": [],
        "incomplete": False,
    }
