"""A histogram of latencies that is merged over processes: 16 buckets for each power of two, as HdrHistogram has them. Pure.

A bucket is at most a sixteenth as wide as its lower end, and a percentile answers its middle: at most 1/32 off (3.2 %),
from 1 µs to an hour. What is longer counts as the longest. Times are in seconds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Self

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

ERROR = 1 / 32
"""How far a percentile is off at most, relative to it."""
_PARTS = 16
_LONGEST = 3600_000_000  # µs


def _bucket(microseconds: int) -> int:
    """The number of the bucket: exact up to 31 µs, then by the four bits after the leading one."""
    shift = max(0, microseconds.bit_length() - 5)
    return shift * _PARTS + (microseconds >> shift)


def _middle(bucket: int) -> float:
    """The middle of a bucket in seconds."""
    shift = max(0, bucket // _PARTS - 1)
    low = (bucket - shift * _PARTS) << shift
    return (low + ((1 << shift) - 1) / 2) / 1e6


class Latencies:
    """How often each latency occurred."""

    def __init__(self, counts: Mapping[int, int] | None = None) -> None:
        self._counts: Counter[int] = Counter(counts or {})

    @classmethod
    def merged(cls, parts: Iterable[Self]) -> Self:
        """All of them together; the same as if one had counted everything."""
        found = cls()
        for part in parts:
            found._counts.update(part._counts)
        return found

    @classmethod
    def from_pairs(cls, pairs: Iterable[Iterable[int]]) -> Self:
        """As ``pairs`` wrote it."""
        return cls(dict(tuple(pair) for pair in pairs))  # type: ignore[misc]

    def pairs(self) -> list[tuple[int, int]]:
        """Bucket and count, for a process to write as JSON."""
        return sorted(self._counts.items())

    @classmethod
    def __get_pydantic_core_schema__(cls, _: Any, __: GetCoreSchemaHandler) -> CoreSchema:
        """As a field of a model: its buckets and counts."""
        pair = core_schema.tuple_schema([core_schema.int_schema(ge=0), core_schema.int_schema(ge=0)])
        read = core_schema.no_info_after_validator_function(cls.from_pairs, core_schema.list_schema(pair))
        return core_schema.json_or_python_schema(
            json_schema=read,
            python_schema=core_schema.union_schema([core_schema.is_instance_schema(cls), read]),
            serialization=core_schema.plain_serializer_function_ser_schema(cls.pairs),
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Latencies) and self._counts == other._counts

    def __hash__(self) -> int:
        return hash(tuple(self.pairs()))

    def add(self, seconds: float) -> None:
        """Count one; a negative one, of a clock that went back, as 0."""
        self._counts[_bucket(min(max(0, round(seconds * 1e6)), _LONGEST))] += 1

    def __len__(self) -> int:
        return sum(self._counts.values())

    def percentile(self, percent: float) -> float:
        """The latency that ``percent`` % are no longer than, to within ``ERROR``; 0 of none."""
        if not 0 <= percent <= 100:
            raise ValueError(f"{percent} is not a percentage")
        count = len(self)
        rank = max(1, -int(-count * percent // 100))
        for bucket in sorted(self._counts):
            rank -= self._counts[bucket]
            if rank <= 0:
                return _middle(bucket)
        return 0.0

    def mean(self) -> float:
        """The mean, to within ``ERROR``; 0 of none."""
        count = len(self)
        return sum(_middle(bucket) * times for bucket, times in self._counts.items()) / count if count else 0.0


__all__ = ["ERROR", "Latencies"]
