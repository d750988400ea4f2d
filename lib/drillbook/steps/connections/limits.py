"""Every limit on the path computed, the one that binds named, now and at more users; and what to decide about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from drillbook.connections import discovery, options
from drillbook.connections.limits import HEADROOM, Judged, LimitRow, Moment, binding, judge, pooled_servers, rows
from drillbook.connections.options import Decision
from drillbook.connections.outcomes import Limit
from drillbook.connections.path import UNLIMITED, Path
from drillbook.engine.step import CheckStep, Context, Step
from drillbook.errors import RunbookError
from drillbook.evidence.facts import Facts
from drillbook.model import Check, Frozen, Verdict
from drillbook.report import connection_path
from drillbook.steps.connections.path import FoundPath
from drillbook.steps.connections.server import LONG_SECONDS, ServerSeen

_PLANNED_MOMENTS = (Moment.STEADY, Moment.ROLLOUT, Moment.AUTOSCALED)
"""What happens without anything having failed."""


class Computed(Frozen):
    """The path that is taken and the second one, judged today and at each number of users of the profile."""

    path: Path
    second: Path | None
    second_is: str
    limits: tuple[LimitRow, ...]
    now: tuple[Judged, ...]
    now_second: tuple[Judged, ...]
    later: dict[int, tuple[Judged, ...]]
    later_second: dict[int, tuple[Judged, ...]]
    unknown: str  # why nothing is known of more users; "" where it is

    def rows(self) -> list[tuple[str, str]]:
        """What a card shows."""
        worst = binding(list(self.now))
        found = [("binds now", f"{worst.limit}, {worst.moment}: {_wanted(worst)}")]
        found += [(f"at {users:,} users", _short(judged)) for users, judged in sorted(self.later.items())]
        return found + ([("more users", self.unknown)] if self.unknown else [])

    def card(self) -> dict[str, str]:
        """The picture of the path, and its tables."""
        taken = "Through PgBouncer" if self.path.pgbouncer else "Directly to PostgreSQL"
        lanes = [_lane(f"{taken}: the path that is taken", True, self.path, self.limits, self.now)]
        if self.second is not None:
            title = f"Through PgBouncer ({self.second_is}): not on this path"
            lanes.append(_lane(title, False, self.second, tuple(rows(self.second)), self.now_second))
        moments = _moments("today", "taken", self.now) + _moments("today", "second", self.now_second)
        for users in sorted(self.later):
            moments += _moments(f"{users:,}", "taken", (binding(list(self.later[users])),))
            if users in self.later_second:
                moments += _moments(f"{users:,}", "second", (binding(list(self.later_second[users])),))
        return connection_path.bundle(
            {"lanes": lanes, "limits": [_limit_row(item) for item in self.limits], "moments": moments}
        )


@dataclass(frozen=True)
class ComputeLimits(Step[Computed]):
    """Compute every limit on the path, and which one binds: today and at the profile's numbers of users.

    As if every connection of every pool were in a transaction at once: the load at which a limit begins to be felt.
    """

    found: FoundPath
    seen: ServerSeen

    def do(self, ctx: Context) -> Computed:
        found, seen = self.found, self.seen
        pooler = found.pooler
        path = Path(role=found.role, database=found.database, pods=found.pods, server=seen.server, pgbouncer=pooler)
        second = path.model_copy(update={"pgbouncer": found.other}) if found.other else None
        levels = _levels(ctx, found)
        later = {users: tuple(judge(path, replicas=count, users=users)) for users, count in levels.items()}
        later_second = {
            users: tuple(judge(second, replicas=count, users=users)) for users, count in levels.items() if second
        }
        limits = tuple(_in_use(item, seen) for item in rows(path, seen.own))
        computed = Computed(
            path=path,
            second=second,
            second_is=found.other_is,
            limits=limits,
            now=tuple(judge(path)),
            now_second=tuple(judge(second)) if second else (),
            later=later,
            later_second=later_second,
            unknown="" if levels else "the profile says neither today's users nor the replicas for more",
        )
        ctx.recorder.note(Facts(connections=_noted(computed)))
        return computed


@dataclass(frozen=True)
class LimitsNow(CheckStep):
    """Nothing that happens by itself needs more connections than the path serves.

    Running steadily, a rolling update, and the autoscaler's maximum.
    """

    computed: Computed
    name: ClassVar[str] = "limits now"
    proves: ClassVar[str] = "every connection that the application may ask for is served"

    def observe(self, ctx: Context) -> Sequence[Check]:
        judged = [item for item in self.computed.now if item.moment in _PLANNED_MOMENTS]
        return [_check(self, judged)]


@dataclass(frozen=True)
class LimitsWhenSomethingFails(CheckStep):
    """The same when something fails or is replaced: a failover, a PgBouncer lost, the Pooler's own rolling update.

    After a failover every tenant may take what its role's limit allows.
    """

    computed: Computed
    name: ClassVar[str] = "limits in a failure"
    proves: ClassVar[str] = "a failure that is nobody's fault doesn't end in refused connections"
    required: ClassVar[bool] = False

    def observe(self, ctx: Context) -> Sequence[Check]:
        judged = [item for item in self.computed.now if item.moment not in _PLANNED_MOMENTS]
        return [_check(self, judged)]


@dataclass(frozen=True)
class LimitsAtGrowth(CheckStep):
    """Which limit binds at more users.

    Replicas as the profile says for each number of users, or as many more as there are more users.
    """

    computed: Computed
    name: ClassVar[str] = "limits at growth"
    proves: ClassVar[str] = "how far the path carries, and which limit ends it"
    required: ClassVar[bool] = False

    def observe(self, ctx: Context) -> Sequence[Check]:
        if not self.computed.later:
            return [self.result(Verdict.UNPROVEN, reason=self.computed.unknown)]
        found = []
        for users, judged in sorted(self.computed.later.items()):
            check = _check(self, [item for item in judged if item.moment in _PLANNED_MOMENTS])
            found.append(check.model_copy(update={"name": f"limits at {users:,} users"}))
        return found


@dataclass(frozen=True)
class Headroom(CheckStep):
    """How much of each limit is in use, against 70 %.

    Amazon's documentation of RDS Proxy recommends 30 % of room over the recent maximum; here it is when to decide again.
    """

    computed: Computed
    seen: ServerSeen
    name: ClassVar[str] = "headroom"
    proves: ClassVar[str] = "today's use leaves 30 % of every limit"
    required: ClassVar[bool] = False

    def observe(self, ctx: Context) -> Sequence[Check]:
        used = [
            (item, item.used, item.size)
            for item in self.computed.limits
            if item.size is not None and item.limit is not Limit.APP_POOL
        ]
        over = [f"{item.limit}: {count} of {size}" for item, count, size in used if count > HEADROOM * size]
        long = self.seen.oldest_seconds >= LONG_SECONDS
        held = (
            (("oldest transaction", f"{self.seen.oldest_seconds:.0f} s, of role {self.seen.oldest_role}"),)
            if long
            else ()
        )
        return [
            self.result(
                Verdict.FAILED if over else Verdict.VERIFIED,
                expected=f"at most {HEADROOM:.0%} of each limit in use",
                observed="; ".join(over) or "; ".join(f"{item.limit}: {count} of {size}" for item, count, size in used),
                details=held,
            )
        ]


@dataclass(frozen=True)
class PoolersFit(CheckStep):
    """What the PgBouncers may open together fits behind them.

    Each instance counts for itself, and nothing adds them up: three of 50 are 150, and the third is starved by a role's
    limit of 50. A rolling update of the Pooler runs one more.
    """

    computed: Computed
    name: ClassVar[str] = "sum over PgBouncer's instances"
    proves: ClassVar[str] = "no instance of PgBouncer is left without a connection by the others"
    required: ClassVar[bool] = False

    def observe(self, ctx: Context) -> Sequence[Check]:
        path = self.computed.path if self.computed.path.pgbouncer else self.computed.second
        if path is None or path.pgbouncer is None:
            return [self.result(Verdict.NOT_APPLICABLE, reason="there is no Pooler")]
        server, pooler = path.server, path.pgbouncer
        most = pooled_servers(pooler.model_copy(update={"instances": pooler.instances + pooler.surge}))
        rooms = [(Limit.SLOTS, server.slots - server.taken)]
        for limit, size, there in (
            (Limit.ROLE, server.role_limits.get(path.role, UNLIMITED), server.of_role(path.role)),
            (Limit.DATABASE, server.database_limits.get(path.database, UNLIMITED), server.in_database(path.database)),
        ):
            rooms += [(limit, size - there)] if size != UNLIMITED else []
        narrowest, room = min(rooms, key=lambda item: item[1])
        steady = pooled_servers(pooler)
        planned = "" if self.computed.path.pgbouncer else f" ({self.computed.second_is})"
        return [
            self.result(
                Verdict.FAILED if most > room else Verdict.VERIFIED,
                expected=f"at most {room}, which {narrowest} leaves",
                observed=f"{pooler.instances} × {pooler.most_of_a_pair} = {steady}, {most} in its own rolling update{planned}",
            )
        ]


@dataclass(frozen=True)
class TenantsLimited(CheckStep):
    """Every other role that logs in has a limit of its own.

    One without can take every session that is left, and then nobody else's limit matters.
    """

    computed: Computed
    seen: ServerSeen
    name: ClassVar[str] = "other tenants' limits"
    proves: ClassVar[str] = "no other tenant can take this one's sessions"
    required: ClassVar[bool] = False

    def observe(self, ctx: Context) -> Sequence[Check]:
        own = self.computed.path.role
        others = {item.app_role for item in ctx.site.tenants} | {item.role for item in self.seen.roles if item.sessions}
        known = {item.role: item for item in self.seen.roles if item.role in others and item.role != own}
        open_ended = sorted(item.role for item in known.values() if item.limit == UNLIMITED and not item.superuser)
        limits = sum(item.limit for item in known.values() if item.limit > 0)
        return [
            self.result(
                Verdict.FAILED if open_ended else Verdict.VERIFIED,
                expected="CONNECTION LIMIT for each role",
                observed=f"without one: {', '.join(open_ended)}" if open_ended else f"each has one, {limits} together",
            )
        ]


class Decided(Frozen):
    """What to decide about growth, by the plan's own flow and the model's figures, and when to decide again."""

    decision: Decision
    backlog: int | None = None  # pending events, by the profile's question
    external_consumers: bool = False
    limit_can_be_raised: bool = False

    def rows(self) -> list[tuple[str, str]]:
        """What a card shows: the option, then each one counted at the largest number of users."""
        chosen = self.decision.option
        yes = {True: "yes", False: "no"}
        found = [
            ("decision", f"{chosen}: {options.COSTS[chosen].what}"),
            ("because", self.decision.why),
            (
                "asked",
                f"do others need the events: {yes[self.external_consumers]}; may the role's limit be raised: "
                f"{yes[self.limit_can_be_raised]} (tenants[].application.connections)",
            ),
        ]
        last = max((item.users for item in self.decision.counted), default=0)
        found += [
            (f"{item.option} needs first", "; ".join(item.needs))
            for item in self.decision.counted
            if item.users == last and item.needs
        ]
        found += [
            (f"costs of {option}", f"{costs.cost}, {costs.effort}, risk {costs.risk} ({options.CLAIMED})")
            for option, costs in options.COSTS.items()
            if option is not options.Option.KEEP
        ]
        if self.backlog is not None:
            found.append(
                ("events", f"{self.backlog} are pending now; option C is on paper: their load was not measured")
            )
        return found

    def card(self) -> dict[str, str]:
        """Every option at every number of users."""
        return connection_path.options([_option_row(item) for item in self.decision.counted])


@dataclass(frozen=True)
class DecideOnGrowth(Step[Decided]):
    """Decide between the options: smaller pools, a higher limit for the role, events outside the database.

    The flow is the scaling plan's. Each option is counted with the same model; what it costs is the plan's word.
    """

    found: FoundPath
    computed: Computed

    def do(self, ctx: Context) -> Decided:
        tenant = ctx.site.tenant(self.found.database)
        settings = tenant.application.connections if tenant.application else None
        consumers = bool(settings and settings.external_consumers)
        raised = bool(settings and settings.limit_can_be_raised)
        decision = options.decide(
            self.computed.path,
            _levels(ctx, self.found),
            external_consumers=consumers,
            limit_can_be_raised=raised,
        )
        return Decided(
            decision=decision,
            backlog=_backlog(ctx, tenant.database, tenant.pending_events),
            external_consumers=consumers,
            limit_can_be_raised=raised,
        )


def _levels(ctx: Context, found: FoundPath) -> dict[int, int]:
    """The profile's numbers of users, each with its replicas; those of which nobody knows how many are left out."""
    app = ctx.site.tenant(found.database).application
    if app is None:
        return {}
    counted = {
        step.users: discovery.replicas_for(step.users, app.connections, found.pods.replicas)
        for step in app.connections.growth
    }
    return {users: count for users, count in counted.items() if count is not None}


