"""Whether what is restored fits on the volumes that the new cluster will declare, asked while nothing has been touched.

Measured is what the base backup says of itself and what is in the bucket. Estimated is how much WAL is on a volume at
once, and how a compressed backup spreads over tablespaces. Only what is known to be too small stops a recovery.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from drillbook.engine.step import CheckStep, Context
from drillbook.errors import RunbookError
from drillbook.manifests import recovery as manifests
from drillbook.model import AskedTarget, BaseBackup, Check, Verdict
from drillbook.profile import size_bytes
from drillbook.profile.fields import COPY, REPLACEMENT, carried
from drillbook.report.cards import show_bytes
from drillbook.steps.archive.restore_point import RestoreStart
from drillbook.steps.archive.targets import resolve_target
from drillbook.steps.preflight.old_cluster import OldCluster, as_it_was

DATA, WAL = "storage", "walStorage"
RESERVE = 0.05  # of a volume: CloudNativePG stops PostgreSQL before the last byte is gone
_MAX_WAL = 2**30  # PostgreSQL's max_wal_size where the Cluster sets none


@dataclass(frozen=True)
class Need:
    """Bytes that one volume must hold: ``least`` is known, ``likely`` an estimate; how each is known, in words."""

    least: int
    likely: int
    how: str


def declared(spec: Mapping[str, Any]) -> dict[str, int]:
    """The bytes that a Cluster asks of each volume, by the field that asks; 0 where no size can be read.

    ``size`` counts before ``pvcTemplate``, as in CloudNativePG.
    """
    sections: dict[str, Any] = {DATA: spec.get(DATA) or {}}
    sections |= {WAL: spec[WAL]} if spec.get(WAL) else {}
    sections |= {tablespace(item["name"]): item.get("storage") or {} for item in spec.get("tablespaces") or []}
    found = {}
    for name, section in sections.items():
        template = (section.get("pvcTemplate") or {}).get("resources") or {}
        asked = section.get("size") or (template.get("requests") or {}).get("storage") or ""
        try:
            found[name] = size_bytes(str(asked))
        except ValueError:
            found[name] = 0
    return found


def tablespace(name: str) -> str:
    """The field that declares a tablespace's volume."""
    return f"tablespaces[{name}].storage"


