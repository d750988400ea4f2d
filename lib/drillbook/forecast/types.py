"""The words of a forecast as frozen types; sizes in bytes, times in seconds."""

from __future__ import annotations

import math

from drillbook.model import Frozen, Instant
from drillbook.report import cards

RECOVERY = ("provision", "fetch", "replay", "promote")
"""The phases that make up the recovery time, in their order; `verify` and `cut over` come after it."""

FROM_RUNS, CALIBRATED, ASSUMED, UNKNOWN = "earlier runs", "calibration", "assumption", "unknown"


class Work(Frozen):
    """What a recovery has to do."""

    stored_bytes: int  # the base backup as it is in the bucket
    data_bytes: int  # the data directory that it becomes; 0 if backup.info doesn't say
    compression: str  # of the base backup; "" is none
    segments: int  # WAL to fetch
    segment_bytes: int
    wal_parallel: int = 1  # segments that are fetched at once; 0 is not known
    storage_class: str = ""

    @property
    def moved_bytes(self) -> int:
        """Bytes over the network and onto the volume: what the fetch is proportional to."""
        return self.stored_bytes + max(self.data_bytes, self.stored_bytes)

    @property
    def wal_bytes(self) -> int:
        """WAL to be replayed, at most."""
        return self.segments * self.segment_bytes


class RunSample(Frozen):
    """What one earlier, sealed run of this site needed."""

    run_id: str
    ended_at: Instant
    work: Work
    phases: dict[str, float]


class Rate(Frozen):
    """So many bytes in so many seconds, as measured."""

    bytes: int
    seconds: float

    @property
    def per_second(self) -> float:
        """Bytes a second; 0 if nothing was read."""
        return self.bytes / self.seconds if self.seconds > 0 else 0.0


class Calibration(Frozen):
    """What a short read of the real objects has shown, from where this runs. None is not measured, `notes` say why."""

    first_byte_seconds: float | None = None  # from the request for the base backup to its first bytes
    base_read: Rate | None = None  # stored bytes of the base backup, after the first
    base_unpacked: Rate | None = None  # bytes after decompression, without the read
    base_ratio: float | None = None  # bytes after decompression ÷ stored bytes, of the part that was read
    wal_read: Rate | None = None  # stored bytes of WAL segments
    wal_objects: int = 0
    wal_unpack_seconds: float = 0.0
    pod_started_seconds: float | None = (
        None  # from a pod's creation to its running containers, the slowest of the source
    )
    pod_ready_seconds: float | None = None  # from there to Ready
    notes: tuple[str, ...] = ()


class PhaseForecast(Frozen):
    """One phase: the likely time and the interval it should be in; all None if it is unknown, and `how` says why."""

    name: str
    seconds: float | None
    low: float | None
    high: float | None
    source: str
    how: str

    @property
    def known(self) -> bool:
        """Whether there is a figure."""
        return self.seconds is not None


class Advice(Frozen):
    """A setting that would shorten the recovery; `saves_seconds` is None where the gain can't be computed."""

    setting: str
    what: str
    saves_seconds: float | None = None


class Forecast(Frozen):
    """The whole forecast; `seconds` is the recovery time, None if one of its phases is unknown."""

    work: Work
    phases: tuple[PhaseForecast, ...]
    seconds: float | None
    low: float | None
    high: float | None
    source: str
    samples: int
    sample_runs: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    unknown: str = ""
    calibration: Calibration | None = None
    advice: tuple[Advice, ...] = ()

    def card(self) -> dict[str, str]:
        """What is in its step's card, below the check."""
        return cards.forecast_card(self.model_dump(mode="json"))

    def _ipython_display_(self) -> None:
        """Nothing: the step's card has shown it."""

    def phase(self, name: str) -> PhaseForecast | None:
        """The phase of this name."""
        return next((phase for phase in self.phases if phase.name == name), None)


def spread(phases: list[PhaseForecast]) -> tuple[float, float, float]:
    """Sum of the likely times and its interval: independent errors add by their squares."""
    seconds = sum(phase.seconds or 0.0 for phase in phases)
    down = math.sqrt(sum(((phase.seconds or 0.0) - (phase.low or 0.0)) ** 2 for phase in phases))
    up = math.sqrt(sum(((phase.high or 0.0) - (phase.seconds or 0.0)) ** 2 for phase in phases))
    return seconds, max(0.0, seconds - down), seconds + up