def _backlog(ctx: Context, database: str, question: str) -> int | None:
    if not question:
        return None
    try:
        with ctx.source(database) as db:
            ((count,),) = db.ask_text(question)
    except (RunbookError, ValueError):
        return None
    return int(count)


_POOLED = (Limit.POOL, Limit.POOLER_DATABASE, Limit.POOLER_USER)


def _in_use(row: LimitRow, seen: ServerSeen) -> LimitRow:
    """A limit of PgBouncer's with what its fullest instance has."""
    if seen.pooler is None or row.limit not in (Limit.CLIENTS, *_POOLED):
        return row
    used = seen.pooler.clients if row.limit is Limit.CLIENTS else seen.pooler.servers
    return row.model_copy(update={"used": used})


def _check(step: CheckStep, judged: Sequence[Judged]) -> Check:
    """One check of several moments: those that break by the limit that they meet, each with what happens then."""
    met: dict[tuple[str, str], list[str]] = {}
    for item in judged:
        if item.breaks:
            met.setdefault((str(item.limit), str(item.outcome)), []).append(f"{item.moment}, {_wanted(item)}")
    told = [f"{limit} binds ({'; '.join(moments)}): {outcome}" for (limit, outcome), moments in met.items()]
    told += [
        f"{item.moment}, {item.demand} wanted: as a Service may spread them over PgBouncer's instances only {item.unluckily} are served"
        for item in judged
        if item.starves
    ]
    return step.result(
        Verdict.FAILED if told else Verdict.VERIFIED,
        expected="what is wanted is served",
        observed="; ".join(told) or "; ".join(f"{item.moment}: {_wanted(item)}" for item in judged),
        details=tuple(
            (str(item.moment), f"an instance that the others have left no connection: {item.starved}")
            for item in judged
            if item.breaks and item.starved
        ),
    )


