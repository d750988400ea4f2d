"""A tar followed member by member as its bytes come, in bounded memory: where it ends, and whether it ended at all."""

from __future__ import annotations

BLOCK = 512
RECORD = 20 * BLOCK  # what Python's tarfile, and so barman, fills a tar up to
_EXTENDED = frozenset(b"xgLK")
_KEPT_BYTES = 1 << 16


class TarDamaged(ValueError):
    """What is where a member should begin is none; the message says where."""


class TarWalk:
    """Fed with a tar's bytes in order. ``members`` counts files and folders, ``last`` is the newest one's name.

    ``ended`` is true once the two blocks of zeros have come that end every whole tar.
    """

    def __init__(self) -> None:
        self.members = 0
        self.last = ""
        self.bytes = 0
        self.ended = False
        self._held = bytearray()
        self._skip = 0  # bytes of the member's data, and of what fills its last block, that are still to come
        self._keep: bytearray | None = None  # an extended header's own data
        self._kind = b""
        self._own = 0  # how many of the bytes to come are the data itself
        self._size: int | None = None  # from an extended header, for the member after it
        self._zeros = 0

    def feed(self, data: bytes) -> None:
        """The next bytes. TarDamaged: a header's checksum is wrong, so that what follows can't be distinguished."""
        self.bytes += len(data)
        view, at = memoryview(data), 0
        while at < len(view) and not self.ended:
            if self._skip:
                taken = min(self._skip, len(view) - at)
                if self._keep is not None and len(self._keep) < _KEPT_BYTES:
                    self._keep += view[at : at + taken]
                self._skip -= taken
                at += taken
                if not self._skip:
                    self._data_ended()
                continue
            taken = min(BLOCK - len(self._held), len(view) - at)
            self._held += view[at : at + taken]
            at += taken
            if len(self._held) == BLOCK:
                block = bytes(self._held)
                self._held.clear()
                self._header(block)

    @property
    def where(self) -> str:
        """How far it came, in words."""
        inside = " inside its data" if self._skip else ""
        return f"{self.members} members" + (f", the last {self.last!r}{inside}" if self.members else "")

    def _header(self, block: bytes) -> None:
        if not any(block):
            self._zeros += 1
            self.ended = self._zeros == 2
            return
        if self._zeros:
            raise TarDamaged(f"a block of zeros and then more, after {self.where}")
        summed = sum(block[:148]) + sum(block[156:]) + 8 * 32
        if summed != _number(block[148:156]):
            raise TarDamaged(f"no member's header where one should be, after {self.where}")
        size = _number(block[124:136])
        self._kind = block[156:157]
        if self._kind[0] in _EXTENDED:
            self._keep = bytearray()
        else:
            self._keep = None
            if self._size is not None:
                size, self._size = self._size, None
            self.members += 1
            self.last = member_name(block)
            if self._kind not in (b"0", b"\0", b"7"):
                size = 0  # a folder or a link has no data, whatever its header says
        self._skip = size + -size % BLOCK
        self._own = size

    def _data_ended(self) -> None:
        kept, self._keep = self._keep, None
        if kept is not None and self._kind == b"x":
            self._size = _extended_size(bytes(kept[: self._own]))


def member_name(header: bytes) -> str:
    """The name in a member's header block."""
    name = header[:100].rstrip(b"\0").decode(errors="replace")
    prefix = header[345:500].rstrip(b"\0").decode(errors="replace") if header[257:262] == b"ustar" else ""
    return f"{prefix}/{name}" if prefix else name


def _number(field: bytes) -> int:
    if field[:1] in (b"\x80", b"\xff"):
        return int.from_bytes(field[1:], "big")
    try:
        return int(field.strip(b"\0 ") or b"0", 8)
    except ValueError:
        return -1


def _extended_size(data: bytes) -> int | None:
    """``size`` of records ``<length> <key>=<value>\\n``: where a member is too large for its header's own field."""
    while data:
        length, _, rest = data.partition(b" ")
        if not length.isdigit() or not int(length):
            return None
        record, data = rest[: int(length) - len(length) - 1], data[int(length) :]
        key, _, value = record.rstrip(b"\n").partition(b"=")
        if key == b"size" and value.isdigit():
            return int(value)
    return None
