"""The figures of the README, measured on this machine: `make bench`.

Ratios are of pairs that ran one after the other in this run. Writes `outputs/bench/latest.json` and prints a table.
SCALE is the size of the recovered cluster in gigabytes. A figure that could not be measured is null, and `how` says
why. Exit status: 0 all limits kept, 1 one was missed, 2 one was not measured.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import digest_cost
import off_lab
import on_lab
import wal_rate
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Iterator

SCALE = float(os.environ.get("SCALE", "0.2"))
PAIRS = 3
STEPS = 20
RUNS = 1000
NAMES = (10_000, 100_000, 1_000_000)
RESULT = on_lab.ROOT / "outputs" / "bench" / "latest.json"

out = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 200)


@dataclass(frozen=True)
class Row:
    """One figure; it is ok if it is at most ``limit``. ``value`` and ``ok`` are None where nothing was measured."""

    name: str
    value: float | None
    unit: str
    limit: float
    ok: bool | None
    how: str


@dataclass(frozen=True)
class Wanted:
    """A row before it is measured."""

    name: str
    unit: str
    limit: float

    def row(self, value: float | None, how: str) -> Row:
        """The row with its value; the load of the machine is reported next to it."""
        ok = None if value is None else value <= self.limit
        shown = None if value is None else round(value, 3)
        return Row(self.name, shown, self.unit, self.limit, ok, f"{how}; {_load()}")


LAB_UP = Wanted("lab up, default data", "s", 20)
RECOVERY = Wanted("drill's recovery ÷ by hand", "×", 1.10)
FORECAST_FIRST = Wanted("forecast off by, first run (calibration)", "×", 0.40)
FORECAST = Wanted("forecast off by, after two runs", "×", 0.20)
NOOP = Wanted("no-op runbook ÷ papermill", "×", 1.5)
NOOP_MORE = Wanted("no-op runbook − papermill", "s", 5)
CHAIN = Wanted("WAL chain, 1,000,000 segments", "s", 5)
CHAIN_MEMORY = Wanted("WAL chain, 1,000,000 segments: memory", "MB", 300)
CHAIN_LINEAR = Wanted("WAL chain, time a name: 1,000,000 ÷ 10,000", "×", 1.5)
WAL_READ = Wanted("WAL read for its commits, one core", "s/GB", 40)
WAL_CHANGES = Wanted("WAL read for deletes and drops, one core", "s/GB", 40)
WAL_COMMITS = Wanted("WAL read, time a commit", "µs", 100)
COPY = Wanted("amcheck of a copy, 3,000 tables ÷ pg_amcheck", "×", 1.2)
DIGEST = Wanted("rows digested, one session", "s/GB", 40)
TENANTS = Wanted("five tenants: bytes digested ÷ budget", "×", 1)
TENANTS_MEMORY = Wanted("five tenants: memory ÷ that at a tenth of the size", "×", 1.1)
TENANTS_SESSIONS = Wanted("five tenants: sessions", "", digest_cost.LIMIT)
VERIFY = Wanted("verify 1,000 sealed runs", "s", 10)
VERIFY_SIGNED = Wanted("verify 1,000 signed runs", "s", 10)
TEST = Wanted("last make test", "s", 360)
CI = Wanted("last .ci/run", "s", 2700)


def lab_up(folder: Path) -> list[Row]:
    """`lab up` to its end: healthy, archiving, first backup completed."""
    seconds = []
    for number in range(PAIRS):
        with lab(folder / f"up{number}") as running:
            seconds.append(running.up_seconds)
    return [LAB_UP.row(statistics.median(seconds), f"the whole command, median of {_list(seconds)}")]


def recovery(folder: Path) -> list[Row]:
    """From the job's first log line, and from the first command, to `archive recovery complete`; and the same drills'
    forecasts: the first has nothing but a short read of the archive to go by, the third has two runs."""
    with lab(folder / "recovery", SCALE * 1000) as up:
        running = on_lab.with_few_rows_compared(up)
        pairs = [on_lab.recovery_pair(running) for _ in range(PAIRS)]
    size = pairs[0].backup_bytes / 1e9
    how = (
        f"{size:.2f} GB (SCALE={SCALE:g}), {pairs[0].segments} WAL segments; drill {_list([p.drill_seconds for p in pairs])}, "
        f"by hand {_list([p.hand_seconds for p in pairs])}; from the job's first log line to the end of recovery in the log"
    )
    told = f"of the recovery time, {size:.2f} GB; " + ", ".join(str(pair.forecast) for pair in pairs)
    return [
        RECOVERY.row(statistics.median(pair.ratio for pair in pairs), how),
        FORECAST_FIRST.row(pairs[0].forecast.off, told),
        FORECAST.row(pairs[-1].forecast.off, told),
    ]


def noop(folder: Path) -> list[Row]:
    """The same notebook headless and by papermill alone; who goes first alternates."""
    notebook = on_lab.write_noop(folder, STEPS)
    measures = [on_lab.headless_seconds, on_lab.papermill_seconds]
    taken: dict[str, list[float]] = {measure.__name__: [] for measure in measures}
    with lab(folder / "noop", 2) as running:
        on_lab.papermill_seconds(running, notebook)  # the first one reads every module from the disk
        for number in range(PAIRS):
            for measure in measures if number % 2 == 0 else reversed(measures):
                taken[measure.__name__].append(measure(running, notebook))
    ours, plain = taken.values()
    how = f"{STEPS} steps, mode apply, sealed and reported; {_list(ours)}, papermill {_list(plain)}"
    ratio = statistics.median(a / b for a, b in zip(ours, plain, strict=True))
    more = statistics.median(a - b for a, b in zip(ours, plain, strict=True))
    return [NOOP.row(ratio, how), NOOP_MORE.row(more, "the same pairs")]


def chain(_: Path) -> list[Row]:
    """Each size in its own process."""
    costs = [off_lab.chain_cost(names) for names in NAMES]
    told = ", ".join(f"{cost.names:,}: {cost.seconds * 1000:.1f} ms" for cost in costs)
    each = [cost.seconds / cost.names for cost in costs]
    memory = "peak resident set of its own process, the listing included"
    return [
        CHAIN.row(costs[-1].seconds, f"given the listing, best of three; {told}"),
        CHAIN_MEMORY.row(costs[-1].megabytes, memory),
        CHAIN_LINEAR.row(each[-1] / each[0], f"1 is linear; in ns a name {', '.join(f'{t * 1e9:.0f}' for t in each)}"),
    ]


def wal_read(_: Path) -> list[Row]:
    """Our reader and pg_waldump on the same segments, in turn."""
    found = wal_rate.measure()
    tool = f"pg_waldump --quiet {found.waldump:,.0f} MB/s, its --rmgr=Transaction {found.waldump_commits:,.0f} MB/s"
    how = f"{found.megabytes:,.0f} MB of pgbench's WAL, full_page_writes off, best of three"
    return [
        WAL_READ.row(
            1000 / found.reader,
            f"{found.reader:,.0f} MB/s, every checksum too {found.checksums:,.0f} MB/s; {tool}; {how}",
        ),
        WAL_CHANGES.row(1000 / found.changes, f"{found.changes:,.0f} MB/s; {tool}"),
        WAL_COMMITS.row(
            1e6 / found.commits_per_second, f"{found.commits_per_second:,.0f} commits a second in the same reading"
        ),
    ]


def copy(_: Path) -> list[Row]:
    """Our amcheck and pg_amcheck with as many jobs, in turn."""
    found = digest_cost.side_by_side()
    how = f"{digest_cost.TABLES:,} tables, {digest_cost.JOBS} jobs each, indexes against heaps; {_list(found.ours)}, pg_amcheck {_list(found.theirs)}"
    return [COPY.row(found.ratio, how)]


def digests(_: Path) -> list[Row]:
    """The rate of one session, and five tenants within a budget; TENANT_MB is the size of each."""
    rate, size = digest_cost.digest_rate()
    small, large = digest_cost.tenants(digest_cost.TENANT_MB / 10), digest_cost.tenants()
    how = (
        f"{large.total:,.0f} MB in all (TENANT_MB={digest_cost.TENANT_MB:g}), budget {large.budget:,.0f} MB: {large.counted:,.0f} MB "
        f"digested, {large.sampled} tables sampled, {large.unproven} unproven; PostgreSQL read {large.read:,.0f} MB, index and "
        f"second reading included, in {large.seconds:.0f} s"
    )
    return [
        DIGEST.row(1000 / rate, f"{rate:,.0f} MB/s of a table of {size:,.0f} MB, best of three"),
        TENANTS.row(large.counted / large.budget, how),
        TENANTS_MEMORY.row(
            large.peak_mb / small.peak_mb,
            f"{large.peak_mb:,.0f} MB and {small.peak_mb:,.0f} MB, the peak of its own process",
        ),
        TENANTS_SESSIONS.row(large.most_sessions, "the most at once of a role whose CONNECTION LIMIT this is"),
    ]


def verify(folder: Path) -> list[Row]:
    """`drillbook verify` over everything, before and after each run was signed."""
    outputs = folder / "sealed"
    files = off_lab.make_runs(outputs, RUNS)
    plain = VERIFY.row(off_lab.verify_seconds(outputs), f"the whole command, {files:,} files")
    trust = off_lab.sign_runs(outputs, folder / "keys")
    signed = off_lab.verify_seconds(outputs, trust)
    return [plain, VERIFY_SIGNED.row(signed, "the same runs, two ed25519 envelopes each, with --trust")]


def last_runs(_: Path) -> list[Row]:
    """What `make test` and `.ci/run` wrote down."""
    rows = []
    for wanted, name, program in ((TEST, "test", "make test"), (CI, "ci", ".ci/run")):
        seconds = off_lab.last_seconds(name)
        how = f"not measured: outputs/bench/last-{name}.json is not there; run {program}"
        rows.append(wanted.row(seconds, f"as {program} wrote it down" if seconds is not None else how))
    return rows


MEASURES: list[tuple[Callable[[Path], list[Row]], tuple[Wanted, ...]]] = [
    (lab_up, (LAB_UP,)),
    (recovery, (RECOVERY, FORECAST_FIRST, FORECAST)),
    (noop, (NOOP, NOOP_MORE)),
    (chain, (CHAIN, CHAIN_MEMORY, CHAIN_LINEAR)),
    (wal_read, (WAL_READ, WAL_CHANGES, WAL_COMMITS)),
    (copy, (COPY,)),
    (digests, (DIGEST, TENANTS, TENANTS_MEMORY, TENANTS_SESSIONS)),
    (verify, (VERIFY, VERIFY_SIGNED)),
    (last_runs, (TEST, CI)),
]


@contextmanager
def lab(home: Path, data_mb: float | None = None) -> Iterator[on_lab.Lab]:
    """Its own lab, which is gone afterwards."""
    try:
        yield on_lab.up(home, data_mb)
    finally:
        on_lab.down(home)


def measured(measure: Callable[[Path], list[Row]], wanted: tuple[Wanted, ...], folder: Path) -> list[Row]:
    """The rows of one measurement; if it fails they are null, and say why."""
    try:
        return measure(folder)
    except Exception as error:  # the other figures are still worth having
        why = " ".join(str(error).split())[:300]
        return [item.row(None, f"not measured: {type(error).__name__}: {why}") for item in wanted]


def _list(seconds: list[float]) -> str:
    return " / ".join(f"{value:.1f}" for value in seconds) + " s"


def _load() -> str:
    return f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"


def show(rows: list[Row]) -> None:
    """The table."""
    table = Table(box=None, pad_edge=False)
    for heading in ("what", "value", "limit", "", "how"):
        table.add_column(heading, justify="right" if heading in ("value", "limit") else "left")
    for row in rows:
        value = "–" if row.value is None else f"{row.value:,.2f} {row.unit}"
        word = {True: "ok", False: "MISSED", None: "not measured"}[row.ok]
        table.add_row(row.name, value, f"≤ {row.limit:,g} {row.unit}", word, row.how)
    out.print(table)


def main(chosen: list[str]) -> int:
    """Measure everything, or what is named; only a full run is written down."""
    unknown = set(chosen) - {measure.__name__ for measure, _ in MEASURES}
    if unknown:
        out.print(f"there is no measurement {', '.join(sorted(unknown))}: {', '.join(m.__name__ for m, _ in MEASURES)}")
        return 4
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="drillbook-bench-") as name:
        for measure, wanted in MEASURES:
            if not chosen or measure.__name__ in chosen:
                out.print(f"measuring {measure.__name__} …", style="dim")
                rows += measured(measure, wanted, Path(name))
                for row in rows[-len(wanted) :]:
                    out.print(f"  {row.name}: {row.value} {row.unit}, {row.how}", style="dim", markup=False)
    if not chosen:
        RESULT.parent.mkdir(parents=True, exist_ok=True)
        RESULT.write_text(
            json.dumps([asdict(row) for row in rows], indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
        )
    show(rows)
    return 1 if any(row.ok is False for row in rows) else 2 if any(row.ok is None for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