def _wanted(item: Judged) -> str:
    return f"{item.demand} wanted, {'all' if item.served is None else item.served} served"


def _then(item: Judged) -> str:
    """What happens to who comes too late; and on an instance of PgBouncer that has no connection, where that may be."""
    if not item.breaks:
        return "served"
    return f"{item.outcome}" + (f"; on an instance without a connection: {item.starved}" if item.starved else "")


def _short(judged: Sequence[Judged]) -> str:
    steady = next(item for item in judged if item.moment is Moment.STEADY)
    return f"{steady.limit} binds with {steady.replicas} pods: {_wanted(steady)}"


def _option_row(item: options.Counted) -> list[str]:
    served = [f"{'all' if judged.served is None else judged.served}" for judged in (item.steady, item.worst)]
    return [
        f"{item.users:,}",
        f"{item.option}",
        str(item.replicas),
        str(item.steady.demand),
        served[0],
        f"{item.worst.demand} wanted, {served[1]} served: {item.worst.moment}",
        "yes" if item.fits else f"no: {item.worst.limit}",
        "–" if item.again_at is None else f"{item.again_at} in use",
    ]


def _limit_row(row: LimitRow) -> list[str]:
    size = "no limit" if row.size is None else f"{row.size:,}" if row.times == 1 else f"{row.times} × {row.size:,}"
    admits = "–" if row.admits is None else f"{row.admits:,}"
    if row.admits_worst is not None and row.admits_worst != row.admits and row.limit is not Limit.APP_POOL:
        admits += f" ({row.admits_worst:,} if all come to one)"
    return [str(row.limit), row.place, size, f"{row.used:,}", admits, str(row.outcome or "–")]


