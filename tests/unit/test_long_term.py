"""Long-term backups: what retention owes and what is missing of it, the choice by a seed, its cost, and how far a retrieval is."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from drillbook.archive import Level, ObjectInfo, long_term
from drillbook.archive.long_term import LongTermBackup, StoredObject
from drillbook.archive.retrieval import ReadState, readable
from drillbook.errors import ObjectStoreError, ParameterError, PreconditionError
from drillbook.model import BaseBackup, parse_instant
from drillbook.profile import load_site
from drillbook.steps.long_term.audit import _span
from drillbook.steps.long_term.checks import earlier_rows
from drillbook.steps.long_term.choice import still_to_ask

NOW = parse_instant("2026-11-29T09:00:00Z")
SEGMENTS = [f"00000001000000010000000{number}" for number in (2, 3, 4)]
INFO = """\
begin_time={at}
end_time={at}
begin_wal={first}
end_wal={last}
begin_xlog=1/2000028
end_xlog=1/4000028
timeline=1
systemid=7000000000000000001
version=160008
xlog_segment_size=16777216
status=DONE
"""


def base(at: datetime, backup_id: str) -> BaseBackup:
    return BaseBackup(
        backup_id=backup_id,
        server_name="pg",
        status="DONE",
        begin_time=at,
        end_time=at,
        begin_wal=SEGMENTS[0],
        end_wal=SEGMENTS[-1],
        begin_lsn="1/2000028",
        end_lsn="1/4000028",
        timeline=1,
        system_id="1",
        pg_version=160008,
        segment_bytes=1 << 24,
        size_bytes=1,
        cluster_size_bytes=1,
        compression="",
        location="s3://b/pg",
    )


def backup(at: str, *, fault: str = "", unread: bool = False, kept: bool = False) -> LongTermBackup:
    instant = parse_instant(at)
    backup_id = instant.strftime("%Y%m%dT%H%M%S")
    described = None if unread or fault == "no description" else base(instant, backup_id)
    return LongTermBackup(backup_id=backup_id, at=instant, fault=fault, unread=unread, kept=kept, backup=described)


def yearly(first: int = 2020, last: int = 2025) -> list[LongTermBackup]:
    return [backup(f"{year}-06-30T02:00:00Z") for year in range(first, last + 1)]


def audited(backups: Sequence[LongTermBackup], *, every: str = "year", since: str = "") -> long_term.Audit:
    return long_term.audit(backups, every=every, years=7, now=NOW, since=parse_instant(since) if since else None)


# -- retention -----------------------------------------------------------------------------------------------------


def test_i17_seven_years_owe_six_complete_ones() -> None:
    found = audited(yearly())
    assert [str(period) for period in found.periods] == ["2020", "2021", "2022", "2023", "2024", "2025"]
    assert found.gaps == found.broken == found.unread == found.expired == found.recent == ()


def test_i17_a_year_without_a_backup_is_a_gap_and_named() -> None:
    found = audited([one for one in yearly() if one.at and one.at.year != 2023])
    assert [str(gap) for gap in found.gaps] == ["2023"]


def test_i17_months_are_owed_one_by_one_over_the_turn_of_a_year() -> None:
    backups = [backup(f"2025-{month:02d}-28T00:00:00Z") for month in range(1, 13)]
    found = audited(backups, every="month", since="2025-01-01T00:00:00Z")
    assert len(found.periods) == 22 and str(found.periods[0]) == "2025-01" and str(found.periods[-1]) == "2026-10"
    assert [str(gap) for gap in found.gaps] == [f"2026-{month:02d}" for month in range(1, 11)]
    assert len(audited([], every="month").periods) == 83, "the month that began before the seven years is not owed"


def test_i17_a_young_site_owes_nothing_from_before_it_was() -> None:
    assert [str(period) for period in audited([], since="2024-03-01T00:00:00Z").gaps] == ["2025"]


def test_i17_the_29th_of_february_has_no_year_of_its_own() -> None:
    now = parse_instant("2028-02-29T00:00:00Z")
    assert [str(period) for period in long_term.periods("year", 1, now)] == []
    assert [str(period) for period in long_term.periods("year", 3, now)] == ["2026", "2027"]


def test_i17_a_broken_backup_does_not_fill_its_year() -> None:
    backups = [one for one in yearly() if one.at and one.at.year != 2022]
    found = audited([*backups, backup("2022-06-30T02:00:00Z", fault="of its 3 WAL segments X is not in the archive")])
    assert [str(gap) for gap in found.gaps] == ["2022"]
    assert found.broken == (("20220630T020000", "of its 3 WAL segments X is not in the archive"),)


def test_i17_one_whose_description_is_archived_is_there_and_not_read() -> None:
    backups = [one for one in yearly() if one.at and one.at.year != 2022]
    found = audited([*backups, backup("2022-06-30T02:00:00Z", fault="archived", unread=True)])
    assert found.gaps == () and found.broken == () and found.unread == ("20220630T020000",)


def test_i17_too_old_too_new_and_from_the_future() -> None:
    old, held = backup("2018-06-30T02:00:00Z"), backup("2017-06-30T02:00:00Z", kept=True)
    found = audited([held, old, *yearly(), backup("2026-06-30T02:00:00Z"), backup("2027-06-30T02:00:00Z")])
    assert found.expired == (old.backup_id,), "what is kept by barman's annotation is kept on purpose"
    assert found.recent == ("20260630T020000",)
    assert [name for name, _ in found.broken] == ["20270630T020000"]


# -- what a backup needs ---------------------------------------------------------------------------------------------


class Listed:
    """A store of objects in a dictionary: what a listing and a GET of it give."""

    location = "s3://b/p"

    def __init__(self, objects: dict[str, bytes], cold: Sequence[str] = ()) -> None:
        self.objects, self.cold = objects, tuple(cold)

    def _info(self, key: str) -> ObjectInfo:
        storage_class = "GLACIER" if any(part in key for part in self.cold) else "STANDARD"
        return ObjectInfo(key, len(self.objects[key]), NOW, "e", storage_class)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        return iter([self._info(key) for key in sorted(self.objects) if key.startswith(prefix)])

    def level(self, prefix: str) -> Level:
        below = [key for key in sorted(self.objects) if key.startswith(prefix)]
        folders = dict.fromkeys(
            prefix + key[len(prefix) :].split("/")[0] + "/" for key in below if "/" in key[len(prefix) :]
        )
        return Level(tuple(folders), tuple(self._info(key) for key in below if "/" not in key[len(prefix) :]))

    def get(self, key: str, *, start: int = 0, length: int | None = None) -> bytes:
        if self._info(key).storage_class == "GLACIER":
            raise ObjectStoreError("archived", reason="InvalidObjectState", status=403, todo="")
        return self.objects[key][start:]


def objects(*years: int, without: Sequence[str] = ()) -> dict[str, bytes]:
    found = {f"pg/wals/0000000100000001/{name}.gz": b"wal" for name in SEGMENTS}
    found["pg/wals/00000001.history"] = b"history"
    for year in years:
        text = INFO.format(at=f"{year}-06-30 02:00:00+00:00", first=SEGMENTS[0], last=SEGMENTS[-1])
        found |= {
            f"pg/base/{year}0630T020000/backup.info": text.encode(),
            f"pg/base/{year}0630T020000/data.tar.gz": b"data" * 10,
        }
    return {key: body for key, body in found.items() if not any(part in key for part in without)}


def read(store: Listed) -> tuple[LongTermBackup, ...]:
    return long_term.read_long_term(store, "pg")  # type: ignore[arg-type]


def test_i17_what_a_recovery_reads_is_listed_with_its_class() -> None:
    one, two = read(Listed(objects(2020, 2021), cold=("data", ".gz")))
    assert one.usable and (one.backup_id, two.backup_id) == ("20200630T020000", "20210630T020000")
    assert {item.key.rpartition("/")[2]: item.archived for item in one.objects} == {
        "backup.info": False,
        "data.tar.gz": True,
        **{f"{name}.gz": True for name in SEGMENTS},
        "00000001.history": False,
    }
    assert {item.storage_class for item in one.objects} == {"GLACIER", "STANDARD"}


@pytest.mark.parametrize(
    ("without", "words"),
    [
        (f"{SEGMENTS[1]}.gz", f"of its 3 WAL segments {SEGMENTS[1]} is not in the archive"),
        ("wals/0", f"of its 3 WAL segments {SEGMENTS[0]} and 2 more is not in the archive"),
        ("data.tar.gz", "missing data: no data.tar"),
        ("backup.info", "unfinished: it has no backup.info"),
    ],
)
def test_i17_what_is_missing_is_named(without: str, words: str) -> None:
    (one,) = read(Listed(objects(2020, without=[without])))
    assert not one.usable and one.fault.startswith(words), one.fault
    assert one.at == parse_instant("2020-06-30T02:00:00Z")


def test_i17_a_failed_backup_says_so_and_an_archived_description_is_not_read() -> None:
    failed = objects(2020)
    key = "pg/base/20200630T020000/backup.info"
    failed[key] = failed[key].replace(b"status=DONE", b"status=FAILED\nerror=disk full")
    (one,) = read(Listed(failed))
    assert one.fault == "failed: disk full" and not one.unread
    (one,) = read(Listed(objects(2020), cold=("backup.info",)))
    assert one.unread and not one.usable and one.at == parse_instant("2020-06-30T02:00:00Z")


# -- choice and cost -------------------------------------------------------------------------------------------------


def test_i17_the_oldest_and_by_a_seed_each_of_the_others() -> None:
    backups = yearly()
    drawn = [long_term.choose(backups, seed) for seed in range(60)]
    assert {pair[0].backup_id for pair in drawn if pair} == {backups[0].backup_id}
    assert {pair[1].backup_id for pair in drawn if pair} == {one.backup_id for one in backups[1:]}
    assert long_term.choose(backups, 7) == long_term.choose(list(backups), 7), "the same seed is the same choice"
    assert long_term.seed_of("20261129T094000-3de3b6") == long_term.seed_of("20261129T094000-3de3b6")
    assert 0 <= long_term.seed_of("any") < 2**31


def test_i17_nothing_broken_is_chosen_and_a_single_one_is_both() -> None:
    only = backup("2024-01-01T00:00:00Z")
    assert long_term.choose([backup("2020-01-01T00:00:00Z", fault="gone"), only], 1) == (only, only)
    assert long_term.choose([backup("2020-01-01T00:00:00Z", fault="gone")], 1) is None


def test_i17_the_cost_is_that_of_bytes_requests_and_the_duplicate() -> None:
    sizes = [50 << 30, 50 << 30, *[1 << 20] * 998]
    found = long_term.cost(sizes, days=3, per_gb=0.01, per_1000_requests=0.05, per_gb_month=0.023, currency="USD")
    gigabytes = 100 + 998 / 1024
    assert found.requests == 1000 and found.size_bytes == sum(sizes)
    assert found.amount == pytest.approx(gigabytes * 0.01 + 0.05 + gigabytes * 0.023 / 10, abs=1e-4)
    assert str(found) == "1.29 USD"


def test_i17_how_long_it_takes_by_class_and_tier() -> None:
    assert long_term.expected_wait(["STANDARD", "GLACIER"], "Bulk") == "GLACIER, Bulk: 5 to 12 hours"
    assert long_term.expected_wait(["STANDARD"], "Bulk") == ""
    day = timedelta(hours=24)
    (fault,) = long_term.retrieval_faults(["DEEP_ARCHIVE", "GLACIER", "STANDARD"], "Expedited", day)
    assert fault.startswith("DEEP_ARCHIVE can't be asked for by tier Expedited")
    (fault,) = long_term.retrieval_faults(["DEEP_ARCHIVE", "GLACIER"], "Bulk", day)
    assert "takes up to 48 hours, and a run that waits is ended after 1d" in fault
    assert long_term.retrieval_faults(["DEEP_ARCHIVE"], "Bulk", 2 * day) == []


def test_i17_a_backup_is_recovered_to_its_own_end_on_its_own_timeline() -> None:
    (one,) = read(Listed(objects(2020)))
    assert one.backup is not None
    found = long_term.to_its_end(one, one.backup, {}, 16)
    assert found.target.target_immediate and found.target.timeline == 1 and found.image == ""
    assert found.objects == one.objects and found.archived == ()


def test_i17_a_backup_of_another_major_version_needs_an_image() -> None:
    (one,) = read(Listed(objects(2020)))
    assert one.backup is not None
    with pytest.raises(PreconditionError, match="is of PostgreSQL 16, the source runs 18"):
        long_term.to_its_end(one, one.backup, {"15": "pg:15"}, 18)
    assert long_term.to_its_end(one, one.backup, {"16": "pg:16"}, 18).image == "pg:16"


def test_i17_only_what_is_neither_readable_long_enough_nor_under_way_is_asked_for() -> None:
    items = tuple(StoredObject(key=key, size=1, storage_class="GLACIER") for key in "abcd")
    states = [
        readable("a", "GLACIER", ""),
        readable("b", "GLACIER", 'ongoing-request="true"'),
        readable("c", "GLACIER", 'ongoing-request="false", expiry-date="Tue, 01 Dec 2026 00:00:00 GMT"'),
        readable("d", "GLACIER", 'ongoing-request="false", expiry-date="Sun, 29 Nov 2026 10:00:00 GMT"'),
    ]
    ask, under_way, ready = still_to_ask(items, states, until=NOW + timedelta(hours=6))
    assert [one.key for one in ask] == ["a", "d"], "one that expires too soon has its days counted anew"
    assert (under_way, ready) == (1, 1)


def test_i17_a_record_that_is_not_what_was_sealed_is_no_record_of_then(tmp_path: Path) -> None:
    folder = tmp_path / "drill-annual-archive-restore" / "20251129T090000Z-abcdef"
    folder.mkdir(parents=True)
    (folder / "SHA256SUMS").write_text("")
    facts = {"long_term_rows": {"20200630T020000": {"shop public.orders": 7}}}
    record = {"facts": facts, "system": {"site": "lab"}, "test": {"mode": "apply"}}
    (folder / "record.json").write_text(json.dumps(record))
    # Its sums don't cover its record: whatever it says, it does not count.
    assert earlier_rows(tmp_path, "lab", "20200630T020000") is None
    assert earlier_rows(None, "lab", "20200630T020000") is None
    assert earlier_rows(tmp_path, "lab", "20210630T020000") is None


# -- how far a retrieval is --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("storage_class", "header", "state"),
    [
        ("STANDARD", "", ReadState.READABLE),
        ("GLACIER_IR", "", ReadState.READABLE),
        ("GLACIER", "", ReadState.ARCHIVED),
        ("DEEP_ARCHIVE", 'ongoing-request="true"', ReadState.UNDER_WAY),
        ("GLACIER", 'ongoing-request="false", expiry-date="Thu, 05 Nov 2026 00:00:00 GMT"', ReadState.READABLE),
    ],
)
def test_i17_head_says_how_far_it_is(storage_class: str, header: str, state: ReadState) -> None:
    found = readable("k", storage_class, header)
    assert found.state is state
    assert found.until == (datetime(2026, 11, 5, tzinfo=UTC) if "expiry" in header else None)


@pytest.mark.parametrize("header", ["maybe", 'ongoing-request="false", expiry-date="never"'])
def test_i17_a_header_that_is_not_known_is_not_guessed(header: str) -> None:
    with pytest.raises(ObjectStoreError, match="can't be read"):
        readable("k", "GLACIER", header)


# -- the profile -----------------------------------------------------------------------------------------------------

MINIMAL = """\
name: shop
environment: test
cluster: {namespace: databases, name: shop-db}
tenants:
  - {database: shop, app_role: shop_app}
