"""CRC-32C (Castagnoli), the checksum of a WAL record: Google's library, in C."""

from __future__ import annotations

import google_crc32c


def crc32c(*parts: bytes) -> int:
    """The checksum of the parts, one after the other."""
    crc = 0
    for part in parts:
        crc = google_crc32c.extend(crc, part)
    return int(crc)
