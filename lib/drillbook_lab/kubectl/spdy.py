"""SPDY/3.1 frames, as far as kubectl's port-forward uses them: streams, data, pings, resets.

No windows: neither end of a tunnel keeps them; the socket underneath is what slows a fast sender down.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

SYN_STREAM, SYN_REPLY, RST_STREAM, SETTINGS, PING, GOAWAY, HEADERS, WINDOW_UPDATE = 1, 2, 3, 4, 6, 7, 8, 9
DATA = 0
FIN = 1
CANCEL = 5

_VERSION = 3
_CONTROL = 0x8000
_STREAM = 0x7FFFFFFF

# The dictionary that both ends' compression begins with: a part of the protocol, byte for byte.
_WORDS = """
options head post put delete trace accept accept-charset accept-encoding accept-language accept-ranges age allow
authorization cache-control connection content-base content-encoding content-language content-length content-location
content-md5 content-range content-type date etag expect expires from host if-match if-modified-since if-none-match
if-range if-unmodified-since last-modified location max-forwards pragma proxy-authenticate proxy-authorization range
referer retry-after server te trailer transfer-encoding upgrade user-agent vary via warning www-authenticate method
get status 200_OK version HTTP/1.1 url public set-cookie keep-alive origin
"""
_TAIL = (
    "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505"
    "203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden"
    "404 Not Found500 Internal Server Error501 Not Implemented503 Service Unavailable"
    "Jan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMT"
    "chunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,text/javascript,"
    "publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0."
)


def _counted(text: str) -> bytes:
    return struct.pack(">I", len(text.encode())) + text.encode()


DICTIONARY = b"".join(_counted(word.replace("_", " ")) for word in _WORDS.split()) + _TAIL.encode()


class Malformed(Exception):
    """Bytes that are no SPDY."""


@dataclass(frozen=True)
class Frame:
    """One frame: its type (0: data), its stream (0: the connection), and what it carries."""

    type: int
    stream: int = 0
    flags: int = 0
    data: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_last(self) -> bool:
        """Whether the sender has nothing more to send on the stream."""
        return bool(self.flags & FIN)


class Reader:
    """Cuts a byte stream into frames. Header blocks of one direction are one compressed text."""

    def __init__(self) -> None:
        self._pending = bytearray()
        self._inflate = zlib.decompressobj(zdict=DICTIONARY)

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The frames that are complete now."""
        self._pending += data
        while len(self._pending) >= 8:
            head, second, low = struct.unpack(">HHI", self._pending[:8])
            flags, length = low >> 24, low & 0xFFFFFF
            if len(self._pending) < 8 + length:
                return
            body = bytes(self._pending[8 : 8 + length])
            del self._pending[: 8 + length]
            if not head & _CONTROL:
                yield Frame(DATA, ((head << 16) | second) & _STREAM, flags, body)
            elif head & ~_CONTROL == _VERSION:
                yield self._control(second, flags, body)
            else:
                raise Malformed(f"SPDY version {head & ~_CONTROL}")

    def _control(self, type_: int, flags: int, body: bytes) -> Frame:
        before_headers = {SYN_STREAM: 10, SYN_REPLY: 4, HEADERS: 4}.get(type_)
        if type_ in (SETTINGS, PING, GOAWAY):
            return Frame(type_, 0, flags, body)
        if len(body) < (before_headers or 4):
            raise Malformed(f"control frame {type_} of {len(body)} bytes")
        stream = struct.unpack(">I", body[:4])[0] & _STREAM
        if before_headers is None:
            return Frame(type_, stream, flags, body[4:])
        return Frame(type_, stream, flags, headers=self._headers(body[before_headers:]))

    def _headers(self, block: bytes) -> dict[str, str]:
        try:
            text = self._inflate.decompress(block)
            (count,), at = struct.unpack(">I", text[:4]), 4
            words: list[str] = []
            for _ in range(2 * count):
                (length,) = struct.unpack(">I", text[at : at + 4])
                words.append(text[at + 4 : at + 4 + length].decode())
                at += 4 + length
        except (zlib.error, struct.error, UnicodeDecodeError) as fault:
            raise Malformed(f"header block: {fault}") from fault
        return dict(zip(words[::2], words[1::2], strict=True))


class Writer:
    """Makes the bytes of frames. Header blocks have to be sent in the order in which they are made."""

    def __init__(self) -> None:
        self._deflate = zlib.compressobj(zdict=DICTIONARY)

    def syn_stream(self, stream: int, headers: Mapping[str, str]) -> bytes:
        """Open a stream."""
        return self._control(SYN_STREAM, 0, struct.pack(">IIH", stream, 0, 0) + self._block(headers))

    def syn_reply(self, stream: int) -> bytes:
        """Accept a stream."""
        return self._control(SYN_REPLY, 0, struct.pack(">I", stream) + self._block({}))

    @staticmethod
    def data(stream: int, data: bytes, *, last: bool = False) -> bytes:
        """Bytes on a stream, or its end."""
        return struct.pack(">II", stream, (FIN if last else 0) << 24 | len(data)) + data

    def reset(self, stream: int) -> bytes:
        """Give a stream up."""
        return self._control(RST_STREAM, 0, struct.pack(">II", stream, CANCEL))

    def pong(self, ping: Frame) -> bytes:
        """The answer to a ping is the same frame."""
        return self._control(PING, ping.flags, ping.data)

    def goaway(self) -> bytes:
        """No further streams."""
        return self._control(GOAWAY, 0, struct.pack(">II", 0, 0))

    def _block(self, headers: Mapping[str, str]) -> bytes:
        text = struct.pack(">I", len(headers))
        text += b"".join(_counted(name.lower()) + _counted(value) for name, value in headers.items())
        return self._deflate.compress(text) + self._deflate.flush(zlib.Z_SYNC_FLUSH)

    @staticmethod
    def _control(type_: int, flags: int, body: bytes) -> bytes:
        return struct.pack(">HHI", _CONTROL | _VERSION, type_, flags << 24 | len(body)) + body
