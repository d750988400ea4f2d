"""What barman's own compressors write is read to the same bytes; what is cut or wrong is seen."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Callable

import pytest
from barman.clients.cloud_compression import compress, get_compressor, get_streaming_tar_mode
from fix_wal import Memory

from drillbook.archive import TarState, check_tars, unpacker
from drillbook.archive.compression import decompress
from drillbook.archive.tar_check import check_end, read_tar
from drillbook.errors import WalGap

WAL = ["gzip", "bzip2", "xz", "snappy", "zstd", "lz4"]
DATA = ["snappy", "lz4", "gz", "bz2"]
CONTENTS = {"noise": os.urandom(3_000_000), "zeros": bytes(3_000_000), "both": os.urandom(300_000) + bytes(300_000)}
NAMES = {"gz": "gzip", "bz2": "bzip2"}


class Part(io.BytesIO):
    """An upload as barman makes it: every buffer that tarfile writes is compressed by itself and appended."""

    def __init__(self, compression: str) -> None:
        super().__init__()
        self.compressor = get_compressor(compression)

    def write(self, data: bytes) -> int:  # type: ignore[override]
        super().write(self.compressor.add_chunk(data) if self.compressor else data)
        return len(data)

    def finish(self) -> bytes:
        if self.compressor:
            super().write(self.compressor.flush())
        return self.getvalue()


def barmans_tar(compression: str, content: bytes, *, last: str = "backup_label") -> bytes:
    part = Part(compression)
    with tarfile.open(fileobj=part, mode=get_streaming_tar_mode("w", compression)) as tar:  # type: ignore[call-overload]
        for name, body in (("base/1/1234", content), (last, b"START WAL LOCATION")):
            info = tarfile.TarInfo(name)
            info.size = len(body)
            tar.addfile(info, io.BytesIO(body))
    return part.finish()


@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)
@pytest.mark.parametrize("compression", WAL)
def test_b20_wal_that_barman_compressed_is_read(compression: str, content: bytes) -> None:
    stored = compress(io.BytesIO(content), compression, None).read()
    assert decompress(stored, compression, name="segment", limit=1 << 30) == content
    assert len(decompress(stored, compression, name="segment", limit=1 << 18)) >= 1 << 18
    unpack = unpacker(compression, name="segment")
    assert b"".join(unpack(stored[at : at + 70_001]) for at in range(0, len(stored), 70_001)) == content
    with pytest.raises(WalGap, match="segment in the archive is damaged"):
        decompress(b"\0" + stored[1:], compression, name="segment", limit=1 << 30)


@pytest.mark.parametrize("compression", ["snappy", "zstd", "lz4", "xz"])
def test_b20_a_cut_object_is_damaged(compression: str) -> None:
    stored = compress(io.BytesIO(CONTENTS["noise"]), compression, None).read()
    with pytest.raises(WalGap):
        decompress(stored[: len(stored) // 2], compression, name="segment", limit=1 << 30)


@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)
@pytest.mark.parametrize("compression", DATA)
def test_s05_a_tar_of_any_size_is_judged_by_its_end(compression: str, content: bytes) -> None:
    """So that a large snappy tar blocks no recovery; what is cut, or is not the last part, is seen there too."""
    store, name = Memory(), NAMES.get(compression, compression)

    def judged(body: bytes, look: Callable[..., object]) -> TarState:
        store.put("data.tar", body)
        (item,) = store.list("data.tar")
        return look(store, item, name, labelled=True).state  # type: ignore[attr-defined, no-any-return]

    whole = barmans_tar(compression, content)
    assert judged(whole, check_end) is TarState.ENDS
    assert judged(whole, read_tar) is TarState.WHOLE
    assert judged(whole[: len(whole) * 2 // 3], check_end) is TarState.CUT
    assert judged(whole[: len(whole) * 2 // 3], read_tar) in (TarState.CUT, TarState.DAMAGED)
    if compression == "snappy":
        assert judged(barmans_tar(compression, content, last="other"), check_end) is TarState.CUT
    store.put("data.tar", whole)
    (checked,) = check_tars(store, [(next(store.list("data.tar")), name)], read_through=0)
    assert checked.state is TarState.ENDS and checked.read_bytes < 1 << 18
