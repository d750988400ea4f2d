"""Earlier runs as samples, and the forecast in record, report and card: over sealed evidence as it is on a disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from evidence_sample import FACTS, SITE, make_run, verified

from drillbook.evidence import record, verify
from drillbook.forecast import Forecast, PhaseForecast, Work, advise, predict, samples
from drillbook.model import parse_instant
from drillbook.report import cards
from drillbook.report import page as report

SYSTEM = "7437120459812345678"
NOW = parse_instant("2026-12-06T10:00:00Z")
WORK = Work(
    stored_bytes=6_241_119_402,
    data_bytes=21_474_836_480,
    compression="gzip",
    segments=56,
    segment_bytes=1 << 24,
    storage_class="rook-ceph-block",
)

Event = dict[str, Any]


def foretold(seconds: float = 300.0) -> Forecast:
    """A forecast of so many seconds, all of them fetch."""
    times = {"provision": 0.0, "fetch": seconds, "replay": 0.0, "promote": 0.0}
    phases = [
        PhaseForecast(
            name=name, seconds=time, low=0.8 * time, high=1.3 * time, source="earlier runs", how="2 earlier runs"
        )
        for name, time in times.items()
    ]
    unknown = PhaseForecast(name="verify", seconds=None, low=None, high=None, source="unknown", how="no earlier run")
    found = Forecast(
        work=WORK,
        phases=(*phases, unknown),
        seconds=seconds,
        low=0.8 * seconds,
        high=1.3 * seconds,
        source="earlier runs",
        samples=2,
        sample_runs=("a", "b"),
    )
    return found.model_copy(update={"advice": advise(found, (), by_plugin=True)})


def with_forecast(seconds: float = 300.0) -> list[Event]:
    """A good drill that made a forecast at its sixth step."""
    events = verified()
    at = next(n for n, event in enumerate(events) if event["type"] == "step_finished" and event["n"] == 6)
    value = foretold(seconds).model_dump(mode="json")
    events.insert(at, {"type": "fact", "n": 6, "name": "forecast", "value": value, "at": events[at]["at"]})
    return events


def test_sealed_runs_are_samples_newest_first(tmp_path: Path) -> None:
    ids = ["20261004T100002Z-00000a", "20261101T100002Z-00000b"]
    for run_id in ids:
        make_run(tmp_path, run_id)
    found = samples(tmp_path, SITE, SYSTEM)
    assert [sample.run_id for sample in found.samples] == ids[::-1]
    assert found.left_out == ()
    first = found.samples[0]
    assert first.work == WORK.model_copy(update={"wal_parallel": 0})
    assert first.phases == {
        "provision": 21.4,
        "fetch": 148.2,
        "replay": 71.6,
        "promote": 12.4,
        "verify": 25.1,
        "remove": 4.9,
    }
    forecast = predict(WORK, found.samples, None)
    assert forecast.samples == 2
    assert forecast.seconds == pytest.approx(253.6)


def test_a_run_whose_evidence_was_touched_is_no_sample_and_is_named(tmp_path: Path) -> None:
    kept, touched = make_run(tmp_path, "20261004T100002Z-00000a"), make_run(tmp_path, "20261101T100002Z-00000b")
    text = (touched / "record.json").read_text()
    (touched / "record.json").write_text(text.replace('"seconds":148.2', '"seconds":48.2'))
    found = samples(tmp_path, SITE, SYSTEM)
    assert [sample.run_id for sample in found.samples] == [kept.name]
    assert found.left_out[0].startswith(f"{touched.name}: ")
    assert "record.json" in found.left_out[0]


def test_a_run_that_the_ledger_does_not_know_is_no_sample(tmp_path: Path) -> None:
    folder = make_run(tmp_path)
    (tmp_path / "ledger" / f"{SITE}.jsonl").unlink()
    found = samples(tmp_path, SITE, SYSTEM)
    assert found.samples == ()
    assert folder.name in found.left_out[0]


@pytest.mark.parametrize(("site", "system"), [("another", SYSTEM), (SITE, "1")])
def test_another_sites_or_systems_runs_are_passed_over(tmp_path: Path, site: str, system: str) -> None:
    make_run(tmp_path)
    assert samples(tmp_path, site, system).samples == ()


def test_a_run_without_a_recovered_copy_is_passed_over(tmp_path: Path) -> None:
    kept = [event for event in verified() if event.get("name") != "reached"]
    make_run(tmp_path, events=kept)
    assert samples(tmp_path, SITE, SYSTEM).samples == ()
    assert samples(None, SITE, SYSTEM).samples == ()


def test_a_record_holds_the_forecast_beside_what_was_achieved_and_verifies(tmp_path: Path) -> None:
    folder = make_run(tmp_path, events=with_forecast(300.0))
    assert verify(tmp_path) == []
    kept = json.loads((folder / "record.json").read_bytes())
    compared = {row["name"]: row for row in kept["forecast"]["compared"]}
    whole = compared["recovery time"]
    assert (whole["forecast_seconds"], whole["achieved_seconds"]) == (300.0, pytest.approx(253.6))
    assert whole["off"] == pytest.approx((300 - 253.6) / 253.6)
    assert whole["within"] is True
    assert compared["fetch"]["within"] is False
    assert (compared["verify"]["forecast_seconds"], compared["verify"]["achieved_seconds"]) == (None, 25.1)
    assert kept["facts"].keys() == {"achieved", "rights"}
    measured = {item["name"]: item for item in kept["objectives"]["measured"]}
    assert measured["recovery time"]["forecast_seconds"] == 300.0
    assert "forecast_seconds" not in measured["recovery point"]


def test_a_run_that_made_no_forecast_has_the_record_that_it_always_had(tmp_path: Path) -> None:
    found = record(verified())
    assert "forecast" not in found
    assert not any("forecast_seconds" in item for item in found["objectives"]["measured"])
    make_run(tmp_path)
    assert verify(tmp_path) == []


def test_without_a_phase_of_that_name_verifying_takes_what_its_steps_took() -> None:
    events = [event for event in with_forecast() if not (event["type"] == "phase" and event["name"] == "verify")]
    compared = {row["name"]: row for row in record(events)["forecast"]["compared"]}
    assert compared["verify"]["achieved_seconds"] == pytest.approx(0.1 + 0.1 + 24.8)


def test_the_report_shows_the_forecast_beside_what_was_achieved() -> None:
    page = report.html(record(with_forecast(300.0)))
    assert "Forecast and achieved" in page
    assert "From 2 earlier runs of this site" in page
    assert "+18 %" in page
    assert "volume snapshots" in page
    assert "forecast 5 min" in page
    assert "Forecast and achieved" not in report.html(record(verified()))


def test_the_verdict_card_and_the_forecasts_own_card_tell_it() -> None:
    assert "forecast 5 min" in cards.verdict_card(record(with_forecast(300.0)))["text/plain"]
    card = foretold(300.0).card()
    assert "5 min" in card["text/plain"] and "4 min to 6 min 30 s" in card["text/html"]
    assert "unknown" in card["text/plain"]


def test_an_unknown_forecast_says_why_and_shows_no_figure() -> None:
    nothing = predict(WORK, [], None)
    card = nothing.card()
    assert card["text/plain"].startswith("Unknown: provision: no earlier run of this site")


def test_the_sample_is_a_whole_drill() -> None:
    assert "achieved" in {name for facts in FACTS.values() for name, _ in facts}
