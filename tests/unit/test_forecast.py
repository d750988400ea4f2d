"""The forecast's arithmetic: from made-up runs and calibrations, without a cluster."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drillbook.forecast import ASSUMED, CALIBRATED, FROM_RUNS, Calibration, Rate, RunSample, Work, advise, predict
from drillbook.forecast.predict import scaled

NOW = datetime(2026, 11, 1, 10, tzinfo=UTC)
GB = 1_000_000_000


def work(**changes: object) -> Work:
    values = {
        "stored_bytes": GB,
        "data_bytes": GB,
        "compression": "",
        "segments": 4,
        "segment_bytes": 1 << 24,
        "wal_parallel": 2,
        "storage_class": "fast",
    }
    return Work.model_validate(values | changes)


def sample(
    number: int = 1, *, days: float = 30, scale: float = 1.0, times: float = 1.0, **changes: object
) -> RunSample:
    phases = {"provision": 1.0, "fetch": 10.0 * scale, "replay": 2.0, "promote": 3.0, "verify": 20.0 * scale}
    return RunSample(
        run_id=f"run-{number}",
        ended_at=NOW - timedelta(days=days),
        phases={k: v * times for k, v in phases.items()},
        work=work(stored_bytes=int(GB * scale), data_bytes=int(GB * scale), **changes),
    )


def calibration(**changes: object) -> Calibration:
    values = {
        "base_read": Rate(bytes=10**8, seconds=0.5),
        "wal_read": Rate(bytes=10**7, seconds=0.05),
        "wal_objects": 4,
        "pod_started_seconds": 2.0,
        "pod_ready_seconds": 1.0,
    }
    return Calibration.model_validate(values | changes)


def test_two_equal_runs_are_what_is_predicted() -> None:
    found = predict(work(), [sample(1), sample(2, days=60)], None)
    assert found.seconds == pytest.approx(16.0)
    assert (found.source, found.samples) == (FROM_RUNS, 2)
    assert found.low is not None and found.high is not None
    assert 0 < found.low < 16.0 < found.high
    assert found.phase("verify") is not None


def test_the_median_of_the_runs_is_likely_and_all_of_them_are_in_the_interval() -> None:
    found = predict(work(), [sample(n, times=times) for n, times in enumerate((1.0, 1.5, 6.0))], None)
    assert found.seconds == pytest.approx(16.0 * 1.5)
    assert found.low is not None and found.high is not None
    fetch = found.phase("fetch")
    assert fetch is not None and fetch.low is not None and fetch.high is not None
    assert fetch.low <= 10.0 and fetch.high >= 60.0


def test_more_agreeing_runs_narrow_the_interval() -> None:
    one = predict(work(), [sample(1)], None)
    five = predict(work(), [sample(n) for n in range(5)], None)
    assert one.high is not None and five.high is not None
    assert five.high < one.high


def test_five_times_the_data_widens_the_interval_and_scales_the_fetch() -> None:
    runs = [sample(1), sample(2, days=60)]
    small, large = (predict(work(stored_bytes=n * GB, data_bytes=n * GB), runs, None).phase("fetch") for n in (1, 5))
    assert small is not None and large is not None and small.seconds and large.seconds
    assert 4.0 < large.seconds / small.seconds <= 5.0
    assert small.high is not None and large.high is not None
    assert large.high / large.seconds > small.high / small.seconds


def test_a_run_of_another_size_is_scaled_and_keeps_its_fixed_part() -> None:
    assert scaled([(1e9, 7.0), (3e9, 17.0), (0.0, 4.0)], 2e9) == [pytest.approx(12.0), pytest.approx(12.0), 4.0]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"storage_class": "slow"}, "storage class was slow, is fast"),
        ({"compression": "gzip"}, "compression was gzip, is none"),
        ({"wal_parallel": 8}, "wal.maxParallel was 8, is 2"),
    ],
)
def test_a_run_under_other_circumstances_is_left_out_and_named(changes: dict[str, object], says: str) -> None:
    found = predict(work(), [sample(7, **changes)], None)
    assert found.samples == 0
    assert found.left_out == (f"run-7: {says}",)


def test_from_nothing_comes_no_figure() -> None:
    found = predict(work(), [], None)
    assert (found.seconds, found.low, found.high, found.source) == (None, None, None, "unknown")
    assert "no earlier run of this site" in found.unknown
    assert all(phase.seconds is None and phase.how for phase in found.phases)
    assert advise(found, (), by_plugin=True) == ()


def test_a_first_run_is_predicted_from_the_calibration() -> None:
    found = predict(work(), [], calibration())
    assert (found.source, found.samples) == (CALIBRATED, 0)
    fetch, verify = found.phase("fetch"), found.phase("verify")
    assert fetch is not None and fetch.seconds is not None and fetch.seconds > GB / (10**8 / 0.5)
    assert "200 MB/s" in fetch.how
    assert verify is not None and verify.seconds is None and "no earlier run" in verify.how


def test_what_no_read_can_show_is_named_an_assumption_and_is_wide() -> None:
    found = predict(work(), [], calibration(pod_started_seconds=None, pod_ready_seconds=None))
    provision = found.phase("provision")
    assert provision is not None and provision.source == ASSUMED
    assert provision.high is not None and provision.seconds is not None and provision.high > 5 * provision.seconds


@pytest.mark.parametrize(
    ("changes", "phase"),
    [({"base_read": None}, "fetch"), ({"wal_read": None, "wal_objects": 0}, "replay")],
)
def test_what_could_not_be_read_makes_the_whole_unknown(changes: dict[str, object], phase: str) -> None:
    found = predict(work(), [], calibration(notes=("AccessDenied (403)",), **changes))
    assert found.seconds is None
    assert found.unknown.startswith(f"{phase}: ")
    assert "AccessDenied" in found.unknown


def test_a_compression_that_could_not_be_unpacked_is_no_guess() -> None:
    found = predict(work(compression="snappy"), [], calibration())
    assert found.seconds is None
    assert "snappy" in found.unknown


sizes = st.integers(min_value=1, max_value=50 * 1000 * GB)


@given(
    sizes,
    sizes,
    st.integers(1, 100_000),
    st.integers(1, 100_000),
    st.booleans(),
    st.lists(st.tuples(st.floats(0.05, 200), st.floats(0.1, 50), st.floats(0, 900)), max_size=5),
)
def test_more_bytes_never_take_less_time(
    a: int, b: int, few: int, many: int, packed: bool, seen: list[tuple[float, float, float]]
) -> None:
    kind = "gzip" if packed else ""
    runs = [sample(n, scale=s, times=t, days=d, compression=kind) for n, (s, t, d) in enumerate(seen)]
    found = calibration(base_unpacked=Rate(bytes=10**8, seconds=1.0))
    (a, b), (few, many) = sorted((a, b)), sorted((few, many))
    less, more = (
        predict(work(stored_bytes=size, data_bytes=size, segments=n, compression=kind), runs, found)
        for size, n in ((a, few), (b, many))
    )
    assert less.seconds is not None and more.seconds is not None
    assert less.seconds <= more.seconds * (1 + 1e-9)
    for one, other in zip(less.phases, more.phases, strict=True):
        if one.seconds is not None and other.seconds is not None:
            assert one.low is not None and one.high is not None
            assert one.low <= one.seconds <= one.high
            assert one.seconds <= other.seconds * (1 + 1e-9)


@given(st.permutations(range(4)))
def test_the_order_in_which_runs_are_found_does_not_matter(order: list[int]) -> None:
    runs = [sample(n, scale=1 + n, days=10 * n + 1) for n in range(4)]
    expected = predict(work(), runs, None)
    assert predict(work(), [runs[n] for n in order], None) == expected


# -- what would shorten it ----------------------------------------------------------------------------------


def advice(
    found_work: Work, runs: list[RunSample], found: Calibration | None, by_plugin: bool = True
) -> dict[str, float | None]:
    forecast = predict(found_work, runs, found)
    return {item.setting: item.saves_seconds for item in advise(forecast, tuple(runs), by_plugin=by_plugin)}


def test_a_newer_base_backup_is_worth_what_its_replay_saves() -> None:
    runs = [sample(1, segments=400).model_copy(update={"phases": sample().phases | {"replay": 62.0}})]
    saves = advice(work(segments=400), runs, None)["a newer base backup"]
    assert saves == pytest.approx((62 - 2) * 398 / 400, rel=0.01)
    assert "a newer base backup" not in advice(work(segments=2), [sample(1, segments=2)], None)


def test_compression_is_worth_what_was_measured_and_nothing_otherwise() -> None:
    slow_unpacking = calibration(base_unpacked=Rate(bytes=10**8, seconds=2.0))
    gained = advice(work(compression="gzip", stored_bytes=GB // 4), [], slow_unpacking)
    assert gained["data.compression: none"] == pytest.approx(20.0 - 0.75 * 5.0)
    slow_network = calibration(base_read=Rate(bytes=10**8, seconds=20.0), base_unpacked=Rate(bytes=10**8, seconds=0.1))
    assert "data.compression: none" not in advice(work(compression="gzip", stored_bytes=GB // 4), [], slow_network)
    assert advice(work(), [sample(1)], None)["data.compression"] is None


def test_max_parallel_is_named_without_a_figure_and_in_tree_as_ignored() -> None:
    assert advice(work(segments=100), [sample(1, segments=100)], None)["wal.maxParallel"] is None
    runs = [sample(1, segments=100, wal_parallel=1)]
    found = predict(work(segments=100, wal_parallel=1), runs, None)
    (item,) = (i for i in advise(found, tuple(runs), by_plugin=False) if i.setting == "wal.maxParallel")
    assert "in-tree" in item.what and item.saves_seconds is None


def test_data_jobs_is_never_advised() -> None:
    assert "data.jobs" not in advice(work(), [sample(1)], calibration())
