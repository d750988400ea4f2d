"""Whether a base backup's tar files are whole: by the last bytes of each, and by reading them through where that is cheap.

barman fills a tar up to whole records, ends it with blocks of zeros, and puts ``backup_label`` last into the last
``data`` tar. What a ranged read of an object's last bytes can tell depends on its compression: without one all of this;
with snappy all but the length, since its last chunks unpack by themselves; with gzip that the length stated there is a
whole number of records' halves (1 in 2,048 cut tars would pass); with bzip2 and lz4 that the stream has its end mark.
The rest is known only by reading it through.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from enum import StrEnum
from typing import NamedTuple

from drillbook.archive.compression import SNAPPY_TAIL, Unpackable, snappy_tail, unpacker
from drillbook.archive.layout import PARALLEL
from drillbook.archive.protocol import ObjectInfo, ObjectStore
from drillbook.archive.tar_walk import BLOCK, RECORD, TarDamaged, TarWalk, member_name
from drillbook.errors import ObjectStoreError

READ_THROUGH = 64 << 20
"""How many stored bytes of one backup are read through at most, unless given."""

LABEL = "backup_label"
TAIL = 2 * RECORD
_PIECE = 1 << 20
_BZIP2_END = 0x177245385090
_LZ4_MAGIC = b"\x04\x22\x4d\x18"


class TarState(StrEnum):
    """What is known of a tar."""

    WHOLE = "whole"  # read through to its end
    ENDS = "ends as a whole one"  # its last bytes are a whole tar's; what is before them was not read
    UNREAD = "not known"
    CUT = "cut"
    DAMAGED = "damaged"
    EMPTY = "empty"
    COLD = "cold"

    @property
    def broken(self) -> bool:
        """Whether a restore would fail on it."""
        return self in (TarState.CUT, TarState.DAMAGED, TarState.EMPTY, TarState.COLD)


class TarCheck(NamedTuple):
    """One tar: its state, the sentence that says what was found, and how many of its stored bytes were read."""

    key: str
    size: int
    state: TarState
    found: str
    read_bytes: int


def check_tars(
    store: ObjectStore, tars: Sequence[tuple[ObjectInfo, str]], *, read_through: int = READ_THROUGH
) -> list[TarCheck]:
    """Each of a backup's tars with its compression, looked at from its end, several at once.

    Those that look whole are then read through, the smallest first, as long as ``read_through`` stored bytes are
    enough. ObjectStoreError: the store refused or did not answer.
    """
    labelled = _last_data(tars)
    with ThreadPoolExecutor(PARALLEL, thread_name_prefix="tars") as pool:
        found = list(pool.map(lambda one: check_end(store, *one, labelled=one[0].key == labelled), tars))
        chosen, left = [], read_through
        for at in sorted(range(len(tars)), key=lambda at: tars[at][0].size):
            if found[at].state in (TarState.ENDS, TarState.UNREAD) and tars[at][0].size <= left:
                chosen.append(at)
                left -= tars[at][0].size
        through = pool.map(lambda at: read_tar(store, *tars[at], labelled=tars[at][0].key == labelled), chosen)
        for at, read in zip(chosen, through, strict=True):
            # Where a package is missing, what the end has shown still holds.
            found[at] = found[at] if read.state is TarState.UNREAD else read
    return found


def check_end(store: ObjectStore, item: ObjectInfo, compression: str, *, labelled: bool = False) -> TarCheck:
    """What a ranged read of the last bytes tells; ``labelled``: the tar that must end with ``backup_label``."""
    if not item.size:
        return TarCheck(item.key, 0, TarState.EMPTY, "it holds no byte", 0)
    length = min(item.size, {"": TAIL, "snappy": SNAPPY_TAIL}.get(compression, 16))
    try:
        tail = store.get(item.key, start=item.size - length, length=length)
        begin = store.get(item.key, length=8) if compression == "lz4" else b""
    except ObjectStoreError as error:
        if error.reason != "InvalidObjectState":
            raise
        return TarCheck(item.key, item.size, TarState.COLD, f"it is in {item.storage_class} and can't be read", 0)
    state, found = _judge(tail, begin, item.size, compression, labelled)
    return TarCheck(item.key, item.size, state, found, len(tail) + len(begin))


def read_tar(store: ObjectStore, item: ObjectInfo, compression: str, *, labelled: bool = False) -> TarCheck:
    """What reading it through tells: every header, every compressed block, and its end."""
    walk, read = TarWalk(), 0

    def told(state: TarState, found: str) -> TarCheck:
        return TarCheck(item.key, item.size, state, found, read)

    try:
        unpack = unpacker(compression, name=item.key)
        stream = store.stream(item.key, piece=_PIECE)
        try:
            for piece in stream:
                read += len(piece)
                walk.feed(unpack(piece))
        finally:
            stream.close()
    except (TarDamaged, Unpackable) as error:
        return told(TarState.DAMAGED, str(error))
    except ObjectStoreError as error:
        if error.reason != "UnsupportedCompression":
            raise
        return told(TarState.UNREAD, error.what)
    if not walk.ended:
        return told(TarState.CUT, f"it stops after {walk.where}")
    if labelled and walk.last != LABEL:
        return told(TarState.CUT, f"its last member is {walk.last!r}, not {LABEL}: a later part is missing")
    return told(TarState.WHOLE, f"read through: {walk.members} members")


def _last_data(tars: Sequence[tuple[ObjectInfo, str]]) -> str:
    """The key of the last part of the data directory."""
    keys = [item.key for item, _ in tars if item.key.rpartition("/")[2].startswith("data")]
    return max(keys, key=lambda key: key.rpartition("/")[2].partition(".")[0], default="")


def _judge(tail: bytes, begin: bytes, size: int, compression: str, labelled: bool) -> tuple[TarState, str]:
    ends = TarState.ENDS, f"its last {len(tail)} bytes are a whole tar's; the rest was not read"
    match compression:
        case "":
            if size % RECORD:
                return TarState.CUT, f"its {size} bytes are no whole number of tar records ({RECORD} bytes)"
            why = _no_end(tail, labelled)
            return (TarState.CUT, why) if why else ends
        case "snappy":
            unpacked = snappy_tail(tail)
            why = _no_end(unpacked, labelled) if unpacked else "its last bytes are no whole snappy chunks"
            return (TarState.CUT, why) if why else ends
        case "gzip":
            told = int.from_bytes(tail[-4:], "little")
            # The length is reported modulo 4 GiB, which is no multiple of a record, but of its largest power of two.
            if told % (RECORD & -RECORD) or not told:
                return TarState.CUT, f"its last bytes are no gzip trailer of a tar (they tell {told} bytes)"
            return ends
        case "bzip2":
            bits = int.from_bytes(tail[-11:], "big")
            marks = {bits >> pad >> 32 & 0xFFFFFFFFFFFF for pad in range(8)}
            return ends if _BZIP2_END in marks else (TarState.CUT, "its last bytes hold no bzip2 end mark")
        case "lz4":
            if begin[:4] != _LZ4_MAGIC or len(begin) < 8:
                return TarState.DAMAGED, "it does not begin as an lz4 frame"
            mark = tail[-8:-4] if begin[4] & 0x04 else tail[-4:]
            return ends if mark == bytes(4) else (TarState.CUT, "its last bytes hold no lz4 end mark")
        case _:
            return TarState.UNREAD, f"the last bytes of {compression} tell nothing; it was not read"


def _no_end(tail: bytes, labelled: bool) -> str:
    """Why unpacked bytes are not the end of a tar, "" if they are."""
    if len(tail) < 2 * BLOCK or any(tail[-2 * BLOCK :]):
        return "it does not end in the two blocks of zeros that end a tar"
    if labelled and not _has_label(tail[len(tail) % BLOCK :]):
        return f"it does not end with {LABEL}: it is cut, or a later part is missing"
    return ""


def _has_label(tail: bytes) -> bool:
    blocks = (tail[at : at + BLOCK] for at in range(0, len(tail) - BLOCK + 1, BLOCK))
    return any(block[257:262] == b"ustar" and member_name(block) == LABEL for block in blocks)
