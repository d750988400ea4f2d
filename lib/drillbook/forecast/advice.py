"""What would shorten a recovery. A gain is reported only where it can be computed from what was measured; else it is named alone.

`data.jobs` is not among them: it speeds up the making of a base backup, but a restore of one is a single stream.
"""

from __future__ import annotations

from drillbook.forecast.predict import comparable, predict
from drillbook.forecast.types import Advice, Forecast, RunSample, Work
from drillbook.model import show_seconds

WORTH_SECONDS = 0.5
WORTH_SHARE = 0.02
FRESH_SEGMENTS = 2  # what a recovery from a backup that has just ended replays


def advise(found: Forecast, samples: tuple[RunSample, ...], *, by_plugin: bool) -> tuple[Advice, ...]:
    """Settings that would shorten the recovery, those with a computed gain first; empty if nothing is known."""
    if found.seconds is None:
        return ()
    advice = [
        *_newer_backup(found, samples),
        *_compression(found, samples),
        *_parallel(found, by_plugin),
        *_snapshots(found),
    ]
    worth = max(WORTH_SECONDS, WORTH_SHARE * found.seconds)
    kept = [item for item in advice if item.saves_seconds is None or item.saves_seconds >= worth]
    return tuple(sorted(kept, key=lambda item: -(item.saves_seconds or 0.0)))


def _time(found: Forecast, name: str) -> float:
    phase = found.phase(name)
    return (phase.seconds or 0.0) if phase else 0.0


def _again(found: Forecast, samples: tuple[RunSample, ...], name: str, **changes: object) -> float:
    """The same phase if the work were another; as the forecast itself computes it."""
    work = Work.model_validate(found.work.model_dump() | changes)
    return _time(predict(work, samples, found.calibration), name)


def _newer_backup(found: Forecast, samples: tuple[RunSample, ...]) -> list[Advice]:
    segments = found.work.segments
    if segments <= FRESH_SEGMENTS:
        return []
    saves = _time(found, "replay") - _again(found, samples, "replay", segments=FRESH_SEGMENTS)
    what = f"{segments} segments are between the base backup and the target; a fresh one leaves about {FRESH_SEGMENTS}"
    return [Advice(setting="a newer base backup", what=what, saves_seconds=max(0.0, saves))]


def _compression(found: Forecast, samples: tuple[RunSample, ...]) -> list[Advice]:
    work, read = found.work, found.calibration and found.calibration.base_read
    if not work.compression:
        what = "the base backup is stored plain; lz4 or snappy move fewer bytes, which pays where the network is slow"
        return [Advice(setting="data.compression", what=what)]
    data = max(work.data_bytes, work.stored_bytes)
    plain = work.model_copy(update={"compression": "", "stored_bytes": data})
    slow = "gzip, bzip2 and xz are unpacked by one core"
    if any(comparable(sample.work, plain) for sample in samples):
        saves = _time(found, "fetch") - _again(found, samples, "fetch", compression="", stored_bytes=data)
        what = f"by earlier runs that fetched it plain; {slow}"
    elif found.calibration and found.calibration.base_unpacked and read:
        unpacking = data * found.calibration.base_unpacked.seconds / found.calibration.base_unpacked.bytes
        saves = unpacking - (data - work.stored_bytes) * read.seconds / read.bytes
        what = f"stored plain it would be {data / work.stored_bytes:.1f} times the bytes, and nothing to unpack; {slow}"
    else:
        return [Advice(setting="data.compression", what=f"{work.compression} may be what the fetch waits for: {slow}")]
    return [Advice(setting="data.compression: none", what=what, saves_seconds=saves)]


def _parallel(found: Forecast, by_plugin: bool) -> list[Advice]:
    work = found.work
    if work.segments <= max(1, work.wal_parallel):
        return []
    if not by_plugin:
        what = "ignored by the in-tree method, which fetches one segment at a time; the Barman Cloud Plugin honours it"
        return [Advice(setting="wal.maxParallel", what=what)]
    what = f"{work.segments} segments are fetched {work.wal_parallel} at a time while others are replayed"
    return [Advice(setting="wal.maxParallel", what=what)]


def _snapshots(found: Forecast) -> list[Advice]:
    fetch = _time(found, "fetch")
    if not found.seconds or fetch < 0.5 * found.seconds:
        return []
    what = (
        f"a clone of a volume would be in the place of {show_seconds(fetch)} of fetch; how long one takes isn't known "
        "here (data.jobs would not help: a base restore is one stream)"
    )
    return [Advice(setting="volume snapshots", what=what)]


__all__ = ["advise"]