def needs(backup: BaseBackup, spec: Mapping[str, Any], wal_bytes: int | None) -> dict[str, Need]:
    """What each volume of a recovery from this backup must hold, by the field that declares it; ``wal_bytes`` None is unknown."""
    packed = bool(backup.compression)
    spaces = dict(backup.stored_bytes_of)
    stored = {
        DATA: backup.size_bytes - sum(spaces.values()),
        **{tablespace(name): size for name, size in spaces.items()},
    }
    total = max(backup.cluster_size_bytes, backup.size_bytes)
    found = {}
    for name, size in stored.items():
        if not spaces and backup.cluster_size_bytes:
            least = likely = backup.cluster_size_bytes
            how = f"{show_bytes(least)} of data (measured: cluster_size of the base backup)"
        elif not packed:
            least = likely = size
            how = f"{show_bytes(size)} of data (measured: its tars, not compressed)"
        else:
            least, likely = size, total * size // max(1, backup.size_bytes)
            how = f"at least {show_bytes(least)} of data (measured: its tars, {backup.compression}), {show_bytes(likely)} likely (estimated)"
        found[name] = Need(least, likely, how)
    place = WAL if spec.get(WAL) else DATA
    parameters = (spec.get("postgresql") or {}).get("parameters") or {}
    bound = _postgres_bytes(str(parameters.get("max_wal_size", ""))) or _MAX_WAL
    if wal_bytes is None:
        least, likely, how = (
            0,
            bound,
            f"{show_bytes(bound)} of WAL (estimated: max_wal_size; how much is replayed isn't known)",
        )
    else:
        # Restartpoints remove what was replayed; PostgreSQL asks for one after half of max_wal_size at the earliest.
        least, likely = min(wal_bytes, bound // 2), min(wal_bytes, bound)
        how = f"{show_bytes(likely)} of WAL (estimated: of {show_bytes(wal_bytes)} to the target, at most max_wal_size is there at once)"
    data = found.get(place)
    found[place] = (
        Need(data.least + least, data.likely + likely, f"{data.how} and {how}") if data else Need(least, likely, how)
    )
    return found


def judged(
    backup: BaseBackup, spec: Mapping[str, Any], wal_bytes: int | None
) -> tuple[list[str], list[str], list[tuple[str, str]]]:
    """Which volumes are too small, what can't be said, and what each holds and needs: all in words."""
    volumes, faults, unknown, details = declared(spec), [], [], []
    for name, need in needs(backup, spec, wal_bytes).items():
        size = volumes.get(name)
        words = f"{show_bytes(size) if size else 'no size'} declared; {need.how}"
        if size is None:
            faults.append(f"{name} is not declared, and the base backup holds that tablespace: {need.how}")
        elif not size:
            unknown.append(f"{name}: the Cluster names no size; {need.how}")
        elif size < need.least:
            faults.append(f"{name}: {words}")
        elif size < need.likely + int(size * RESERVE):
            unknown.append(f"{name} may be too small, with {RESERVE:.0%} that must stay free: {words}")
        details.append((name, words))
    if backup.compression and not backup.cluster_size_bytes:
        unknown.append("how large the data is: the base backup is compressed and says nothing of it (cluster_size)")
    if backup.stored_bytes_of and all(volumes.get(name) for name in volumes):
        total = sum(size for name, size in volumes.items() if name != WAL)
        if total < backup.cluster_size_bytes:
            faults.append(
                f"all volumes together: {show_bytes(total)} declared; {show_bytes(backup.cluster_size_bytes)} of data (measured: cluster_size of the base backup)"
            )
    return faults, unknown, details


def _postgres_bytes(text: str) -> int:
    """A size as PostgreSQL's configuration has it: a number is megabytes, for max_wal_size; 0 for what is none."""
    units = {"kB": 2**10, "MB": 2**20, "": 2**20, "GB": 2**30, "TB": 2**40}
    number = text.strip().rstrip("kMGTB ")
    unit = text.strip()[len(number) :].strip()
    return int(number) * units[unit] if number.isdigit() and unit in units else 0


@dataclass(frozen=True)
class RoomForReplacement(CheckStep):
    """Whether the volumes that the new cluster will declare hold what is restored: data, WAL, each tablespace.

    What the base backup takes is measured, what is there of WAL at once is estimated. A volume that is known to be
    too small stops the run before anything has been touched; what isn't known is shown.
    """

    old: OldCluster
    point: RestoreStart
    name: ClassVar[str] = "room"
    proves: ClassVar[str] = "what is restored fits on the volumes that the new cluster declares"

    def observe(self, ctx: Context) -> Sequence[Check]:
        source = as_it_was(ctx, self.old)["spec"]
        wal = self._wal_bytes(ctx)
        return [
            self._judge(
                "the new cluster",
                carried(REPLACEMENT, source)[0],
                wal,
                "storage of the Cluster (or replacement of the profile, where it is gone)",
            ),
            *self._copies(ctx, source, wal),
        ]

    def _copies(self, ctx: Context, source: dict[str, Any], wal: int | None) -> Sequence[Check]:
        return ()

    def _wal_bytes(self, ctx: Context) -> int | None:
        """How much WAL is replayed; None if the archive doesn't say: its own step judges it."""
        try:
            wal = (self.point.resolved or resolve_target(ctx, self.old, AskedTarget())).wal
        except RunbookError:
            return None
        return wal.segments * self.point.backup.segment_bytes

    def _judge(self, whose: str, spec: dict[str, Any], wal: int | None, where: str) -> Check:
        backup = self.point.backup
        faults, unknown, details = judged(backup, spec, wal)
        said: dict[str, Any] = {"name": f"{self.name}: {whose}", "details": tuple(details[:12])}
        expected = f"room for base backup {backup.backup_id} and the WAL after it on each volume"
        if faults:
            observed = f"{'; '.join(faults)}. Nothing was touched: enlarge it in {where}, then open a new run"
            return self.result(Verdict.FAILED, expected=expected, observed=observed, **said)
        if unknown:
            return self.result(Verdict.UNPROVEN, required=False, expected=expected, reason="; ".join(unknown), **said)
        return self.result(Verdict.VERIFIED, expected=expected, observed="every volume is large enough", **said)


@dataclass(frozen=True)
class RoomInPlace(RoomForReplacement):
    """Whether the volumes of the copy, and those of the new cluster, hold what is restored: data, WAL, each tablespace.

    What the base backup takes is measured, what is there of WAL at once is estimated. A volume that is known to be
    too small stops the run before anything has been touched; what isn't known is shown.
    """

    def _copies(self, ctx: Context, source: dict[str, Any], wal: int | None) -> Sequence[Check]:
        spec, _ = carried(COPY, source)
        manifests.apply_storage(ctx.site, spec)
        return [self._judge("the copy", spec, wal, "copy.storage_size of the profile")]


__all__ = ["DATA", "WAL", "Need", "RoomForReplacement", "RoomInPlace", "declared", "judged", "needs", "tablespace"]
