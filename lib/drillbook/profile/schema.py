"""What a site's profile says, key by key: everything that differs between one site and the next."""

from __future__ import annotations

import hashlib
import ipaddress
import json
from datetime import timedelta
from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import (
    Field,
    StrictBool,
    ValidationInfo,
    field_validator,
    model_validator,
)

from drillbook.model import ClusterRef, Frozen, Instant
from drillbook.profile.archive import Archive
from drillbook.profile.evidence import EvidenceSettings
from drillbook.profile.long_term import LongTerm
from drillbook.profile.texts import (
    ClusterName,
    Identifier,
    NamespaceName,
    ObjectName,
    SystemIdentifier,
    TableName,
    Text,
    matches,
)
from drillbook.profile.units import Duration, Size, show_duration


class Kubernetes(Frozen):
    """How to reach the API server; all empty: in a pod its own account, elsewhere kubectl's rules.

    A kubeconfig is written relative to the profile's folder and read here as an absolute path.
    """

    kubeconfig: str = ""
    context: str = ""


class SourceSettings(Frozen):
    """The source: the Cluster whose backups are proven."""

    namespace: NamespaceName
    name: ClusterName


class Identity(Frozen):
    """The pin: what the cluster must answer for a run to begin; empty is not pinned, and reports say so."""

    kube_system_uid: Annotated[str, matches(r"([0-9a-fA-F-]{36})?", "a UID (36 characters)")] = ""
    system_identifier: SystemIdentifier = ""

    @property
    def pinned(self) -> bool:
        """Whether both the Kubernetes cluster and the database cluster are pinned."""
        return bool(self.kube_system_uid and self.system_identifier)


class SecretRef(Frozen):
    """A Secret by namespace and name; never its content."""

    namespace: NamespaceName
    name: ObjectName


class Sql(Frozen):
    """Drillbook's own database and role on the source, and the Secret (basic-auth) with the role's password."""

    database: Identifier = "drillbook"
    role: Identifier = "drillbook"
    secret: SecretRef = SecretRef(namespace="drillbook", name="drillbook-sql")


class Occasion(StrEnum):
    """What people may want to be informed of, apart from what a runbook itself announces."""

    FAILED = "failed"
    UNPROVEN = "unproven"
    MISSING = "missing"
    WAITING = "waiting"


class AnnounceSettings(Frozen):
    """Where people are informed: the Secret with a webhook's address (a secret itself), and the key that holds it.

    ``on`` is when: a run that `failed`, is `unproven`, or is `waiting` for an approval or after it stopped midway, and a
    test that is `missing`, late or failed by ``drillbook due --notify``.
    """

    webhook: SecretRef | None = None
    key: Text = "url"
    on: tuple[Occasion, ...] = ()

    @model_validator(mode="after")
    def _needs_an_address(self) -> Self:
        if self.on and self.webhook is None:
            raise ValueError("on needs webhook: the Secret with the address")
        return self


class Objectives(Frozen):
    """What was promised; missed objectives fail a run only where ``enforce`` says so."""

    recovery_time: Duration = timedelta(hours=1)
    recovery_point: Duration = timedelta(hours=1)
    point_in_time_recovery: Duration = timedelta(minutes=45)
    enforce: StrictBool = False


class Freshness(Frozen):
    """How old the newest base backup and the newest archived WAL may be."""

    backup_age: Duration = timedelta(hours=24)
    archive_lag: Duration = timedelta(minutes=10)


class Limits(Frozen):
    """How long a run waits before it stops and cleans up; ``step`` is also the most that one SQL statement may take."""

    recovery: Duration = timedelta(minutes=45)
    step: Duration = timedelta(minutes=10)
    total: Duration = timedelta(hours=2)
    copy_expires: Duration = timedelta(hours=6)

    @model_validator(mode="after")
    def _fit_into_each_other(self) -> Self:
        for name, value in (("recovery", self.recovery), ("step", self.step)):
            if value > self.total:
                raise ValueError(f"{name} ({show_duration(value)}) is longer than total ({show_duration(self.total)})")
        if self.copy_expires < self.total:
            raise ValueError(
                f"copy_expires ({show_duration(self.copy_expires)}) is shorter than total "
                f"({show_duration(self.total)}): a copy would expire under its own run"
            )
        return self


class Approvals(Frozen):
    """Who confirms a destructive section: how many different people, and until when what was made waits for them.

    With two, both must be known to the API server itself, and the one who started the run is at most one of them.
    """

    people: Annotated[int, Field(strict=True, ge=1, le=2)] = 1
    deadline: Duration = timedelta(hours=24)


