"""A segment counts as archived with those before it: archivers send several at once, and the last may be there first."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fix_archive import ACCESS_KEY, S3, SECRET_KEY, running_s3

from drillbook.archive import S3Store, is_archived

SIZE = 16 << 20
SERVER = "pg"


@pytest.fixture(scope="module")
def s3() -> Iterator[S3]:
    with running_s3() as started:
        yield started


def archive(s3: S3, folder: str, names: list[str], ending: str) -> S3Store:
    destination = f"s3://archive/{folder}"
    for name in names:
        s3.put(f"{folder}/{SERVER}/wals/{name[:16]}/{name}{ending}", b"compressed")
    return S3Store.open(
        destination, access_key_id=ACCESS_KEY, secret_access_key=SECRET_KEY, endpoint_url=s3.endpoint_url
    )


@pytest.mark.parametrize("ending", [".gz", ".zst", ".lz4"])
@pytest.mark.parametrize(
    ("numbers", "asked", "there"),
    [
        ([0x1D, 0x1E, 0x1F, 0x20], 0x20, True),
        ([0x1D, 0x1E, 0x20], 0x20, False),  # as recorded next to pgbench: 1F was on its way
        ([0x1D, 0x20], 0x20, False),
        ([0x1D, 0x1E, 0x1F], 0x20, False),
        ([0x1D, 0x1E, 0x20], 0x1E, True),  # what is missing later is no matter
        ([0x20], 0x20, True),  # an archive may begin anywhere
        ([0xFE, 0xFF, 0x100], 0x100, True),  # a log's end: the next segment has another name before it
        ([0xFE, 0x100], 0x100, False),
        ([0x10, 0x120, 0x121], 0x121, True),  # what is missing long ago is given by the check of the chain
    ],
)
def test_g09_a_segment_counts_only_with_those_before_it(
    s3: S3, numbers: list[int], asked: int, there: bool, ending: str
) -> None:
    def name(number: int) -> str:
        return f"00000001{number >> 8:08X}{number & 0xFF:08X}"

    store = archive(s3, f"{'-'.join(map(str, numbers))}-{asked}{ending}", [name(number) for number in numbers], ending)
    assert is_archived(store, SERVER, name(asked), SIZE) is there
