"""A destructive section: the plans of its steps, the digest that a confirmation is bound to, and its phrase."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from drillbook.engine.step import Plan, Step
from drillbook.evidence import canonical, plain
from drillbook.evidence.canonical import sha256


def part_digest(step: Step[Any], plan: Plan) -> str:
    """What a confirmation of this step means: what it does to what, and with which words; no times, counts or notes."""
    return sha256(
        canonical(
            plain(
                {
                    "step": type(step).__name__,
                    "effect": str(step.effect),
                    "touches": plan.touches,
                    "objects": [_object(item) for item in plan.objects],
                    "sql": plan.sql,
                }
            )
        )
    )


def _object(item: Mapping[str, Any]) -> dict[str, Any]:
    """Kind, place and content. A Secret is named only: what is in it may be regenerated, and is nobody's to read."""
    metadata = item.get("metadata") or {}
    found = {"kind": item.get("kind"), "namespace": metadata.get("namespace"), "name": metadata.get("name")}
    if item.get("kind") == "Secret":
        return found
    return found | {key: item[key] for key in ("spec", "data") if key in item}


@dataclass(frozen=True)
class Part:
    """One step of a section with its plan; ``begun`` in an earlier attempt, its plan is the one of the journal."""

    step: Step[Any]
    shown: dict[str, Any]
    digest: str
    begun: bool = False


@dataclass(frozen=True)
class Section:
    """A destructive section as it was planned; a notebook hands it to ``run.confirm``."""

    title: str
    cluster: str
    parts: tuple[Part, ...]
    subject: Mapping[str, str] = field(default_factory=dict)
    """The run and what it was asked for: tenant, target. It is above the plan and is confirmed with it."""
    blocked: str = ""
    """Why there is nothing to confirm: an earlier step failed, or a plan can't be made."""
    begun: str = ""
    """The digest that this very plan was confirmed with in an earlier attempt, if one of its steps has begun since."""

    @property
    def steps(self) -> tuple[Step[Any], ...]:
        return tuple(part.step for part in self.parts)

    @property
    def digest(self) -> str:
        """SHA-256 over what the run was asked for and its steps' digests, in order."""
        return self.begun or sha256(canonical({"of": dict(self.subject), "steps": self.part_digests}))

    @property
    def part_digests(self) -> list[str]:
        """What is done, without why: equal for two targets whose measures are the same."""
        return [part.digest for part in self.parts]

    @property
    def phrase(self) -> str:
        """What is typed to confirm exactly this plan."""
        return f"{self.cluster} {self.digest[:8]}"

    @property
    def harmless(self) -> bool:
        """Whether none of its steps would do anything that had to be confirmed: nobody is asked about nothing."""
        return all(part.shown.get("harmless") for part in self.parts)

    @property
    def lost(self) -> list[str]:
        """What can't be restored."""
        return [line for part in self.parts for line in (part.shown.get("lost") or ())]

    @property
    def outage(self) -> list[str]:
        """What does not serve while it is done."""
        return [line for part in self.parts for line in (part.shown.get("outage") or ())]

    def part_of(self, step: Step[Any]) -> Part | None:
        """The part whose step is this very object, else an equal one: the cell that made the steps was run again."""
        same = next((part for part in self.parts if part.step is step), None)
        return same or next((part for part in self.parts if part.step == step), None)

    def _ipython_display_(self) -> None:
        """Nothing: its card has been shown."""


def subject(run_id: str, parameters: Mapping[str, Any]) -> dict[str, str]:
    """The run and each parameter that was given a value, in words: what two runs with equal plans differ in."""
    return {"run": run_id} | {name: str(value) for name, value in parameters.items() if value not in ("", None)}


def plan_json(plan: Plan) -> dict[str, Any]:
    """A plan as the journal keeps it."""
    found: dict[str, Any] = {
        "summary": plan.summary,
        "objects": list(plan.objects),
        "sql": list(plan.sql),
        "notes": list(plan.notes),
    }
    if plan.touches:
        found["touches"] = [str(touch) for touch in plan.touches]
    if plan.lost:
        found["lost"] = list(plan.lost)
    if plan.outage:
        found["outage"] = list(plan.outage)
    if plan.harmless:
        found["harmless"] = True
    return found
