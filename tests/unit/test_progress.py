"""What a run is doing now, seen from outside of its cell: after a reload JupyterLab draws nothing more there."""

from __future__ import annotations

from pathlib import Path

import pytest

from drillbook.engine.observations import Observations, with_time
from drillbook.engine.progress import doing
from drillbook.engine.show import Display
from drillbook.evidence import Masker

STARTED = {"type": "step_started", "n": 3, "title": "Wait for the copy", "at": "2026-11-01T10:15:00.000000Z"}


@pytest.fixture
def told(tmp_path: Path) -> Observations:
    folder = tmp_path / "recover-point-in-time" / "20261101T101500Z-1a2b3c"
    folder.mkdir(parents=True)
    return Observations(folder, Masker())


def begin(told: Observations, n: int = 3) -> None:
    told.begin(n, "Wait for the copy", Display(told.masker.mask))


def test_users_a5_what_the_running_step_said_last_is_seen_from_outside(told: Observations) -> None:
    begin(told)
    told.progress("replaying", fraction=0.62, rows=(("segment", "000000010000000000000004"),))
    said = doing(told.folder, [STARTED])
    assert said.startswith(
        "step 3 (Wait for the copy) since 10:15:00 UTC: 62%, replaying; segment: 000000010000000000000004 ("
    )


def test_users_a5_it_says_the_step_alone_where_that_has_said_nothing(told: Observations) -> None:
    begin(told, 2)
    told.progress("of the step before")  # and its process was killed
    assert doing(told.folder, [STARTED]) == "step 3 (Wait for the copy) since 10:15:00 UTC"


@pytest.mark.parametrize("events", [[], [STARTED, {"type": "step_finished", "n": 3}]])
def test_users_a5_between_two_steps_nothing_is_said(told: Observations, events: list[dict[str, object]]) -> None:
    begin(told)
    told.progress("replaying")
    assert doing(told.folder, events) == ""


def test_users_a5_no_secret_is_said_and_nothing_of_it_lies_in_the_evidence(told: Observations) -> None:
    told.masker.register("very-secret")
    begin(told)
    told.progress("very-secret", rows=(("password", "very-secret"),))
    assert "very-secret" not in doing(told.folder, [STARTED])
    assert not [path for path in told.folder.rglob("*") if "progress" in path.name]
    told.doing.forget()
    told.doing.forget()
    assert list(told.folder.parent.iterdir()) == [told.folder]
    assert list((told.folder.parent.parent / ".progress").iterdir()) == []


def test_users_a5_a_folder_that_can_not_be_written_stops_no_step(told: Observations) -> None:
    begin(told)
    (told.folder.parent.parent / ".progress").write_text("a file where a folder should be")
    told.progress("replaying")
    assert doing(told.folder, [STARTED]).startswith("step 3")


def test_c17_a_progress_says_how_long_its_step_takes_so_far() -> None:
    rows = (("segment", "000000010000000000000004"),)
    assert with_time(rows, 0.5) == [*rows], "a short step needs no time"
    assert with_time(rows, 75.4) == [*rows, ("running for", "1 min 15 s")]
    waits = (("waited", "12 s, at most 3 min"),)
    assert with_time(waits, 75.4) == [*waits], "said once"
