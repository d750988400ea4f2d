"""Decompression of what barman-cloud archives: WAL in every form that CloudNativePG offers, and base backups.

barman writes one gzip, bzip2, xz, lz4 or zstd stream an object. Snappy is in its framing format: chunks of one byte
type, three bytes length and the data with its checksum, a header chunk first and perhaps again later.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import zlib
from collections.abc import Callable
from io import BytesIO

import cramjam
import lz4.frame
import zstandard

from drillbook.errors import ObjectStoreError, WalGap

_SNAPPY_HEADER = b"\xff\x06\x00\x00sNaPpY"
_CHUNK_HEAD = 4
_COMPRESSED, _PLAIN, _FIRST_SKIPPABLE = 0x00, 0x01, 0x80
_LONGEST_CHUNK = 4 + 76_490  # a checksum, and 64 KiB of what can't be compressed
_PIECE = 1 << 20

SNAPPY_TAIL = 2 * (_LONGEST_CHUNK + _CHUNK_HEAD)
"""How many of an object's last bytes surely hold a whole chunk that ends there."""


class Unpackable(ValueError):
    """Bytes that are not what their object's ending says."""


def decompress(data: bytes, compression: str, *, name: str, limit: int) -> bytes:
    """``data`` decompressed, at most ``limit`` bytes and a little more.

    WalGap: it is damaged (recovery would stop there too). ObjectStoreError: the compression is not known.
    """
    try:
        match compression:
            case "":
                return data
            case "gzip":
                with gzip.GzipFile(fileobj=BytesIO(data)) as stream:
                    return stream.read(limit + 1)
            case "bzip2":
                with bz2.BZ2File(BytesIO(data)) as stream:
                    return stream.read(limit + 1)
            case "xz":
                with lzma.LZMAFile(BytesIO(data)) as stream:
                    return stream.read(limit + 1)
            case "lz4":
                with lz4.frame.LZ4FrameFile(BytesIO(data)) as stream:
                    return bytes(stream.read(limit + 1))
            case "zstd":
                return _zstd(data, limit)
            case "snappy":
                return _snappy(data, limit)
    except Exception as error:  # each library has errors of its own; all mean the same here
        raise WalGap(
            f"{name} in the archive is damaged: {compression} says {type(error).__name__}: {error}",
            todo="Recovery stops at this segment. Take a new base backup, and find out what damaged the object.",
        ) from error
    raise _not_known(compression, name)


def _zstd(data: bytes, limit: int) -> bytes:
    unpack, parts, size = zstandard.ZstdDecompressor().decompressobj(), [], 0
    for at in range(0, len(data), _PIECE):
        parts.append(unpack.decompress(data[at : at + _PIECE]))
        size += len(parts[-1])
        if size > limit:
            return b"".join(parts)
    if not unpack.eof:
        raise Unpackable("the frame is cut")
    return b"".join(parts)


def _snappy(data: bytes, limit: int) -> bytes:
    unpack, parts, size = _SnappyStream(), [], 0
    for at in range(0, len(data), _PIECE):
        parts.append(unpack.feed(data[at : at + _PIECE]))
        size += len(parts[-1])
        if size > limit:
            return b"".join(parts)
    if unpack.pending:
        raise Unpackable("the last chunk is cut")
    return b"".join(parts)


def unpacker(compression: str, *, name: str) -> Callable[[bytes], bytes]:
    """A function that takes an object's next stored bytes and gives what they unpack to.

    It raises Unpackable for bytes that are damaged. ObjectStoreError: the compression is not known.
    """
    feed: Callable[[bytes], bytes]
    match compression:
        case "":
            return lambda part: part
        case "gzip":
            feed = zlib.decompressobj(zlib.MAX_WBITS | 16).decompress
        case "bzip2":
            feed = bz2.BZ2Decompressor().decompress
        case "xz":
            feed = lzma.LZMADecompressor().decompress
        case "lz4":
            feed = lz4.frame.LZ4FrameDecompressor().decompress
        case "zstd":
            feed = zstandard.ZstdDecompressor().decompressobj().decompress
        case "snappy":
            feed = _SnappyStream().feed
        case _:
            raise _not_known(compression, name)

    def guarded(part: bytes) -> bytes:
        try:
            return bytes(feed(part))
        except Exception as error:  # each library has errors of its own; all mean the same here
            raise Unpackable(f"{compression} says {type(error).__name__}: {error}") from error

    return guarded


class _SnappyStream:
    """Whole chunks as they come: the library takes no part of one."""

    def __init__(self) -> None:
        self.pending = b""

    def feed(self, part: bytes) -> bytes:
        data = self.pending + part
        end = _whole_chunks(data, 0)
        self.pending = data[end:]
        return _unframed(data[:end]) if end else b""


def snappy_tail(tail: bytes) -> bytes:
    """What the whole chunks at the end of an object's last bytes unpack to; b"" if no chunk ends where the object does.

    Where the first whole chunk begins is not known, so it is looked for: from there on one chunk follows the other to
    the very end, and each one's checksum is right.
    """
    for start in range(min(len(tail), _LONGEST_CHUNK + _CHUNK_HEAD + 1)):
        if tail[start] not in (_COMPRESSED, _PLAIN, _SNAPPY_HEADER[0]):
            continue
        if _whole_chunks(tail, start) == len(tail):
            try:
                return _unframed(tail[start:])
            except Exception:  # noqa: S112 - these bytes are no chunks; the library's errors have no common base
                continue
    return b""


def _whole_chunks(data: bytes, start: int) -> int:
    """Where the last of the whole chunks from ``start`` on ends: before what can't be a chunk's head, or is not whole."""
    at = start
    while at + _CHUNK_HEAD <= len(data):
        kind, length = data[at], int.from_bytes(data[at + 1 : at + _CHUNK_HEAD], "little")
        if (kind < _FIRST_SKIPPABLE and (kind > _PLAIN or length > _LONGEST_CHUNK)) or at + _CHUNK_HEAD + length > len(
            data
        ):
            break
        at += _CHUNK_HEAD + length
    return at


def _unframed(chunks: bytes) -> bytes:
    header = b"" if chunks.startswith(_SNAPPY_HEADER) else _SNAPPY_HEADER
    return bytes(cramjam.snappy.decompress(header + chunks))


def _not_known(compression: str, name: str) -> ObjectStoreError:
    return ObjectStoreError(
        f"{name} is compressed with {compression!r}, which is not known here",
        reason="UnsupportedCompression",
        todo="Use gzip, bzip2, xz, lz4, snappy or zstd.",
    )
