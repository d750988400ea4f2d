"""`serviceaccounts/token`: a token for an account, for a while, perhaps for as long as a pod lives."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from drillbook_lab.api import errors
from drillbook_lab.api.errors import ApiError, Fault, Object
from drillbook_lab.api.registry import Registry
from drillbook_lab.api.tokens import AUDIENCE, Exists, TokenDirectory

_SHORTEST, _LONGEST, _USUAL = 600, 1 << 32, 3600
_BINDABLE = {"Pod": "pods", "Secret": "secrets"}


def looks_up(registry: Registry) -> Exists:
    """By which a token's account and pod are found, or not."""

    def exists(kind: str, namespace: str, name: str) -> str | None:
        try:
            return str(registry.get(kind, namespace, name)["metadata"]["uid"])
        except ApiError:
            return None

    return exists


def answer(registry: Registry, tokens: TokenDirectory, namespace: str, name: str, body: Any) -> Object:
    """Fill in a TokenRequest."""
    account = registry.get("ServiceAccount", namespace, name)
    request: Object = dict(body) if isinstance(body, dict) else {}
    spec: Object = dict(request.get("spec") or {})
    seconds = spec.get("expirationSeconds")
    seconds = _USUAL if seconds is None else seconds
    if not isinstance(seconds, int):
        raise errors.bad_request("spec.expirationSeconds must be a number")
    if not _SHORTEST <= seconds <= _LONGEST:
        why = "less than 10 minutes" if seconds < _SHORTEST else "larger than 2^32 seconds"
        fault = Fault("spec.expirationSeconds", f"Invalid value: {seconds}: may not specify a duration {why}")
        raise errors.invalid("TokenRequest", "authentication.k8s.io", "", [fault])
    audiences = list(spec.get("audiences") or [AUDIENCE])
    bound = spec.get("boundObjectRef")
    if bound:
        bound = _bound(registry, namespace, bound)
    token = tokens.issue(namespace, name, account["metadata"]["uid"], seconds, audiences=audiences, bound=bound or None)
    ends = datetime.now(UTC) + timedelta(seconds=seconds)
    return {
        "kind": "TokenRequest",
        "apiVersion": "authentication.k8s.io/v1",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "creationTimestamp": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        },
        "spec": {"audiences": audiences, "expirationSeconds": seconds, "boundObjectRef": bound or None},
        "status": {"token": token, "expirationTimestamp": ends.strftime("%Y-%m-%dT%H:%M:%SZ")},
    }


def _bound(registry: Registry, namespace: str, reference: Object) -> Object:
    kind, name, uid = reference.get("kind", ""), reference.get("name", ""), reference.get("uid", "")
    if kind not in _BINDABLE:
        raise errors.bad_request(
            f"cannot bind token for serviceaccount to object of type {reference.get('apiVersion', '')}, Kind={kind}"
        )
    found = registry.get(kind, namespace, name)["metadata"]["uid"]
    if uid and uid != found:
        raise errors.conflict(
            _BINDABLE[kind],
            "",
            name,
            f"the UID in the bound object reference ({uid}) does not match the UID in record. The object might have "
            "been deleted and then recreated",
        )
    return {**reference, "uid": found}
