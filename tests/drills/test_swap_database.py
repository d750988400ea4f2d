"""swap-database on a lab: one tenant's database replaced and put back while the others write; and every way it refuses."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml
from fix_drills import ROOT, DrillLab, until

from drillbook import kube as k8s
from drillbook.cli.headless.settling import undo
from drillbook.engine import open_run
from drillbook.engine.approval import approve
from drillbook.engine.engine import Run
from drillbook.engine.gate import Section
from drillbook.engine.step import Pending, Step
from drillbook.errors import ConfirmationRequired, NotConfirmed, NotReady, PreconditionError
from drillbook.evidence import Masker
from drillbook.evidence.facts import Facts, TenantLoss
from drillbook.evidence.judge import unsettled
from drillbook.kube import reconcilers, workloads
from drillbook.model import Verdict
from drillbook.steps.archive import base_backup, targets
from drillbook.steps.backup import safety_backup
from drillbook.steps.checks import validation
from drillbook.steps.cutover import containment, drain, swap_check, swap_database, transfer
from drillbook.steps.finish import closing
from drillbook.steps.finish.remains import remains
from drillbook.steps.preflight import readiness
from drillbook.steps.recovery import boundary, copy

TENANT = "synergyflow"
EVERYTHING = Path(__file__).with_name("one_of_everything.sql")

pytestmark = pytest.mark.long  # whole recoveries


@pytest.fixture(scope="module", autouse=True)
def rights(drill_lab: DrillLab) -> Iterator[None]:
    """Drills and backups have no such rights."""
    with drill_lab.recovering():
        yield


@contextmanager
def opened(
    lab: DrillLab, monkeypatch: pytest.MonkeyPatch, *, site: str = "", mode: str = "apply", **parameters: str
) -> Iterator[Run]:
    """A run of the library's own, without a notebook."""
    for name, value in lab.env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("DRILLBOOK_OUTPUTS", lab.own_outputs())
    run = open_run("recover-point-in-time", site=site, mode=mode, **parameters)
    try:
        yield run
    finally:
        run.release()


@dataclasses.dataclass(frozen=True)
class Restored:
    """A copy that stands for as long as the tests of this module run, and the cluster that it is one of."""

    cluster: readiness.SourceCluster
    recovered: copy.Recovered


@pytest.fixture(scope="module")
def restored(drill_lab: DrillLab) -> Iterator[Restored]:
    """A recovered copy whose tenant has one of everything."""
    with pytest.MonkeyPatch.context() as patch, opened(drill_lab, patch) as run:
        cluster = run.do(readiness.CheckReadiness())
        backup = run.do(base_backup.ChooseBaseBackup(cluster))
        archived = run.do(base_backup.WalChainUnbroken(cluster, backup))
        baseline = run.do(boundary.MarkBefore(cluster, archived))
        mistake = run.do(boundary.SimulateMistake(cluster, baseline))
        switched = run.do(boundary.SwitchWal(cluster, backup, mistake))
        target = run.do(boundary.ProveTargetReachable(cluster, backup, archived, baseline, mistake, switched))
        created = run.do(copy.CreateRecoveryCluster(cluster, backup, target))
        recovered = run.do(copy.WaitForRecovery(cluster, created))
        pod = f"{recovered.ref.name}-1"
        argv = ["psql", "-Xq", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-d", TENANT, "-f", "-"]
        done = drill_lab.admin.exec(
            recovered.ref.namespace, pod, "postgres", argv, stdin=EVERYTHING.read_bytes(), timeout_seconds=120
        )
        assert done.exit_code == 0, done.error_text
        run.release()  # the Lease: the tests' own runs take it
        yield Restored(cluster, recovered)
        run.do(copy.RemoveRecoveryCluster(created))


@pytest.fixture(autouse=True)
def nothing_is_left() -> None:
    """The copy stands while this module's tests run; what each leaves on the source it looks at itself."""


class Writers:
    """Other tenants' users: each commits without pause and counts what was acknowledged."""

    def __init__(self, lab: DrillLab) -> None:
        self.lab = lab
        self.acknowledged: dict[str, int] = {}
        self.errors: list[str] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._work, args=(name,)) for name in ("gitlab", "harbor")]
        self._stack = ExitStack()

    def __enter__(self) -> Writers:
        for name in ("gitlab", "harbor"):
            self.lab.sql(name, f"create table if not exists {name}.counted (n int primary key)")
            self.lab.sql(name, f"grant insert on {name}.counted to {name}_app")
        namespace = self.lab.site.cluster.namespace
        self.forward = self._stack.enter_context(
            self.lab.admin.forward(namespace, f"{self.lab.site.cluster.name}-1", 5432)
        )
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self._stack.close()

    def _work(self, name: str) -> None:
        secret = self.lab.admin.secret(self.lab.site.drillbook_namespace, f"app-login-{name}")
        try:
            with psycopg.connect(
                host=self.forward.host,
                port=self.forward.port,
                dbname=name,
                user=secret["username"],
                password=secret["password"],
                autocommit=True,
            ) as connection:
                n = 0
                while not self._stop.wait(0.005):
                    connection.execute(f"insert into {name}.counted values (%s)", (n,))
                    n += 1
                    self.acknowledged[name] = n
        except psycopg.Error as error:
            self.errors.append(f"{name}: {error}")

    def kept(self) -> dict[str, int]:
        """What the databases hold of it."""
        return {name: int(self.lab.sql(name, f"select count(*) from {name}.counted")) for name in ("gitlab", "harbor")}

    def tidy(self) -> None:
        for name in ("gitlab", "harbor"):
            self.lab.sql(name, f"drop table {name}.counted")


