"""WAL segments read as recovery would read them, a bounded sample of what the archive holds."""

from __future__ import annotations

import time
from collections.abc import Container, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from drillbook.archive.layout import ArchivedSegment
from drillbook.archive.protocol import ObjectStore
from drillbook.archive.wal_files import read_segment
from drillbook.errors import ObjectStoreError, WalGap
from drillbook.postgres.wal import WalFormatError, WalReader

SAMPLES = 32
"""How many segments of one server are read, unless given."""

_AT_ONCE = 4


class CorruptSegment(NamedTuple):
    """A segment that recovery would stop at: it can't be unpacked, is torn, damaged, cold or another system's."""

    segment: ArchivedSegment
    state: str  # damaged, cold or lost
    found: str


def sample_names(names: Sequence[str], count: int, *, first: Iterable[str] = ()) -> list[str]:
    """At most ``count`` of ``names`` (ascending): those of ``first`` that are among them, the last, and evenly spread ones."""
    known = set(names)
    chosen = dict.fromkeys([*names[-1:], *(name for name in first if name in known)])
    left = count - len(chosen)
    if left > 0:
        chosen |= dict.fromkeys(names if len(names) <= left else names[:: -(-len(names) // left)])
    return sorted(list(chosen)[:count])


def read_sample(
    store: ObjectStore,
    segments: Sequence[ArchivedSegment],
    *,
    system_id: str = "",
    ends: Container[str] = (),
    most_seconds: float = 60,
) -> tuple[list[CorruptSegment], int]:
    """Read each of ``segments`` and check every record of it; those that are corrupt, and how many were read in ``most_seconds``.

    Those of ``ends`` may stop anywhere: they are the last of their timeline. ObjectStoreError: the store refused or
    did not answer.
    """
    end = time.monotonic() + most_seconds

    def look(segment: ArchivedSegment) -> CorruptSegment | bool:
        if time.monotonic() > end:
            return False
        reader = WalReader(expected_system_id=system_id, checksums=True)
        try:
            reader.feed(segment.name, read_segment(store, segment))
        except WalGap as error:
            return CorruptSegment(segment, "damaged", error.what)
        except WalFormatError as error:
            return CorruptSegment(segment, "damaged", f"segment {error}, in the archive")
        except ObjectStoreError as error:
            if error.reason not in {"InvalidObjectState", "NoSuchKey"}:
                raise
            return CorruptSegment(segment, "cold" if error.reason == "InvalidObjectState" else "lost", error.what)
        if reader.stopped and segment.name not in ends:
            return CorruptSegment(
                segment, "damaged", f"segment {segment.name} in the archive is damaged: {reader.stopped}"
            )
        return True

    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="sampling") as pool:
        found = list(pool.map(look, segments))
    return [item for item in found if isinstance(item, CorruptSegment)], sum(item is not False for item in found)
