"""Decompression of what barman-cloud and CloudNativePG archive.

gzip, bzip2 and xz are in Python's standard library. lz4, snappy and zstd need a package that the core does not ask
for; where it is missing, the error names it.
"""

from __future__ import annotations

import bz2
import gzip
import importlib
import lzma
import zlib
from collections.abc import Callable
from io import BytesIO
from typing import Any

from drillbook.errors import ObjectStoreError, WalGap

_PACKAGES = {"lz4": ("lz4.frame", "lz4"), "snappy": ("cramjam", "cramjam"), "zstd": ("zstandard", "zstandard")}


def decompress(data: bytes, compression: str, *, name: str, limit: int) -> bytes:
    """``data`` decompressed, at most ``limit`` bytes and one more.

    WalGap: it is damaged (recovery would stop there too). ObjectStoreError: the package for it is not installed.
    """
    if compression == "":
        return data
    if compression in _PACKAGES:
        module = _package(compression, name)
    try:
        match compression:
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
                with module.LZ4FrameFile(BytesIO(data)) as stream:
                    return bytes(stream.read(limit + 1))
            case "zstd":
                with module.ZstdDecompressor().stream_reader(BytesIO(data)) as stream:
                    return bytes(stream.read(limit + 1))
            case "snappy":
                return bytes(module.snappy.decompress(data))
    except Exception as error:  # each library has errors of its own; all mean the same here
        raise WalGap(
            f"{name} in the archive is damaged: {compression} says {type(error).__name__}: {error}",
            todo="Recovery stops at this segment. Take a new base backup, and find out what damaged the object.",
        ) from error
    raise _not_known(compression, name)


class Unpackable(ValueError):
    """Bytes that are not what their object's ending says."""


def unpacker(compression: str, *, name: str) -> Callable[[bytes], bytes]:
    """A function that takes an object's next stored bytes and gives what they unpack to.

    It raises Unpackable for bytes that are damaged. ObjectStoreError: the package for it is not installed.
    """
    if not compression:
        return lambda part: part
    feed: Callable[[bytes], bytes]
    match compression:
        case "gzip":
            feed = zlib.decompressobj(zlib.MAX_WBITS | 16).decompress
        case "bzip2":
            feed = bz2.BZ2Decompressor().decompress
        case "xz":
            feed = lzma.LZMADecompressor().decompress
        case "lz4":
            feed = _package(compression, name).LZ4FrameDecompressor().decompress
        case "zstd":
            feed = _package(compression, name).ZstdDecompressor().decompressobj().decompress
        case "snappy":
            feed = _snappy(_package(compression, name).snappy.Decompressor())
        case _:
            raise _not_known(compression, name)

    def guarded(part: bytes) -> bytes:
        try:
            return bytes(feed(part))
        except Exception as error:  # each library has errors of its own; all mean the same here
            raise Unpackable(f"{compression} says {type(error).__name__}: {error}") from error

    return guarded


def _snappy(stream: Any) -> Callable[[bytes], bytes]:
    def feed(part: bytes) -> bytes:
        stream.decompress(part)
        return bytes(stream.flush())

    return feed


def _not_known(compression: str, name: str) -> ObjectStoreError:
    return ObjectStoreError(
        f"{name} is compressed with {compression!r}, which is not known here",
        reason="UnsupportedCompression",
        todo="Use gzip, bzip2, xz, lz4, snappy or zstd.",
    )


def _package(compression: str, name: str) -> Any:
    module, package = _PACKAGES[compression]
    try:
        return importlib.import_module(module)
    except ImportError:
        raise ObjectStoreError(
            f"{name} is compressed with {compression}, which needs the Python package {package}",
            reason="UnsupportedCompression",
            todo=f"Install {package} beside drillbook (pip install {package}).",
        ) from None
