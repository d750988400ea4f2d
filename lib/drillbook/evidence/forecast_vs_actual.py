"""A run's forecast next to what it achieved; computed from the journal like the rest of the record.

A journal without a forecast gives no such group, so that records of runs before there was one stay what they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_RECOVERY = ("provision", "fetch", "replay", "promote")


def achieved_seconds(record: Mapping[str, Any]) -> dict[str, float]:
    """Seconds of each phase that the record shows; a phase seen twice counts as its sum.

    `verify` is what the steps between recovery and comparison took, without the time in which nobody pressed a key.
    """
    found: dict[str, float] = {}
    for phase in record["when"]["phases"]:
        found[phase["name"]] = found.get(phase["name"], 0.0) + float(phase["seconds"])
    if "verify" not in found and (steps := _verifying(record["steps"])):
        found["verify"] = sum(float(step["seconds"] or 0.0) for step in steps)
    return found


def _verifying(steps: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    names = [step.get("step") for step in steps]
    if "WaitForRecovery" not in names or "CompareWithObjectives" not in names:
        return []
    between = steps[names.index("WaitForRecovery") + 1 : names.index("CompareWithObjectives")]
    return [step for step in between if step["status"] == "done"]


def compare(predicted: Mapping[str, Any], record: Mapping[str, Any]) -> dict[str, Any]:
    """The forecast as it was made, and each of its figures next to the achieved one.

    ``off`` is (forecast − achieved) ÷ achieved; ``within`` says whether the achieved time lay in the forecast's
    interval.
    """
    achieved = achieved_seconds(record)
    if all(name in achieved for name in _RECOVERY):
        achieved["recovery time"] = sum(achieved[name] for name in _RECOVERY)
    whole = {"name": "recovery time"} | {key: predicted.get(key) for key in ("seconds", "low", "high")}
    rows = [_row(item, achieved.get(str(item["name"]))) for item in [whole, *(predicted.get("phases") or [])]]
    return {"predicted": dict(predicted), "compared": rows}


def _row(item: Mapping[str, Any], seconds: float | None) -> dict[str, Any]:
    likely, low, high = item.get("seconds"), item.get("low"), item.get("high")
    row: dict[str, Any] = {
        "name": item["name"],
        "forecast_seconds": likely,
        "low_seconds": low,
        "high_seconds": high,
        "achieved_seconds": seconds,
        "off": None,
        "within": None,
    }
    if seconds and likely is not None:
        row["off"] = (likely - seconds) / seconds
    if seconds is not None and low is not None and high is not None:
        row["within"] = low <= seconds <= high
    return row


__all__ = ["achieved_seconds", "compare"]
