"""Large objects without memory: an upload's parts are joined in a file, and a stored body is sent from its file.

moto joins parts in memory, several times over, and reads a whole object for each range of it: a base backup of some
gigabytes would take more memory than a laptop has, and a look at its head as long as a look at all of it.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from moto.s3.exceptions import EntityTooSmall, InvalidPart, MalformedXML
from moto.s3.models import FakeKey, FakeMultipart, MultipartChecksumBuilder
from moto.settings import S3_UPLOAD_PART_MIN_SIZE
from moto.utilities.utils import md5_hash

_PIECE = 1 << 20
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


class JoinedInAFile(FakeMultipart):
    """An upload in parts whose whole is written to a file of ``folder``, and is never in memory."""

    folder: Path
    joined: Path | None

    @classmethod
    def adopt(cls, upload: FakeMultipart, folder: Path) -> None:
        """Make an upload that moto has begun one of these."""
        if type(upload) is FakeMultipart:
            upload.__class__ = cls
            upload.folder, upload.joined = folder, None  # type: ignore[attr-defined]

    def complete(self, body: Iterator[tuple[int, str]]) -> tuple[bytes, str, tuple[str, str, int] | None]:
        """As moto's, with an empty body: the whole is at ``joined``.

        The parts' own checksums are joined as asked. One of the whole object, which S3 makes where none was asked for,
        is left out.
        """
        asked = self.metadata.get("x-amz-checksum-algorithm")
        if self.metadata.get("x-amz-checksum-type") == "FULL_OBJECT" or asked == "CRC64NVME":
            return super().complete(body)
        parts = list(self._checked(body))
        checksums = MultipartChecksumBuilder(asked, "COMPOSITE") if asked else None
        md5s = b""
        joined = self.folder / uuid.uuid4().hex
        with joined.open("wb") as out:
            for part in parts:
                value = part.value
                out.write(value)
                md5s += bytes.fromhex(part.etag.strip('"'))
                if checksums is not None:
                    checksums.addPart(value)
        self.joined = joined
        etag = md5_hash()
        etag.update(md5s)
        return b"", f"{etag.hexdigest()}-{len(parts)}", checksums.build() if checksums is not None else None

    def _checked(self, body: Iterator[tuple[int, str]]) -> Iterator[FakeKey]:
        last: FakeKey | None = None
        for number, etag in body:
            part = self.parts.get(number)
            if part is None or part.etag.strip('"') != etag.strip('"'):
                raise InvalidPart()
            if last is not None and last.contentsize < S3_UPLOAD_PART_MIN_SIZE:
                raise EntityTooSmall()
            last = part
            yield part
        if last is None:
            raise MalformedXML()


def one_range(header: str, size: int) -> tuple[int, int] | None:
    """First byte and length of a range that can be served; None: it is for moto to say what is wrong with it."""
    found = _RANGE.fullmatch(header.strip())
    if found is None or not any(found.groups()) or not size:
        return None
    first, last = found.groups()
    if not first:  # the last so many
        length = min(int(last), size)
        return (size - length, length) if length else None
    begin, end = int(first), min(int(last) if last else size - 1, size - 1)
    return (begin, end - begin + 1) if begin <= end else None


def pieces(source: IO[bytes], first: int, length: int) -> Iterable[bytes]:
    """The bytes of an open file, which is closed at the end."""
    with source:
        source.seek(first)
        while length > 0:
            piece = source.read(min(_PIECE, length))
            if not piece:
                return
            length -= len(piece)
            yield piece