"""


def test_i17_the_profile_says_where_and_how_long(tmp_path: Path) -> None:
    path = tmp_path / "shop.yaml"
    path.write_text(MINIMAL)
    assert load_site(path).long_term is None
    path.write_text(MINIMAL + "long_term: {server_name: old, since: 2024-01-01T00:00:00Z, images: {'13': 'pg:13'}}\n")
    found = load_site(path).long_term
    assert found is not None and (found.years, found.every, found.tier, found.days) == (7, "year", "Standard", 2)
    assert found.objective == timedelta(hours=6) and found.secret is None and found.images == {"13": "pg:13"}


def test_i17_every_fault_of_the_section_is_named_at_once(tmp_path: Path) -> None:
    path = tmp_path / "shop.yaml"
    path.write_text(
        MINIMAL
        + "long_term: {server_name: a/b, years: 0, every: week, tier: Quick, cost: {per_gb: -1}, images: {a: b}}\n"
    )
    with pytest.raises(ParameterError) as caught:
        load_site(path)
    said = "\n".join(caught.value.faults)
    for key in ("server_name", "years", "every", "tier", "per_gb", "images"):
        assert f"long_term.{key}" in said or key in said, said


@pytest.mark.parametrize(
    ("owed", "said"), [((), "none yet"), (("2025",), "2025"), (("2024", "2025"), "2024 to 2025, 2 in all")]
)
def test_c17_periods_are_named_before_they_are_counted(owed: tuple[str, ...], said: str) -> None:
    assert _span(owed) == said
