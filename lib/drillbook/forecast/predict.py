"""From work, earlier runs and a calibration to phases with intervals. Pure; more bytes never give less time.

A phase's time is a fixed part and the rest in proportion to its bytes. Earlier runs of this site are scaled to this
size: their median is the likely time, their shortest and longest the interval, wider the fewer they are and the further
their sizes. Without runs the rates are the calibration's, and what no read can show is an assumption with a wide
interval, named as one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

from drillbook.forecast.types import (
    ASSUMED,
    CALIBRATED,
    FROM_RUNS,
    RECOVERY,
    UNKNOWN,
    Calibration,
    Forecast,
    PhaseForecast,
    Rate,
    RunSample,
    Work,
    spread,
)

LEAST_SPREAD = 0.10  # two runs that happen to agree prove less than that
FIXED_SECONDS = 2.0  # of a phase that grows with its bytes: what does not


@dataclass(frozen=True)
class Span:
    """An assumption: likely, and from where to where; seconds, or bytes a second."""

    low: float
    likely: float
    high: float

    def plus(self, other: Span, times: float = 1.0) -> Span:
        """The sum, the other one taken so many times."""
        return Span(self.low + times * other.low, self.likely + times * other.likely, self.high + times * other.high)


# What can't be measured from here. They are wide because clusters differ; a single run of one's own replaces them.
PROGRAM_START = Span(0.2, 0.6, 3.0)  # one barman-cloud-* program, to its first request
SERVER_START = Span(0.1, 0.4, 5.0)  # PostgreSQL, to the start of redo
SERVER_END = Span(0.3, 1.2, 20.0)  # checkpoint at the end of recovery, shutdown, the job's end seen by the operator
OPERATOR = Span(0.5, 1.0, 20.0)  # volume, certificates, service accounts; then the job
POD_UNKNOWN = Span(2.0, 15.0, 120.0)  # schedule, attach, pull, start
WRITE_RATE = Span(80e6, 350e6, 1500e6)  # bytes a second onto the copy's volume, tar unpacked by Python
REDO_RATE = Span(20e6, 100e6, 400e6)  # WAL bytes a second
READ_DOUBT = 0.35  # a read of some seconds against one of the whole
# Programs that are started one after the other, besides those that fetch WAL in batches.
FETCH_PROGRAMS = 3  # backup list, probe of the first segment, restore
REPLAY_PROGRAMS = 1  # the next timeline's history file
PROMOTE_PROGRAMS = 2  # the history files again, to find a free timeline
_SIZES: dict[str, Callable[[Work], float]] = {
    "provision": lambda work: 0.0,
    "fetch": lambda work: float(work.moved_bytes),
    "replay": lambda work: float(work.wal_bytes),
    "promote": lambda work: 0.0,
    "verify": lambda work: float(max(work.data_bytes, work.stored_bytes)),
    "cut over": lambda work: 0.0,
}


def predict(
    work: Work,
    samples: Sequence[RunSample],
    calibration: Calibration | None,
    *,
    left_out: Sequence[str] = (),
) -> Forecast:
    """The forecast of each phase and of the recovery time; a phase that nothing is known of is unknown."""
    newest_first = sorted(samples, key=lambda sample: sample.ended_at, reverse=True)
    fitting = [sample for sample in newest_first if comparable(sample.work, work)]
    names = [*RECOVERY, "verify"] + (["cut over"] if any("cut over" in sample.phases for sample in fitting) else [])
    phases = [_phase(name, work, fitting, calibration) for name in names]
    unknown = "; ".join(f"{phase.name}: {phase.how}" for phase in phases if phase.name in RECOVERY and not phase.known)
    counted = [phase for phase in phases if phase.name in RECOVERY]
    seconds, low, high = spread(counted)
    used = [sample for sample in fitting if any(name in sample.phases for name in RECOVERY)]
    source = UNKNOWN if unknown else FROM_RUNS if used else CALIBRATED
    skipped = [f"{sample.run_id}: {_unlike(sample.work, work)}" for sample in newest_first if sample not in fitting]
    return Forecast(
        work=work,
        phases=tuple(phases),
        seconds=None if unknown else seconds,
        low=None if unknown else low,
        high=None if unknown else high,
        source=source,
        samples=len(used),
        sample_runs=tuple(sample.run_id for sample in used),
        left_out=(*left_out, *skipped),
        unknown=unknown,
        calibration=calibration,
    )


def comparable(sample: Work, work: Work) -> bool:
    """Whether a run says something about this work: same storage class, compression and parallelism."""
    return not _unlike(sample, work)


def _unlike(sample: Work, work: Work) -> str:
    pairs = (
        ("storage class", sample.storage_class, work.storage_class),
        ("compression", sample.compression or "none", work.compression or "none"),
        ("wal.maxParallel", sample.wal_parallel or work.wal_parallel, work.wal_parallel),
    )
    return ", ".join(f"{name} was {then}, is {now}" for name, then, now in pairs if then != now)


def _phase(name: str, work: Work, samples: Sequence[RunSample], calibration: Calibration | None) -> PhaseForecast:
    seen = [sample for sample in samples if name in sample.phases]
    if seen:
        return _from_runs(name, work, seen)
    if name == "verify":
        return _unknown(name, "no earlier run has verified a copy of this site; its own queries set the time")
    if calibration is None:
        return _unknown(name, "no earlier run of this site, and the archive was not read")
    if name == "provision":
        return _provision(calibration)
    if name == "promote":
        return _promote(calibration)
    return _fetch(work, calibration) if name == "fetch" else _replay(work, calibration)


def _unknown(name: str, why: str) -> PhaseForecast:
    return PhaseForecast(name=name, seconds=None, low=None, high=None, source=UNKNOWN, how=why)


# -- from earlier runs -----------------------------------------------------------------------------------


def _from_runs(name: str, work: Work, samples: Sequence[RunSample]) -> PhaseForecast:
    size = _SIZES[name]
    points = [(size(sample.work), sample.phases[name]) for sample in samples]
    wanted = size(work)
    times = scaled(points, wanted)
    seconds = median(times)
    doubt = math.exp(LEAST_SPREAD * (1 + 2 / len(points)) + 0.1 * _reach(wanted, [x for x, _ in points]))
    runs = "run" if len(points) == 1 else "runs"
    rate = f", {1e-6 * wanted / seconds:,.0f} MB/s" if wanted and seconds else ""
    return PhaseForecast(
        name=name,
        seconds=seconds,
        low=min(times) / doubt,
        high=max(times) * doubt,
        source=FROM_RUNS,
        how=f"{len(points)} earlier {runs}{rate}",
    )


def scaled(points: Sequence[tuple[float, float]], wanted: float) -> list[float]:
    """The seconds of each of the (bytes, seconds) points as they would be for ``wanted`` bytes.

    The fixed part is cut to nine tenths of the shortest time; a phase without bytes does not grow.
    """
    fixed = min(FIXED_SECONDS, 0.9 * min(time for _, time in points))
    return [fixed + (time - fixed) * wanted / size if size > 0 else time for size, time in points]


def _reach(wanted: float, sizes: Sequence[float]) -> float:
    """How many doublings this size is outside of those that were seen."""
    if wanted <= 0 or min(sizes) <= 0:
        return 0.0
    return max(0.0, math.log2(wanted / max(sizes)), math.log2(min(sizes) / wanted))


# -- from a calibration ----------------------------------------------------------------------------------


def _assumed(name: str, span: Span, source: str, how: str) -> PhaseForecast:
    return PhaseForecast(name=name, seconds=span.likely, low=span.low, high=span.high, source=source, how=how)


def _time(size: float, rate: Span) -> Span:
    return Span(size / rate.high, size / rate.likely, size / rate.low)


def _measured(size: float, rate: Rate) -> Span:
    likely = size * rate.seconds / rate.bytes
    return Span(likely * (1 - READ_DOUBT), likely, likely * (1 + READ_DOUBT))


def _provision(found: Calibration) -> PhaseForecast:
    if found.pod_started_seconds is None:
        how = "no pod of the source shows how long a start takes: an assumption"
        return _assumed("provision", OPERATOR.plus(POD_UNKNOWN), ASSUMED, how)
    started = found.pod_started_seconds
    pod = Span(0.5 * started, started, 2 * started + 10)
    how = f"the source's slowest pod took {started:.0f} s to start; the operator's part is an assumption"
    return _assumed("provision", OPERATOR.plus(pod), CALIBRATED, how)


def _promote(found: Calibration) -> PhaseForecast:
    ending = SERVER_END.plus(PROGRAM_START, PROMOTE_PROGRAMS)
    if found.pod_started_seconds is None or found.pod_ready_seconds is None:
        how = "no pod of the source shows how long a start takes: an assumption"
        return _assumed("promote", ending.plus(POD_UNKNOWN), ASSUMED, how)
    ready = found.pod_started_seconds + found.pod_ready_seconds
    how = f"the source's slowest pod took {ready:.0f} s to be ready; checkpoint and job's end are an assumption"
    return _assumed("promote", ending.plus(Span(0.5 * ready, ready, 2 * ready + 10)), CALIBRATED, how)


def _fetch(work: Work, found: Calibration) -> PhaseForecast:
    read = found.base_read
    if read is None or read.per_second <= 0:
        return _unknown("fetch", "nothing of the base backup could be read" + _because(found))
    data = float(max(work.data_bytes, work.stored_bytes))
    delay = found.first_byte_seconds or 0.0
    span = Span(0.5 * delay, delay, 2 * delay).plus(PROGRAM_START, FETCH_PROGRAMS)
    span = span.plus(_measured(work.stored_bytes, read))
    told = [f"read at {read.per_second / 1e6:,.0f} MB/s"]
    if found.base_unpacked is not None and found.base_unpacked.per_second > 0:
        span = span.plus(_measured(data, found.base_unpacked))
        told.append(f"{work.compression} unpacked at {found.base_unpacked.per_second / 1e6:,.0f} MB/s")
    elif work.compression:
        return _unknown("fetch", f"how fast {work.compression} is unpacked could not be measured" + _because(found))
    span = span.plus(_time(data, WRITE_RATE))
    told.append("the volume's speed is an assumption")
    return _assumed("fetch", span, CALIBRATED, ", ".join(told))


def _replay(work: Work, found: Calibration) -> PhaseForecast:
    if found.wal_read is None or not found.wal_objects or found.wal_read.per_second <= 0:
        return _unknown("replay", "no WAL segment could be read" + _because(found))
    each = (found.wal_read.seconds + found.wal_unpack_seconds) / found.wal_objects
    reading = work.segments * each
    batches = math.ceil(work.segments / max(1, work.wal_parallel))
    span = SERVER_START.plus(PROGRAM_START, REPLAY_PROGRAMS + batches)
    span = span.plus(Span(0.65 * reading, reading, 1.35 * reading)).plus(_time(work.wal_bytes, REDO_RATE))
    how = f"{work.segments} segments at {each * 1000:.0f} ms each; start-ups and redo are assumptions"
    return _assumed("replay", span, CALIBRATED, how)


def _because(found: Calibration) -> str:
    return f" ({'; '.join(found.notes)})" if found.notes else ""