def confirmed(run: Run, title: str, *steps: Step[Any]) -> Section:
    """A section as a notebook has it: planned, not passed without a person's word, and then passed."""
    section = run.plan(title, *steps)
    with pytest.raises(ConfirmationRequired, match=section.phrase):
        run.confirm(section)
    approve(run.journal, section.phrase, run.context.kube, how="widget")
    run.confirm(section)
    return section


def databases(lab: DrillLab) -> set[str]:
    return set(lab.sql("postgres", f"select datname from pg_database where datname like '{TENANT}%'").splitlines())


def facts(run: Run) -> dict[str, Any]:
    return {event["name"]: event["value"] for event in run.journal.events() if event["type"] == "fact"}


def last_error(run: Run) -> dict[str, Any]:
    ends = [event for event in run.journal.events() if event["type"] == "step_finished" and event["error"]]
    found: dict[str, Any] = ends[-1]["error"]
    return found


def test_one_tenant_is_swapped_and_swapped_back_while_the_others_write(
    drill_lab: DrillLab, restored: Restored, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab, cluster, recovered = drill_lab, restored.cluster, restored.recovered
    app = lab.site.tenants[0].application
    assert app is not None
    lab.sql(TENANT, "create table if not exists public.only_in_production as select 1 as n")
    with opened(lab, monkeypatch) as run, Writers(lab) as writers:
        fits = run.do(swap_check.CheckSwapFits(cluster, TENANT))
        carriable = run.do(swap_check.CheckTransferable(cluster, fits, recovered))
        assert "rows of unlogged table everything.scratch" in dict(carriable.checks[0].details)
        carrying, comparing = (
            step(cluster, fits, recovered) for step in (transfer.TransferDatabase, transfer.CompareTransferred)
        )
        with pytest.raises(NotConfirmed):
            run.do(carrying)
        confirmed(run, "carry", carrying, comparing)
        carried = run.do(carrying)
        assert not isinstance(carried, Pending), last_error(run)
        assert (carried.through_this_machine, carried.bytes > 100_000) == (True, True)
        compared = run.do(comparing)
        assert compared.verdict is Verdict.VERIFIED, compared
        assert_a_difference_is_named(lab, run, fits, restored)

        off, swap, on = (
            drain.DrainApplication(cluster, fits),
            swap_database.SwapDatabase(cluster, fits),
            drain.ScaleUpApplication(cluster, fits),
        )
        confirmed(run, "cut", off, swap, on)
        drained = run.do(off)
        assert not isinstance(drained, Pending), last_error(run)
        assert drained.replicas_before == 3
        again = off.do(run.context)  # as after a kill: what was before is not forgotten
        assert (again.replicas_before, again.began_at) == (3, drained.began_at)
        swapped = run.do(swap)
        assert not isinstance(swapped, Pending), last_error(run)
        # Done again, as after a kill before its end was written down: the same cut is reported, nothing is cut again.
        assert swap.do(run.context).model_dump(exclude={"sessions_ended"}) == swapped.model_dump(
            exclude={"sessions_ended"}
        )
        service = run.do(on)
        assert not isinstance(service, Pending), last_error(run)
        assert service.replicas == 3 and service.outage_seconds and service.outage_seconds > 0
        assert lab.sql(TENANT, "select count(*) from everything.item") == "500"
        assert lab.sql(fits.names.kept, "select n from public.only_in_production") == "1"
        lab.sql(TENANT, "insert into everything.parts values ('2026-05-05', 5)")

        off, swap_back, on = (
            drain.DrainApplication(cluster, fits),
            swap_database.SwapBack(cluster, fits),
            drain.ScaleUpApplication(cluster, fits),
        )
        confirmed(run, "back", off, swap_back, on)
        run.do(off)
        back = run.do(swap_back)
        assert not isinstance(back, Pending), last_error(run)
        run.do(on)
        assert ("everything.parts_2026", 1, 0, 0) in back.written
        assert lab.sql(TENANT, "select n from public.only_in_production") == "1"
        assert lab.sql(fits.names.later, "select count(*) from everything.parts") == "31"
        assert databases(lab) == {TENANT, fits.names.later}
        drop = swap_database.DropDamaged(cluster, fits.names.later)
        confirmed(run, "drop", drop)
        run.do(drop)
        assert databases(lab) == {TENANT}

        assert unsettled(run.journal.events()) == []
        assert facts(run)["superuser_on_source"]["how"] == "psql by pods/exec, behind the gate"
        assert {"carry", "drain", "cut over"} <= {e["name"] for e in run.journal.events() if e["type"] == "phase"}
        assert not any(event.get("error") for event in run.journal.events() if event["type"] == "step_finished")
    assert writers.errors == []
    assert writers.kept() == writers.acknowledged and min(writers.acknowledged.values()) > 10
    writers.tidy()
    lab.sql(TENANT, "drop table public.only_in_production")


def assert_a_difference_is_named(lab: DrillLab, run: Run, fits: swap_check.SwapFits, restored: Restored) -> None:
    """Whatever is changed in the carried database is named; put back, both are equal again."""
    name = fits.names.carried
    compare = transfer.CompareTransferred(restored.cluster, fits, restored.recovered)
    lab.sql(name, "revoke usage on schema everything from gitlab_app")
    lab.sql(name, "comment on schema everything is 'another'")
    lab.sql(name, "select nextval('everything.odd')")
    lab.sql(name, "insert into everything.item (id, amount) values (9999, 3)")
    lab.sql(name, "select lo_put(987654, 0, 'b')")
    lab.sql("postgres", f'alter database "{name}" connection limit 7')
    structure, rows = compare.observe(run.context)
    assert (structure.verdict, rows.verdict) == (Verdict.FAILED, Verdict.FAILED)
    assert {what for what, _ in structure.details} == {
        "grant: schema everything",
        "comment: schema everything",
        "position of sequence: everything.odd",
        "database's own: connection_limit",
    }
    assert {what for what, why in rows.details if "copy:" in why} == {"everything.item", "large objects"}
    transfer.TransferDatabase(restored.cluster, fits, restored.recovered).do(run.context)  # done twice it is recreated
    assert all(check.verdict is Verdict.VERIFIED for check in compare.observe(run.context))


def test_a_swap_that_does_not_fit_is_refused_with_every_reason_at_once(
    drill_lab: DrillLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = drill_lab
    namespace, pod = lab.site.cluster.namespace, f"{lab.site.cluster.name}-1"
    app = lab.site.tenants[0].application
    assert app is not None
    pgdata = lab.admin.exec(namespace, pod, "postgres", ["printenv", "PGDATA"], timeout_seconds=60).text.strip()
    ballast = Path(pgdata).parent / "ballast"
    before = databases(lab)
    with ExitStack() as undo:
        lab.sql(
            TENANT, "create unlogged table public.large as select repeat('x', 1000) as t from generate_series(1, 40000)"
        )
        undo.callback(lab.sql, TENANT, "drop table public.large")
        lab.sql(TENANT, "select pg_create_logical_replication_slot('stands_here', 'pgoutput')")
        undo.callback(lab.sql, "postgres", "select pg_drop_replication_slot('stands_here')")
        mark = {"metadata": {"labels": {"kustomize.toolkit.fluxcd.io/name": "shop"}}}
        lab.admin.patch(k8s.DEPLOYMENT, app.namespace, app.deployment, mark)
        gone: dict[str, Any] = {"metadata": {"labels": {"kustomize.toolkit.fluxcd.io/name": None}}}
        undo.callback(lab.admin.patch, k8s.DEPLOYMENT, app.namespace, app.deployment, gone)
        room = 10 * 2**30 - int(
            lab.admin.exec(
                namespace,
                pod,
                "postgres",
                ["du", "-s", "-B1", "--apparent-size", str(Path(pgdata).parent)],
                timeout_seconds=60,
            ).text.split()[0]
        )
        undo.callback(ballast.unlink)
        with ballast.open("wb") as file:
            file.truncate(room - 40 * 2**20)
        secret = lab.admin.secret(lab.site.drillbook_namespace, "app-login-gitlab")
        forward = undo.enter_context(lab.admin.forward(namespace, pod, 5432))
        session = psycopg.connect(
            host=forward.host,
            port=forward.port,
            dbname=TENANT,
            user=secret["username"],
            password=secret["password"],
            application_name="a curious neighbour",
        )
        undo.callback(session.close)
        site = lab.profile_with("hasty", objectives={"recovery_time": "1s", "point_in_time_recovery": "1s"})
        with opened(lab, monkeypatch, site=str(site)) as run:
            cluster = run.do(readiness.CheckReadiness())
            target = run.do(targets.ResolveTarget(cluster, run.target))
            with pytest.raises(NotReady) as caught:
                run.do(swap_check.CheckSwapFits(cluster, TENANT, target))
    told = "\n".join(caught.value.faults)
    for words in (
        "replication slot stands_here depends on synergyflow",
        f"instance {pod} has",
        "Flux shop",
        "over the recovery time objective of 1 s",
    ):
        assert words in told, told
    assert "a curious neighbour" not in told, "the cut ends it: that is no reason to refuse (s11)"
    assert databases(lab) == before


def test_a_plan_shows_the_exact_statements_and_changes_nothing(
    drill_lab: DrillLab, restored: Restored, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = databases(drill_lab)
    with opened(drill_lab, monkeypatch, mode="plan") as run:
        fits = run.do(swap_check.CheckSwapFits(restored.cluster, TENANT))
        for step in (
            transfer.TransferDatabase(restored.cluster, fits, restored.recovered),
            drain.DrainApplication(restored.cluster, fits),
            swap_database.SwapDatabase(restored.cluster, fits),
            drain.ScaleUpApplication(restored.cluster, fits),
            swap_database.SwapBack(restored.cluster, fits),
        ):
            assert step.gated and step.plan(run.context).touches
            assert step.plan(run.context) == step.plan(run.context)
            assert isinstance(run.do(step), Pending)
        plan = swap_database.SwapDatabase(restored.cluster, fits).plan(run.context)
    assert f'ALTER DATABASE "{TENANT}" RENAME TO "{fits.names.kept}"' in plan.sql
    assert plan.lost and fits.names.kept in plan.lost[0]
    assert databases(drill_lab) == before
    application_now = workloads.deployment(drill_lab.admin, drill_lab.site.tenants[0].application)  # type: ignore[arg-type]
    assert application_now["spec"]["replicas"] == 3


@pytest.mark.long
def test_an_app_that_does_not_drain_stops_before_any_database_is_touched(
    drill_lab: DrillLab, restored: Restored, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab, cluster = drill_lab, restored.cluster
    site = lab.profile_with("impatient", limits={"step": "20s"})
    namespace, pod = lab.site.cluster.namespace, f"{lab.site.cluster.name}-1"
    secret = lab.admin.secret(lab.site.drillbook_namespace, f"app-login-{TENANT}")
    with ExitStack() as stack:
        forward = stack.enter_context(lab.admin.forward(namespace, pod, 5432))
        session = psycopg.connect(
            host=forward.host,
            port=forward.port,
            dbname=TENANT,
            user=secret["username"],
            password=secret["password"],
            application_name="a job nobody knows",
        )
        stack.callback(session.close)
        run = stack.enter_context(opened(lab, monkeypatch, site=str(site)))
        fits = run.do(swap_check.CheckSwapFits(cluster, TENANT))
        carrying, off, swap, on = (
            transfer.TransferDatabase(cluster, fits, restored.recovered),
            drain.DrainApplication(cluster, fits),
            swap_database.SwapDatabase(cluster, fits),
            drain.ScaleUpApplication(cluster, fits),
        )
        confirmed(run, "all at once", carrying, off, swap, on)
        run.do(carrying)
        assert isinstance(run.do(off), Pending)
        assert "1 sessions of a job nobody knows" in last_error(run)["what"]
        assert "--replicas=3" in last_error(run)["todo"]
        assert isinstance(run.do(swap), Pending)
        with pytest.raises(PreconditionError, match="not drained: 1 sessions of a job nobody knows"):
            swap.check(run.context)
        assert databases(lab) == {TENANT, fits.names.carried}
        assert not isinstance(run.do(on), Pending)
        run.do(swap_database.RemoveTransferred(cluster, fits))
        assert unsettled(run.journal.events()) == []
    assert databases(lab) == {TENANT}


def test_health_that_stays_red_names_the_way_back(
    drill_lab: DrillLab, restored: Restored, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab, cluster = drill_lab, restored.cluster
    site = lab.profile_with("impatient", limits={"step": "20s"})
    role = lab.site.tenants[0].app_role
    with opened(lab, monkeypatch, site=str(site)) as run:
        fits = run.do(swap_check.CheckSwapFits(cluster, TENANT))
        off, on = drain.DrainApplication(cluster, fits), drain.ScaleUpApplication(cluster, fits)
        confirmed(run, "rest", off, on)
        assert not isinstance(run.do(off), Pending), last_error(run)
        lab.sql("postgres", f'alter role "{role}" nologin')
        try:
            assert isinstance(run.do(on), Pending)
            assert "is not well after it was scaled up" in last_error(run)["what"]
            assert f"swap back, {fits.names.kept} is kept" in last_error(run)["todo"]
        finally:
            lab.sql("postgres", f'alter role "{role}" login')
        until(lambda: not on.do(run.context).put_back, "the application is well again")
        assert unsettled(run.journal.events()) == []


def test_nobody_is_asked_for_a_cut_whose_backup_failed(
    drill_lab: DrillLab, restored: Restored, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab, cluster = drill_lab, restored.cluster
    with opened(lab, monkeypatch, site=str(lab.profile_with("impatient", limits={"step": "20s"}))) as run:
        fits = run.do(swap_check.CheckSwapFits(cluster, TENANT))
        with lab.failing_archiver():
            (check, *_) = run.do(safety_backup.BackUpBeforeCutover(cluster)).checks
        assert check.verdict in (Verdict.FAILED, Verdict.UNPROVEN) and check.name == "backup before the cut", check
        off, swap = drain.DrainApplication(cluster, fits), swap_database.SwapDatabase(cluster, fits)
        run.confirm(run.plan("cut", off, swap))  # neither waits nor lets pass
        assert isinstance(run.do(off), Pending) and isinstance(run.do(swap), Pending)
        assert [event for event in run.journal.events() if event["type"] in ("waiting", "confirmed")] == []
    app = lab.site.tenants[0].application
    assert app is not None and workloads.deployment(lab.admin, app)["spec"]["replicas"] == 3


def test_a_cut_without_a_backup_is_confirmed_as_one(
    drill_lab: DrillLab, restored: Restored, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans = []
    for reason in ("", "its volume is full"):
        with opened(drill_lab, monkeypatch, mode="plan", no_backup_because=reason) as run:
            fits = run.do(swap_check.CheckSwapFits(restored.cluster, TENANT))
            plans.append(swap_database.SwapDatabase(restored.cluster, fits, reason).plan(run.context))
    with_one, without = plans
    assert len(without.touches) == len(with_one.touches) + 1, "another digest, and so another phrase"
    assert without.lost[-1] == "no backup was taken before the cut, because: its volume is full"


@pytest.mark.long
def test_argo_cd_is_paused_for_the_cut_and_goes_on_afterwards(
    drill_lab: DrillLab, restored: Restored, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab, cluster = drill_lab, restored.cluster
    app = lab.site.tenants[0].application
    assert app is not None
    lab._lab("reconciler", "on")
    try:
        until(
            lambda: reconcilers.reconcilers_on(lab.admin, workloads.deployment(lab.admin, app)),
            "the app carries its mark",
        )
        with opened(lab, monkeypatch) as run, pytest.raises(NotReady, match="can't be read"):
            run.do(swap_check.CheckSwapFits(cluster, TENANT))  # no right to read it: refused, with its name
        grant(lab, app.deployment)
        lab.admin.create(autoscaler(app.namespace, app.deployment))
        with opened(lab, monkeypatch) as run:
            fits = run.do(swap_check.CheckSwapFits(cluster, TENANT))
            off, on = drain.DrainApplication(cluster, fits), drain.ScaleUpApplication(cluster, fits)
            confirmed(run, "rest", off, on)
            drained = run.do(off)
            assert not isinstance(drained, Pending), last_error(run)
            assert any("HorizontalPodAutoscaler" in hand.who and not hand.acts for hand in fits.reconcilers)
            assert drained.paused == (f"Argo CD Application argocd/{app.deployment}",)
            paused = lab.admin.get(k8s.APPLICATION, "argocd", app.deployment)
            assert paused is not None and "automated" not in paused["spec"].get("syncPolicy", {})
            service = run.do(on)
            assert not isinstance(service, Pending), last_error(run)
            assert unsettled(run.journal.events()) == []
        resumed = lab.admin.get(k8s.APPLICATION, "argocd", app.deployment)
        assert resumed is not None and resumed["spec"]["syncPolicy"]["automated"] == {"prune": True, "selfHeal": True}
    finally:
        lab._lab("reconciler", "off")
        for found in lab.admin.list(k8s.AUTOSCALER, app.namespace):
            lab.admin.delete(k8s.AUTOSCALER, app.namespace, app.deployment, uid=found["metadata"]["uid"])


def autoscaler(namespace: str, deployment: str) -> dict[str, Any]:
    """One that would scale the application up if it were not at nothing."""
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": deployment, "namespace": namespace},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": deployment},
            "minReplicas": 3,
            "maxReplicas": 4,
        },
    }


def grant(lab: DrillLab, application_name: str) -> None:
    """The right of deploy/argocd/, as an operator would apply it."""
    text = (ROOT / "deploy" / "argocd" / "application.yaml").read_text()
    names = {
        "ARGOCD_NAMESPACE": "argocd",
        "APPLICATION": application_name,
        "DRILLBOOK_NAMESPACE": lab.site.drillbook_namespace,
    }
    for name, value in names.items():
        text = text.replace(f"${{{name}}}", value)
    for item in yaml.safe_load_all(text):
        path = f"/apis/rbac.authorization.k8s.io/v1/namespaces/argocd/{item['kind'].lower()}s"
        lab.admin._transport.call("POST", path, what="grant", body=item)


def test_f06_f07_f08_f09_after_a_comparison_that_failed_production_is_as_it_was(
    drill_lab: DrillLab, restored: Restored, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No application is brought back that was not drained, no session keeps the setting, nothing is left, no loss is announced."""
    lab, cluster = drill_lab, restored.cluster
    secret = lab.admin.secret(lab.site.drillbook_namespace, f"app-login-{TENANT}")
    with ExitStack() as stack:
        run = stack.enter_context(opened(lab, monkeypatch))
        before = remains(run.context)
        fits = run.do(swap_check.CheckSwapFits(cluster, TENANT))
        block, carrying = (
            containment.BlockWrites(cluster, TENANT),
            transfer.TransferDatabase(cluster, fits, restored.recovered),
        )
        compare, off = (
            transfer.CompareTransferred(cluster, fits, restored.recovered),
            drain.DrainApplication(cluster, fits),
        )
        swap, on = swap_database.SwapDatabase(cluster, fits), drain.ScaleUpApplication(cluster, fits)
        confirmed(run, "all at once", block, carrying, compare, off, swap, on)
        run.do(block)
        forward = stack.enter_context(lab.admin.forward(lab.site.cluster.namespace, f"{lab.site.cluster.name}-1", 5432))
        login = {
            "host": forward.host,
            "port": forward.port,
            "dbname": TENANT,
            "user": secret["username"],
            "password": secret["password"],
        }
        pooled = psycopg.connect(**login, autocommit=True)
        stack.callback(pooled.close)
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            pooled.execute("create temporary table n (n int)").execute("create table public.n (n int)")
        run.do(carrying)
        named = " ".join(one.what for one in remains(run.context))
        assert (
            f"database {TENANT} takes no writes" in named
            and f"database {fits.names.carried} was made by a run" in named
        )
        lab.sql(fits.names.carried, "create table public.a_stranger ()")
        (checked, *_) = [check for check in run.do(compare).checks if check.verdict is not Verdict.VERIFIED]
        assert checked.verdict is Verdict.FAILED
        assert isinstance(run.do(off), Pending) and isinstance(run.do(swap), Pending)
        served = run.do(on)
        assert (served.put_back, served.healthy_at, served.outage_seconds) == ((), None, None)
        after_the_cut = [*run.do(validation.ApplicationIsBack(TENANT, served)).checks]
        after_the_cut += run.do(safety_backup.BackUpNewTimeline(cluster, served)).checks
        assert {check.verdict for check in after_the_cut} == {Verdict.NOT_APPLICABLE}
        loss = TenantLoss(database=TENANT, commits=168)
        run.context.recorder.note(Facts(losses=(loss,)))
        told = closing.AnnounceRecovery(cluster, swap, restored.recovered, TENANT)._losses(run.context)  # type: ignore[arg-type]
        assert told == ["Nothing was cut: the database is in service as it was, with all 168 commits after the target."]
        run.release()
        undo(run.journal, run.journal.events()[0], Masker(), by="abandon", progress=lambda _: None)
        assert unsettled(run.journal.events()) == []
        assert databases(lab) == {TENANT}
        with pytest.raises(psycopg.OperationalError):
            pooled.execute("select 1")
        with psycopg.connect(**login, autocommit=True) as fresh:
            assert fresh.execute("show transaction_read_only").fetchone() == ("off",)
        look = stack.enter_context(opened(lab, monkeypatch, mode="plan"))
        assert remains(look.context) == before


def test_f10_an_application_that_cannot_be_asked_is_found_before_any_gate(
    drill_lab: DrillLab, restored: Restored, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ready, and yet nothing answers at the port of the profile: after a cut nobody could see whether it is well."""
    tenants = [tenant.model_dump(mode="json", exclude_defaults=True) for tenant in drill_lab.site.tenants]
    tenants[0]["application"]["port"] = 4
    refused = pytest.raises(NotReady, match=r"is Ready and can't be asked on port 4, .* connection refused")
    with opened(drill_lab, monkeypatch, site=str(drill_lab.profile_with("deaf", tenants=tenants))) as run, refused:
        run.do(swap_check.CheckSwapFits(restored.cluster, TENANT))
