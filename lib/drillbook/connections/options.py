"""What to do about growth: the options A, B and C of the connection scaling plan, each counted with the same model. Pure."""

from __future__ import annotations

import math
from enum import StrEnum

from drillbook.connections.limits import HEADROOM, Judged, Moment, binding, judge
from drillbook.connections.path import NO_LIMIT, UNLIMITED, Path
from drillbook.model import Frozen

SMALLER_POOL = 15
RAISED_LIMIT = 300
"""Option A's pool of a pod and option B's limit of the role, as the plan names them."""


class Option(StrEnum):
    """KEEP what is there; A: smaller pools; B: a higher limit for the role; C: events by Kafka."""

    KEEP = "keep"
    SMALLER_POOLS = "A"
    HIGHER_LIMIT = "B"
    EVENTS_OUTSIDE = "C"


class Costs(Frozen):
    """What the plan says of an option. Nobody measured it."""

    what: str
    cost: str
    effort: str
    risk: str


CLAIMED = "claimed in the scaling plan, not measured"
COSTS = {
    Option.KEEP: Costs(what="nothing is changed", cost="$0", effort="none", risk="none"),
    Option.SMALLER_POOLS: Costs(what="a smaller pool in each pod", cost="$0", effort="1–2 h", risk="low"),
    Option.HIGHER_LIMIT: Costs(
        what="a higher limit for the role, which the cluster's owner agrees to",
        cost="$0",
        effort="2–3 days",
        risk="medium",
    ),
    Option.EVENTS_OUTSIDE: Costs(
        what="events leave the database for Kafka",
        cost="$5–10 K a month",
        effort="40–60 h over 8–12 weeks",
        risk="high",
    ),
}


class Counted(Frozen):
    """An option at a number of users: what is wanted and served when everything runs steadily, and at the worst moment.

    ``needs`` is what has to hold for it and doesn't yet, in words; ``again_at`` how many of the application's
    connections are in use when it is decided again.
    """

    option: Option
    users: int
    replicas: int
    steady: Judged
    worst: Judged
    needs: tuple[str, ...] = ()

    @property
    def fits(self) -> bool:
        """Whether everything that is wanted is served, at the worst moment too."""
        return not self.worst.breaks and not self.steady.breaks

    @property
    def again_at(self) -> int | None:
        """70 % of what the path serves."""
        return None if self.steady.served is None else math.floor(HEADROOM * self.steady.served)


class Decision(Frozen):
    """Which option, why, and every option counted."""

    option: Option
    why: str
    counted: tuple[Counted, ...] = ()


def count(option: Option, path: Path, users: int, replicas: int) -> Counted:
    """The path under an option. C can't be counted: it takes the events' work away, and nobody knows how much that is."""
    needs: list[str] = []
    changed = path
    if option is Option.SMALLER_POOLS:
        pool = min(path.pods.pool, SMALLER_POOL)
        changed = path.model_copy(update={"pods": path.pods.model_copy(update={"pool": pool})})
    if option is Option.HIGHER_LIMIT:
        changed = _raised(path)
        needs = _missing(changed)
    if option is Option.EVENTS_OUTSIDE:
        needs = ["how many of its connections the application needs for events: not measured, so nothing is taken off"]
    judged = judge(changed, replicas=replicas, users=users)
    steady = next(item for item in judged if item.moment is Moment.STEADY)
    return Counted(
        option=option, users=users, replicas=replicas, steady=steady, worst=binding(judged), needs=tuple(needs)
    )


def decide(path: Path, levels: dict[int, int], *, external_consumers: bool, limit_can_be_raised: bool) -> Decision:
    """The plan's own flow, with the model's figures: others need the events → C; the limit can be raised → B or A; else A.

    ``levels`` are the numbers of users to reckon with, each with its replicas. An option that doesn't fit is said so,
    and never chosen only because the flow leads to it while a cheaper one fits.
    """
    counted = tuple(
        count(option, path, users, replicas) for users, replicas in sorted(levels.items()) for option in Option
    )
    last = max(levels, default=0)
    fits = {item.option for item in counted if item.users == last and item.fits}
    if external_consumers:
        return Decision(option=Option.EVENTS_OUTSIDE, why="others need the application's events", counted=counted)
    at = f"at {last:,} users"
    if not levels:
        return Decision(option=Option.KEEP, why="the profile names no number of users to reckon with", counted=counted)
    if Option.KEEP in fits:
        return Decision(option=Option.KEEP, why=f"the path as it is serves what is wanted {at}", counted=counted)
    if Option.SMALLER_POOLS in fits:
        return Decision(option=Option.SMALLER_POOLS, why=f"pools of {SMALLER_POOL} are enough {at}", counted=counted)
    if limit_can_be_raised and Option.HIGHER_LIMIT in fits:
        why = f"smaller pools are not enough {at}, and a role's limit of {RAISED_LIMIT} is"
        return Decision(option=Option.HIGHER_LIMIT, why=why, counted=counted)
    if limit_can_be_raised:
        why = f"no option serves what is wanted {at}: a role's limit of {RAISED_LIMIT} comes nearest, and needs more"
        return Decision(option=Option.HIGHER_LIMIT, why=why, counted=counted)
    why = f"the limit can't be raised, so smaller pools are what is left; they do not serve what is wanted {at}"
    return Decision(option=Option.SMALLER_POOLS, why=why, counted=counted)


def _raised(path: Path) -> Path:
    """Where the role has no limit there is nothing to raise."""
    limit = path.server.role_limits.get(path.role, UNLIMITED)
    if limit == UNLIMITED:
        return path
    limits = path.server.role_limits | {path.role: max(limit, RAISED_LIMIT)}
    return path.model_copy(update={"server": path.server.model_copy(update={"role_limits": limits})})


def _missing(path: Path) -> list[str]:
    """What a higher limit of the role meets next."""
    server = path.server
    limit = server.role_limits.get(path.role, UNLIMITED)
    others = server.taken - server.of_role(path.role)
    room = server.slots - others
    found = []
    if limit > room:
        found.append(
            f"max_connections {server.max_connections} leaves {room} for this role (less {server.max_connections - server.slots} "
            f"reserved and {others} of others): a limit of {limit} is never reached; {limit + others + server.max_connections - server.slots} are needed"
        )
    unlimited = sorted(
        {item.role for item in server.sessions if server.role_limits.get(item.role, UNLIMITED) == UNLIMITED}
        - {path.role}
    )
    if unlimited:
        found.append(f"a limit for {', '.join(unlimited)}: without one each can take what is left")
    pooler = path.pgbouncer
    if pooler is not None and pooler.instances * pooler.most_of_a_pair < min(limit, NO_LIMIT):
        found.append(
            f"Pooler {pooler.name} opens {pooler.instances} × {pooler.most_of_a_pair} = "
            f"{pooler.instances * pooler.most_of_a_pair} connections at most: the limit is not what binds there"
        )
    return found


__all__ = [
    "CLAIMED",
    "COSTS",
    "RAISED_LIMIT",
    "SMALLER_POOL",
    "Costs",
    "Counted",
    "Decision",
    "Option",
    "count",
    "decide",
]
