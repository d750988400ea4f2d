"""Who a bearer token belongs to."""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from dataclasses import dataclass, field

MASTERS = "system:masters"
"""Members of this group may do everything; no role is asked."""


@dataclass(frozen=True)
class User:
    """An authenticated caller."""

    name: str
    groups: tuple[str, ...] = ()
    uid: str = ""
    extra: dict[str, list[str]] = field(default_factory=dict, hash=False, compare=False)


class TokenDirectory:
    """All tokens that the server knows."""

    def __init__(self) -> None:
        self._users: dict[str, User] = {}

    def add(self, token: str, user: str, groups: Iterable[str] = ()) -> None:
        """Let `token` speak for a user: `lab-admin`, or `system:serviceaccount:NAMESPACE:NAME`."""
        given = list(groups)
        if user.startswith("system:serviceaccount:"):
            namespace = user.split(":")[2]
            given += ["system:serviceaccounts", f"system:serviceaccounts:{namespace}"]
        given.append("system:authenticated")
        self._users[token] = User(user, tuple(dict.fromkeys(given)))

    def who(self, authorization: str) -> User | None:
        """The holder of an `Authorization` header's token; None if nobody holds it."""
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer":
            return None
        token = token.strip()
        found = None
        for known, user in self._users.items():
            if hmac.compare_digest(known.encode(), token.encode()):
                found = user
        return found