class EgressRule(Frozen):
    """One more place that a copy may reach: a ``cidr``, or pods of a ``namespace`` by their labels; no ports is all."""

    cidr: str = ""
    namespace: Annotated[str, matches(r"([a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)?", "a namespace")] = ""
    pods: dict[str, str] = Field(default_factory=dict)
    ports: tuple[Annotated[int, Field(strict=True, ge=1, le=65535)], ...] = ()

    @field_validator("cidr")
    @classmethod
    def _a_network(cls, value: str) -> str:
        return str(ipaddress.ip_network(value)) if value else ""

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if bool(self.cidr) == bool(self.namespace):
            raise ValueError("give exactly one of cidr and namespace")
        if self.pods and not self.namespace:
            raise ValueError("pods are labels in a namespace: give it")
        return self

    def __str__(self) -> str:
        labels = ",".join(f"{name}={value}" for name, value in self.pods.items())
        place = self.cidr or f"pods {labels or 'all'} of {self.namespace}"
        return f"{place}, port {', '.join(map(str, self.ports)) or 'any'}"


class CopySettings(Frozen):
    """How the copy differs from the source; empty is as the source.

    ``storage_class`` is that of all its volumes. ``known_workers`` are background workers of the site's own
    extensions (``backend_type`` in pg_stat_activity) that it knows to do nothing outside the server. ``egress`` is
    what it must reach beyond DNS, API server and object store, or where they are if the cluster can't say.
    """

    storage_class: str = ""
    storage_size: Size = ""
    image: str = ""
    known_workers: tuple[Text, ...] = ()
    egress: tuple[EgressRule, ...] = ()


class ReplacementSettings(Frozen):
    """The cluster that takes the source's place where the source's own Cluster object can no longer say how it was.

    ``image`` "" is the operator's default; ``parameters`` are PostgreSQL's. While the Cluster object is there, it
    counts.
    """

    instances: Annotated[int, Field(ge=1, le=20)] = 3
    image: str = ""
    storage_size: Size = ""
    storage_class: str = ""
    parameters: dict[str, str] = Field(default_factory=dict)


class Expectation(Frozen):
    """The expected answer of a question: exactly one of the three. A question answers with one row of one column."""

    equals: Any = None
    at_least: Any = None
    at_most: Any = None

    @field_validator("equals")
    @classmethod
    def _a_scalar(cls, value: Any) -> Any:
        if not isinstance(value, bool | int | float | str):
            raise ValueError(f"{value!r} is not a number, text, true or false")
        return value

    @field_validator("at_least", "at_most")
    @classmethod
    def _a_number(cls, value: Any) -> Any:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"{value!r} is not a number")
        return value

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if len(self.model_fields_set) != 1:
            raise ValueError("give exactly one of equals, at_least, at_most")
        return self

    def met_by(self, answer: Any) -> bool:
        """Whether ``answer`` is as expected; an answer that can't be compared is not."""
        if self.equals is not None:
            # True == 1 in Python, not in a profile.
            return bool(answer == self.equals) and isinstance(answer, bool) == isinstance(self.equals, bool)
        try:
            return bool(answer >= self.at_least) if self.at_least is not None else bool(answer <= self.at_most)
        except TypeError:
            return False

    def __str__(self) -> str:
        if self.equals is not None:
            return f"{self.equals}"
        return f"at least {self.at_least}" if self.at_least is not None else f"at most {self.at_most}"


class Question(Frozen):
    """One read-only SQL query of the site's own with its expected answer."""

    name: Text
    sql: Text
    expect: Expectation

    @field_validator("sql")
    @classmethod
    def _reads(cls, value: str) -> str:
        # The server enforces it (READ ONLY); here a slip is reported before a run has begun.
        lines = [line for line in value.splitlines() if line.strip() and not line.lstrip().startswith("--")]
        first = lines[0].split(maxsplit=1)[0].lower() if lines else ""
        if not first.startswith(("select", "with", "values", "table", "(")):
            raise ValueError(f"begins with {first!r}: a question is one SELECT, WITH, VALUES or TABLE")
        return value


def _unique(values: list[str], what: str) -> None:
    doubles = sorted({value for value in values if values.count(value) > 1})
    if doubles:
        raise ValueError(f"{what} given twice: {', '.join(doubles)}")


class GrowthStep(Frozen):
    """A number of users to reckon with, and the replicas for them; 0: as many more as there are more users."""

    users: Annotated[int, Field(strict=True, ge=1)]
    replicas: Annotated[int, Field(strict=True, ge=0)] = 0


class PlannedPooler(Frozen):
    """A Pooler that is planned, or believed to be there: sizes of each of its instances, as PgBouncer names them."""

    instances: Annotated[int, Field(strict=True, ge=1)] = 1
    pool_mode: Literal["session", "transaction"] = "transaction"
    default_pool_size: Annotated[int, Field(strict=True, ge=0)] = 20
    max_db_connections: Annotated[int, Field(strict=True, ge=0)] = 0
    max_client_conn: Annotated[int, Field(strict=True, ge=1)] = 100


