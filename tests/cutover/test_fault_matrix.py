"""Each external call of each recovery and undo behind its last gate fails once: what is then in service, by its own oracle.

The calls are counted, not listed: every change, every command in a pod and every session that is opened to a server.
A call is refused, or done with its answer lost, or answered late; the same call passes when it is made again. After
each stop no client may reach two writable primaries, no acknowledged row may be lost, and the run has ended, was put
back, or stands stopped midway with its copy; resumed until every call has failed once, it ends as an undisturbed one
does. A run that was put back ends its walk: the next walk begins to disturb after the call that ended it.

The whole matrix takes hours: it belongs to the soak. ``DRILLBOOK_FAULTS`` names the runbooks to take. A sample of it,
drawn by the seed ``DRILLBOOK_SEED``, is a long test.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from fix_cutover import CutLab
from fix_drills import ROOT, Drill, DrillLab

from drillbook import kube as k8s
from drillbook_lab.faults import catalogue as faults
from drillbook_lab.home import LabHome

pytestmark = pytest.mark.timeout(5400)

NOW = """select to_char(clock_timestamp() at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')"""
RECOVERIES = ("recover-point-in-time", "recover-full-restore", "recover-full-restore-in-place")
UNDOES = {"undo-point-in-time": "recover-point-in-time", "undo-full-restore": "recover-full-restore"}
CHOSEN = [
    name
    for name in (*RECOVERIES, *UNDOES)
    if name in os.environ.get("DRILLBOOK_FAULTS", ",".join((*RECOVERIES, *UNDOES))).split(",")
]
SPOILT: dict[str, dict[str, Any]] = {
    "refused": {"when": "before", "status": 403},
    "lost": {"when": "lost"},
    "late": {"when": "slow", "seconds": 45},
}
CALLS: dict[str, dict[str, str]] = {
    "change": {"method": "POST|PATCH|PUT|DELETE", "path": ""},
    "command": {"method": "GET", "path": "/exec$"},  # a stream is opened by GET
    "session": {"method": "GET", "path": "/portforward$"},
}


@dataclass
class Story:
    """One site on which a runbook is run: rows that were acknowledged, a target, and the runbook's parameters."""

    lab: CutLab
    runbook: str
    acked: list[int] = field(default_factory=list)
    before: list[int] = field(default_factory=list)
    parameters: dict[str, str] = field(default_factory=dict)

    @property
    def database(self) -> str:
        return self.lab.site.tenants[0].database

    def write(self, count: int) -> None:
        """Numbered rows through the cluster that the application's address names; each is known once it is committed."""
        for _ in range(count):
            number = len(self.acked) + 1
            self.lab.sql(self.serving(), f"insert into numbered values ({number})", self.database)
            self.acked.append(number)

    def serving(self) -> str:
        """The cluster that the application's address names."""
        host = self.lab.address().partition("@")[2].partition(":")[0] or self.lab.address()
        names = sorted(
            (item["metadata"]["name"] for item in self.lab.admin.list(k8s.CLUSTER, self.lab.namespace)),
            key=len,
            reverse=True,
        )
        return next(name for name in names if f"{name}-rw" in host or f"{name}-rw" in self.lab.address())

    def rows(self, cluster: str, database: str = "") -> set[int]:
        return {
            int(text) for text in self.lab.sql(cluster, "select n from numbered", database or self.database).split()
        }

    def prepare(self) -> None:
        self.lab.sql(self.lab.name, "create table numbered (n int primary key)", self.database)
        self.write(5)
        self.before = list(self.acked)
        target = self.lab.sql(self.lab.name, NOW)
        self.write(3)
        if self.runbook == "recover-point-in-time":
            self.parameters = {"database": self.database}
        self.parameters |= {"target_time": target}

    def start(self, runbook: str, **parameters: str) -> Drill:
        run = self.lab.lab.run(ROOT / "runbooks" / f"{runbook}.ipynb", **parameters)
        while run.code == 3 and len(run.of("waiting")) < gates_of(runbook):
            run = self.again(run)
        assert run.code == 3, run.said
        return run

    def again(self, run: Drill) -> Drill:
        phrase = ["--confirm", run.of("waiting")[-1]["phrase"]] if run.code == 3 else []
        # Twenty late answers are a quarter of an hour.
        done = self.lab.lab.drillbook("resume", run.folder.name, *phrase, seconds=3600)
        return Drill(done.returncode, run.folder, done.stdout + done.stderr)

    def control(self, **asked: Any) -> None:
        faults.control(LabHome(self.lab.lab.home), {"op": "api", **asked})

    def spoilt(self) -> dict[str, int]:
        """How many calls the rule in force has disturbed, and the place of the last one."""
        rules: list[dict[str, int]] = faults.control(LabHome(self.lab.lab.home), {"op": "api"})["rules"]
        return rules[0]


def gates_of(runbook: str) -> int:
    return 2 if runbook in RECOVERIES else 1


def writable(lab: CutLab) -> set[str]:
    """The clusters of the source's namespace whose first instance takes writes, asked of the server itself."""
    found = set()
    for item in lab.admin.list(k8s.CLUSTER, lab.namespace):
        name = item["metadata"]["name"]
        try:
            answer = lab.sql(name, "select not pg_is_in_recovery()", "postgres")
        except (AssertionError, Exception):  # no pod, no server: not writable  # noqa: S112
            continue
        found |= {name} if answer == "t" else set()
    return found


def judge(story: Story, run: Drill, copies: int) -> None:
    """The oracle: what clients can reach, and whether what was acknowledged is still somewhere."""
    lab = story.lab
    able = writable(lab)
    addressed = {story.serving()} if able else set()
    if run.code in (0, 1, 2):  # it has ended: in service, or put back
        assert len(able & addressed) == 1, (able, addressed, run.said)
        assert len(able) == 1, f"two clusters of one history can be written to: {able}"
    else:
        assert run.code in (4, 6), run.said  # 4: it was not resumed, and is where it stood
        assert len(able & addressed) <= 1
        if story.runbook == "recover-full-restore-in-place":
            assert len(lab.admin.list(k8s.CLUSTER, lab.site.drill_namespace)) == copies, (
                "the copy stays until it is verified"
            )
    announced = run.folder / "logs" / "announcement.txt"
    if run.code and announced.exists():
        assert "is in service again" not in announced.read_text(), "announced, and not proven"
    if run.code == 0 and story.runbook in RECOVERIES:
        assert story.rows(story.serving()) >= set(story.before), "an acknowledged row from before the target is lost"


def walk(lab: CutLab, runbook: str) -> tuple[Story, Drill]:
    """To the last gate of the runbook; an undo depends on its recovery, with rows written since."""
    story = Story(lab, UNDOES.get(runbook, runbook))
    story.prepare()
    run = story.start(story.runbook, **story.parameters)
    if runbook in UNDOES:
        done = story.again(run)
        assert done.code == 0, done.said
        story.write(2)
        given = {"of_run": run.folder.name} | ({"database": story.database} if runbook == "undo-point-in-time" else {})
        run = story.start(runbook, **given)
        story.runbook = runbook
    return story, run


def spoil(lab: CutLab, runbook: str, what: str, kind: str, number: int) -> None:
    """The ``number``-th call behind the last gate is disturbed; then the oracle, then the end by resuming."""
    story, run = walk(lab, runbook)
    copies = len(lab.admin.list(k8s.CLUSTER, lab.site.drill_namespace))
    story.control(rules=[{**CALLS[what], "every": number, "times": 1, **SPOILT[kind]}])
    spoilt = story.again(run)
    story.control(rules=[])
    judge(story, spoilt, copies)
    if spoilt.code in (4, 6):
        ended = story.again(run if spoilt.code == 4 else spoilt)
        assert (ended.code, ended.verdict) == (0, "VERIFIED"), ended.said
        judge(story, ended, copies)


def spoil_each(lab: CutLab, runbook: str, what: str, kind: str, skip: int) -> tuple[int, int, int]:
    """Every call behind the last gate is disturbed once, but for the first ``skip``; the run is judged and resumed at each stop.

    How many were disturbed, how often it stopped, and the place of the call that ended the walk early (0: it ended
    VERIFIED).
    """
    story, run = walk(lab, runbook)
    copies = len(lab.admin.list(k8s.CLUSTER, lab.site.drill_namespace))
    story.control(rules=[{**CALLS[what], **SPOILT[kind], "times": 0, "once_each": True, "skip": skip}])
    for stops in range(80):
        spoilt = story.again(run)
        story.control(paused=True)  # the oracle asks the same servers
        judge(story, spoilt, copies)
        story.control(paused=False)
        print(f"{runbook}, {what} {kind}, skip {skip}, stop {stops}: exit {spoilt.code}, {story.spoilt()}", flush=True)  # noqa: T201 - hours
        if spoilt.code not in (4, 6):
            break
        run = run if spoilt.code == 4 else spoilt
    done = story.spoilt()
    story.control(rules=[])
    if (spoilt.code, spoilt.verdict) == (0, "VERIFIED"):
        return done["done"], stops, 0
    assert spoilt.code in (1, 2), f"it did not come to an end: {spoilt.said[-4000:]}"
    assert done["last"] > skip, f"it ended {spoilt.verdict}, and no call was disturbed: {spoilt.said[-4000:]}"
    return done["done"], stops, done["last"]


Labs = Callable[[], AbstractContextManager[CutLab]]


@pytest.fixture
def labs(tmp_path_factory: pytest.TempPathFactory) -> Labs:
    """Its own site for each walk, with the rights of a recovery."""

    @contextmanager
    def one() -> Iterator[CutLab]:
        lab = DrillLab(tmp_path_factory.mktemp("matrix"), "second", 1)
        try:
            with lab.recovering():
                yield CutLab(lab)
        finally:
            lab.down()

    return one


DRAWN = random.Random(os.environ.get("DRILLBOOK_SEED", "12"))  # noqa: S311 - a sample, not a secret
SAMPLE = [
    (runbook, DRAWN.choice(sorted(CALLS)), DRAWN.choice(sorted(SPOILT)), DRAWN.randint(1, 8))
    for runbook in DRAWN.sample((*RECOVERIES, *UNDOES), 1)
]


@pytest.mark.soak
@pytest.mark.timeout(40000)
@pytest.mark.parametrize("kind", SPOILT)
@pytest.mark.parametrize("what", CALLS)
@pytest.mark.parametrize("runbook", CHOSEN)
def test_no_spoilt_call_makes_it_worse(labs: Labs, runbook: str, what: str, kind: str) -> None:
    skip, spoilt, walks, ended_early = 0, 0, 0, 1
    while ended_early:
        with labs() as lab:
            count, _, ended_early = spoil_each(lab, runbook, what, kind, skip)
        skip, spoilt, walks = ended_early, spoilt + count, walks + 1
        assert walks < 40, "the walks come to no end"
    assert spoilt, "the runbook makes no such call behind its gate"


@pytest.mark.long
@pytest.mark.parametrize(("runbook", "what", "kind", "number"), SAMPLE)
def test_a_sample_of_the_matrix(labs: Labs, runbook: str, what: str, kind: str, number: int) -> None:
    with labs() as lab:
        spoil(lab, runbook, what, kind, number)
