"""Decompression of what barman-cloud and CloudNativePG archive.

gzip, bzip2 and xz are in Python's standard library. lz4, snappy and zstd need a package that the core does not ask
for; where it is missing, the error names it.
"""

from __future__ import annotations

import bz2
import gzip
import importlib
import lzma
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
    raise ObjectStoreError(
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