class ConnectionSettings(Frozen):
    """How an application's connections grow: what its Deployment doesn't say.

    ``pool_variable`` and ``timeout_variable`` are the variables of its containers with the size of a process's pool
    and the milliseconds that a request waits for one of its connections; ``pool`` and ``acquire_timeout`` hold where
    there is none. ``workers`` are processes with a pool of their own in each pod, ``startup_pool`` connections more
    while a pod starts (a migration tool's pool). ``users`` are today's, 0 for unknown. ``planned_pooler`` is what the
    path is computed with where the application goes to PostgreSQL directly and the cluster has no Pooler.
    ``external_consumers`` and ``limit_can_be_raised`` are the two answers that the decision depends on: do others need
    the application's events, and do those who run the cluster agree to a higher limit for the role.
    """

    pool_variable: str = ""
    pool: Annotated[int, Field(strict=True, ge=1)] = 10
    timeout_variable: str = ""
    acquire_timeout: Duration = timedelta(seconds=30)
    workers: Annotated[int, Field(strict=True, ge=1)] = 1
    startup_pool: Annotated[int, Field(strict=True, ge=0)] = 0
    users: Annotated[int, Field(strict=True, ge=0)] = 0
    growth: tuple[GrowthStep, ...] = (GrowthStep(users=500), GrowthStep(users=1000), GrowthStep(users=5000))
    planned_pooler: PlannedPooler = PlannedPooler()
    external_consumers: StrictBool = False
    limit_can_be_raised: StrictBool = False


class Application(Frozen):
    """The application on a tenant's database, as the recover runbooks drain, repoint and test it.

    ``address_variable`` is the variable of its containers that holds the database's address (a URL, or a host);
    ``pooler`` the CNPG Pooler in the cluster's namespace that it connects through, "" for none. ``smoke_path`` is where
    its API makes a record when ``smoke_body`` is posted, and lists the newest ones; "" for none. ``metrics_path`` is where
    a pod shows its pool's gauges as Prometheus reads them (HikariCP's names), on ``port`` unless ``metrics_port`` is
    another; "" for none.
    """

    namespace: NamespaceName
    deployment: ObjectName
    port: Annotated[int, Field(ge=1, le=65535)] = 8080
    health_path: str = "/health"
    smoke_path: str = ""
    smoke_body: dict[str, str | int | bool] = Field(default_factory=dict)
    metrics_path: str = ""
    metrics_port: Annotated[int, Field(ge=0, le=65535)] = 0
    address_variable: str = ""
    pooler: str = ""
    connections: ConnectionSettings = ConnectionSettings()


class Tenant(Frozen):
    """One database of the cluster, its application role, and what is asked of its restored data.

    ``pending_events`` is a read-only query for the number of events that will be sent again after a recovery.
    """

    database: Identifier
    app_role: Identifier
    app_login: SecretRef | None = None
    application: Application | None = None
    pending_events: str = ""
    digest_tables: tuple[TableName, ...] = ()
    questions: tuple[Question, ...] = ()

    @field_validator("digest_tables")
    @classmethod
    def _each_table_once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        _unique(list(value), "table")
        return value

    @field_validator("questions")
    @classmethod
    def _each_question_once(cls, value: tuple[Question, ...]) -> tuple[Question, ...]:
        _unique([question.name for question in value], "question")
        return value


class Digests(Frozen):
    """How much of the tables in ``digest_tables`` a drill reads on the source: ``bytes`` and ``time`` for all of them together.

    Tables of 64 MiB or less are read whole; what is left is shared evenly by the larger ones, and one beyond its
    share is sampled by ranges of its key: card, record and report say which, and how many of its rows.
    ``without_key`` says what becomes of such a table that has no key to sample it by: ``unproven``, so that the
    budget holds, or read ``whole``. What is at rest is read a second time after the marker, by the same ranges and
    without digesting. "" is no limit on bytes. Tables at rest are read on a ``replica``, where there is one: those
    that are written to, always on the primary.
    """

    bytes: Size = "20Gi"
    time: Duration = timedelta(minutes=10)
    without_key: Literal["unproven", "whole"] = "unproven"
    replica: StrictBool = True


class CheckSettings(Frozen):
    """Checks that a site may switch off. The floor (boundary, structure, one assertion about data) is not among them."""

    amcheck: StrictBool = True


class Waiver(Frozen):
    """A check that a recovery goes on in spite of, by its name as a report shows it, and why. No drill knows it."""

    check: Text
    because: Text


class Every(StrEnum):
    """A period of the calendar, in UTC; a week begins on Monday."""

    HOUR = "hour"
    DAY = "day"
    WEEK = "week"
    MONTH = "month"
    QUARTER = "quarter"
    YEAR = "year"


