"""Who a bearer token belongs to: fixed tokens of a kubeconfig, and service accounts' tokens, which expire."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import secrets
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from drillbook_lab.home import write_json

MASTERS = "system:masters"
"""Members of this group may do everything; no role is asked."""

AUDIENCE = "https://kubernetes.default.svc.cluster.local"
"""The server itself: a token for somebody else opens nothing here."""

_ACCOUNT = "system:serviceaccount:"
_HEADER = {"alg": "HS256", "typ": "JWT"}
_CREDENTIAL_ID = "authentication.kubernetes.io/credential-id"
_POD_NAME, _POD_UID = "authentication.kubernetes.io/pod-name", "authentication.kubernetes.io/pod-uid"

Exists = Callable[[str, str, str], str | None]
"""The uid of the object of a kind, namespace and name, or None."""


@dataclass(frozen=True)
class User:
    """An authenticated caller."""

    name: str
    groups: tuple[str, ...] = ()
    uid: str = ""
    extra: dict[str, list[str]] = field(default_factory=dict, hash=False, compare=False)


class TokenDirectory:
    """All tokens that the server knows, and the key by which it knows those that it has issued."""

    def __init__(self, signing_key: bytes | None = None, *, clock: Callable[[], float] = time.time) -> None:
        self._users: dict[str, User] = {}
        self._key = signing_key or secrets.token_bytes(32)
        self._clock = clock

    def add(self, token: str, user: str, groups: Iterable[str] = ()) -> None:
        """Let `token` speak for a user: `lab-admin`, or `system:serviceaccount:NAMESPACE:NAME`."""
        given = [*groups, *_account_groups(user), "system:authenticated"]
        self._users[token] = User(user, tuple(dict.fromkeys(given)))

    def who(self, authorization: str, exists: Exists | None = None) -> User | None:
        """The holder of an `Authorization` header's token; None if nobody holds it, or no longer.

        With `exists`, an issued token dies with its account and with the object that it was bound to.
        """
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer":
            return None
        return self.holder(token.strip(), exists)

    def holder(self, token: str, exists: Exists | None = None, audiences: Sequence[str] = (AUDIENCE,)) -> User | None:
        """The holder of a token that is meant for one of the audiences."""
        found = None
        for known, user in self._users.items():
            if hmac.compare_digest(known.encode(), token.encode()):
                found = user
        if found is not None:
            return found
        claims = self.claims(token)
        if claims is None or not set(claims.get("aud", ())) & set(audiences):
            return None
        return _account_of(claims, exists)

    def issue(
        self,
        namespace: str,
        account: str,
        uid: str,
        seconds: int,
        *,
        audiences: Sequence[str] = (AUDIENCE,),
        bound: Mapping[str, str] | None = None,
    ) -> str:
        """A token of a service account, good for so many seconds; `bound`: kind, name and uid of what it dies with."""
        now = int(self._clock())
        about: dict[str, Any] = {"namespace": namespace, "serviceaccount": {"name": account, "uid": uid}}
        if bound:
            about[bound["kind"].lower()] = {"name": bound["name"], "uid": bound["uid"]}
        claims = {
            "aud": list(audiences),
            "exp": now + seconds,
            "iat": now,
            "iss": AUDIENCE,
            "jti": str(uuid.uuid4()),
            "kubernetes.io": about,
            "nbf": now,
            "sub": f"{_ACCOUNT}{namespace}:{account}",
        }
        signed = f"{_encoded(_HEADER)}.{_encoded(claims)}"
        return f"{signed}.{self._signature(signed)}"

    def claims(self, token: str) -> dict[str, Any] | None:
        """What an issued token says; None if it isn't ours or its time is over."""
        signed, _, signature = token.rpartition(".")
        if not hmac.compare_digest(self._signature(signed).encode(), signature.encode()):
            return None
        try:
            payload = signed.split(".")[1]
            claims: dict[str, Any] = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        except (IndexError, ValueError, binascii.Error):
            return None
        return claims if claims["nbf"] <= self._clock() < claims["exp"] else None

    def _signature(self, text: str) -> str:
        return _base64(hmac.new(self._key, text.encode(), hashlib.sha256).digest())


def kept_tokens(path: Path, names: Iterable[str]) -> tuple[dict[str, str], bytes]:
    """A token for each name and the signing key: those in the file, made and written the first time."""
    if path.exists():
        kept = json.loads(path.read_text(encoding="utf-8"))
    else:
        kept = {
            "contexts": {name: secrets.token_urlsafe(32) for name in names},
            "signing_key": secrets.token_hex(32),
        }
        write_json(path, kept)
    return dict(kept["contexts"]), bytes.fromhex(kept["signing_key"])


def _account_groups(user: str) -> list[str]:
    if not user.startswith(_ACCOUNT):
        return []
    return ["system:serviceaccounts", f"system:serviceaccounts:{user.split(':')[2]}"]


def _account_of(claims: dict[str, Any], exists: Exists | None) -> User | None:
    about, name = claims["kubernetes.io"], str(claims["sub"])
    namespace, account = about["namespace"], about["serviceaccount"]
    extra = {_CREDENTIAL_ID: [f"JTI={claims['jti']}"]}
    if "pod" in about:
        extra |= {_POD_NAME: [about["pod"]["name"]], _POD_UID: [about["pod"]["uid"]]}
    if exists is not None:
        held = [
            ("ServiceAccount", account),
            *((kind, about[kind.lower()]) for kind in ("Pod", "Secret") if kind.lower() in about),
        ]
        if any(exists(kind, namespace, needed["name"]) != needed["uid"] for kind, needed in held):
            return None
    groups = [*_account_groups(name), "system:authenticated"]
    return User(name, tuple(groups), account["uid"], extra)


def _encoded(part: Mapping[str, Any]) -> str:
    return _base64(json.dumps(part, separators=(",", ":")).encode())


def _base64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")