def _moments(users: str, which: str, judged: Sequence[Judged]) -> list[list[str]]:
    return [
        [
            users,
            which,
            str(item.moment),
            f"{item.demand:,}",
            "all" if item.served is None else f"{item.served:,}",
            str(item.limit),
            _then(item),
        ]
        for item in judged
    ]


def _lane(title: str, taken: bool, path: Path, limits: Sequence[LimitRow], judged: Sequence[Judged]) -> dict[str, Any]:
    binds = binding(list(judged)).limit
    table = {item.limit: item for item in limits}
    pods, server, pooler = path.pods, path.server, path.pgbouncer
    used = {item.limit: item.used for item in limits}
    stages = [
        {
            "name": "Application",
            "lines": [
                f"{pods.replicas} pods × {pods.workers * pods.pool}",
                f"rolling update: {pods.rolling(pods.replicas)}",
            ],
            "used": used[Limit.APP_POOL] if taken else None,
            "limit": pods.connections(pods.replicas),
            "binds": binds is Limit.APP_POOL,
        }
    ]
    if pooler is not None:
        stages.append(
            {
                "name": "PgBouncer",
                "lines": [
                    f"{pooler.instances} × {pooler.most_of_a_pair} to the server",
                    f"{pooler.instances} × {pooler.max_client_conn:,} clients",
                ],
                "used": used[Limit.CLIENTS] if taken else None,
                "limit": table[Limit.CLIENTS].size,
                "binds": binds in (Limit.CLIENTS, Limit.POOL, Limit.POOLER_DATABASE, Limit.POOLER_USER),
            }
        )
    for limit, name in ((Limit.ROLE, "Role"), (Limit.DATABASE, "Database")):
        row = table[limit]
        if row.size is not None or limit is Limit.ROLE:
            stages.append(
                {
                    "name": name,
                    "lines": [path.role if limit is Limit.ROLE else path.database],
                    "used": row.used if taken else None,
                    "limit": row.size,
                    "binds": binds is limit,
                }
            )
    stages.append(
        {
            "name": "PostgreSQL",
            "lines": [
                f"max_connections {server.max_connections}",
                f"{server.max_connections - server.slots} reserved, {server.taken} of others",
            ],
            "used": table[Limit.SLOTS].used if taken else None,
            "limit": server.slots,
            "binds": binds is Limit.SLOTS,
        }
    )
    return {"title": title, "taken": taken, "stages": stages}


def _noted(computed: Computed) -> dict[str, Any]:
    """What the record keeps: each limit, and what binds when."""
    return {
        "pooler": computed.path.pgbouncer.name if computed.path.pgbouncer else None,
        "limits": [
            {"limit": item.limit, "size": item.size, "times": item.times, "used": item.used, "admits": item.admits}
            for item in computed.limits
        ],
        "moments": [
            {
                "users": item.users,
                "moment": item.moment,
                "wanted": item.demand,
                "served": item.served,
                "binds": item.limit,
                "breaks": item.breaks,
            }
            for judged in (computed.now, *computed.later.values())
            for item in judged
        ],
    }


__all__ = [
    "ComputeLimits",
    "Computed",
    "DecideOnGrowth",
    "Decided",
    "Headroom",
    "LimitsAtGrowth",
    "LimitsNow",
    "LimitsWhenSomethingFails",
    "PoolersFit",
    "TenantsLimited",
]
