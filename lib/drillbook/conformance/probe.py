"""A probe: one fact about CloudNativePG that the runbooks rely on, asked of a cluster instead of believed.

A probe makes its own small things, looks, and says one of three: the cluster *agrees* with the fact, it *differs*
(and how), or the question *can't be asked* here (and why). It never says agrees because nothing contradicted it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from drillbook.conformance.environment import ProbeEnvironment


class State(StrEnum):
    """What a probe found."""

    AGREES = "agrees"
    DIFFERS = "differs"
    CANT_ASK = "can't be asked"


class Differs(Exception):
    """The cluster does something else than the fact says; the text says what."""


class CantAsk(Exception):
    """The question can't be put to this cluster; the text says why."""


@dataclass(frozen=True)
class Probe:
    """``section`` is the subject under which the facts are listed; ``needs`` says what the ground must offer."""

    name: str
    section: str
    fact: str
    needs: str
    ask: Callable[[ProbeEnvironment], str]


@dataclass(frozen=True)
class ProbeResult:
    """What one probe found, in its own words, and how long it took."""

    probe: Probe
    state: State
    seen: str
    seconds: float


PROBES: dict[str, Probe] = {}
"""Every probe by name, in the order in which they are asked."""


def probe(section: str, fact: str, *, needs: str = "api") -> Callable[[Callable[[ProbeEnvironment], str]], Probe]:
    """Make a function a probe: its name with hyphens is the probe's, its answer is what was seen.

    ``needs`` is ``api`` (objects that are only judged, or never run), ``cluster`` (a small Cluster of the probe's own)
    or ``archive`` (that Cluster with an object store that it may write to).
    """

    def register(ask: Callable[[ProbeEnvironment], str]) -> Probe:
        name = ask.__name__.replace("_", "-")
        if name in PROBES:
            raise ValueError(f"two probes are named {name}")
        PROBES[name] = Probe(name, section, fact, needs, ask)
        return PROBES[name]

    return register