class Schedule(Frozen):
    """How often a runbook must have been VERIFIED: once in each period, ``within`` so long of its begin (without it: before its end).

    ``since`` is the instant from whose period on it is owed; without it, from its first run on. ``cron`` is when
    `drillbook schedule` starts it, five fields in UTC; a start in a period that has its run does nothing.
    """

    runbook: ObjectName
    every: Every
    within: Duration | None = None
    since: Instant | None = None
    cron: Annotated[str, matches(r"((\S+ ){4}\S+)?", "five fields of cron")] = ""


class Attested(StrEnum):
    """What only a person can say of a site."""

    TEAM = "team trained"
    ON_CALL = "on-call runbook updated"


class Attestation(Frozen):
    """A named person's word for what no machine can see: ``by`` whom, ``at`` when, good ``until`` when."""

    item: Attested
    by: Text
    at: Instant
    until: Instant

    @model_validator(mode="after")
    def _ends_after_it_begins(self) -> Self:
        if self.until <= self.at:
            raise ValueError("until is not after at")
        return self


# Where a machine keeps its files says nothing about the site: the identity pin and the digests of those files do.
_PLACES: dict[str, Any] = {
    "kubernetes": {"kubeconfig"},
    "index_migration": True,
    "evidence": {"key": True, "trust": True, "timestamp": {"ca"}},
}


class Site(Frozen):
    """A site's resolved profile.

    ``index_migration`` is the file of the index migration that the runbooks take where their parameter names none,
    relative to the profile's folder and read here as an absolute path; "" for none.
    """

    name: Annotated[str, matches(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", "a site's name (letters, digits and '-')")]
    environment: Text
    caveats: tuple[Text, ...] = ()
    kubernetes: Kubernetes = Kubernetes()
    cluster: SourceSettings
    identity: Identity = Identity()
    drillbook_namespace: NamespaceName = "drillbook"
    drill_namespace: NamespaceName = "drillbook-drills"
    archive: Archive = Archive()
    long_term: LongTerm | None = None
    sql: Sql = Sql()
    announce: AnnounceSettings = AnnounceSettings()
    objectives: Objectives = Objectives()
    freshness: Freshness = Freshness()
    limits: Limits = Limits()
    approvals: Approvals = Approvals()
    evidence: EvidenceSettings = EvidenceSettings()
    schedules: tuple[Schedule, ...] = ()
    attestations: tuple[Attestation, ...] = ()
    # ``copy`` is what a pydantic model is copied with: the attribute has another name than the key.
    copy_: CopySettings = Field(default=CopySettings(), alias="copy")
    replacement: ReplacementSettings = ReplacementSettings()
    tenants: Annotated[tuple[Tenant, ...], Field(min_length=1)]
    digests: Digests = Digests()
    checks: CheckSettings = CheckSettings()
    waivers: tuple[Waiver, ...] = ()
    index_migration: str = ""
    controls: tuple[Text, ...] = ()

    @field_validator("drill_namespace")
    @classmethod
    def _stands_apart(cls, value: str, info: ValidationInfo) -> str:
        source = info.data.get("cluster")
        if source is not None and value == source.namespace:
            raise ValueError(f"{value!r} is the source's namespace: a copy needs one of its own")
        if value == info.data.get("drillbook_namespace"):
            raise ValueError(f"{value!r} is Drillbook's own namespace: a copy needs one of its own")
        return value

    @field_validator("schedules")
    @classmethod
    def _each_runbook_once(cls, value: tuple[Schedule, ...]) -> tuple[Schedule, ...]:
        _unique([schedule.runbook for schedule in value], "runbook")
        return value

    @field_validator("tenants")
    @classmethod
    def _each_database_once(cls, value: tuple[Tenant, ...]) -> tuple[Tenant, ...]:
        _unique([tenant.database for tenant in value], "database")
        return value

    @property
    def source(self) -> ClusterRef:
        """The Cluster whose backups are proven."""
        return ClusterRef(namespace=self.cluster.namespace, name=self.cluster.name)

    @property
    def digest(self) -> str:
        """SHA-256 of the resolved profile in canonical JSON: equal profiles have equal digests, wherever they are."""
        return self._digest(_PLACES)

    @property
    def lasting_digest(self) -> str:
        """The same without the time limits: they may be raised while a run that is to be resumed waits."""
        return self._digest(_PLACES | {"limits": True})

    def _digest(self, without: dict[str, Any]) -> str:
        values = self.model_dump(mode="json", by_alias=True, exclude=without)
        return hashlib.sha256(json.dumps(values, sort_keys=True, ensure_ascii=False).encode()).hexdigest()

    def tenant(self, database: str) -> Tenant:
        """The tenant of ``database``; KeyError if the profile has none."""
        for tenant in self.tenants:
            if tenant.database == database:
                return tenant
        raise KeyError(database)
