"""Names, statements and definitions of a cut-over: what needs no server."""

from __future__ import annotations

import pytest

from drillbook.postgres.client import as_text
from drillbook.swap import dump_restore, rename
from drillbook.swap.compare import as_parsed_again
from drillbook.swap.names import Names, RetainedDatabase

RUN = "20261127T035339Z-79ce74"
FOUND = {
    "owner": 'o"wner',
    "encoding": "UTF8",
    "provider": "i",
    "collate": "C",
    "ctype": "C",
    "locale": "de",
    "icu_rules": None,
    "tablespace": "pg_default",
    "connection_limit": 12,
    "is_template": False,
    "comment": "it's",
    "labels": None,
    "acl": [
        {"role": None, "privilege": "CONNECT", "grantable": False},
        {"role": "a", "privilege": "CREATE", "grantable": True},
    ],
    "settings": [
        {"role": None, "settings": ["work_mem=5MB", 'search_path="$user", public', "app.mode=a=b"]},
        {"role": "r", "settings": ["statement_timeout=7s"]},
    ],
    "has_public": True,
    "has_plpgsql": True,
}


@pytest.mark.parametrize("database", ["shop", "x" * 63, "ä" * 31])
def test_every_name_of_a_cut_fits_and_differs(database: str) -> None:
    names = Names.of(database, RUN)
    assert len(set(names.all)) == 4
    assert all(len(name.encode()) <= 63 for name in names.all)
    assert names.kept.endswith("_before_20261127t035339z_79ce74")


def test_a_comment_that_no_cut_has_written_says_nothing() -> None:
    assert [RetainedDatabase.read(text) for text in (None, "", "ours", "{}", "[1]", '{"drillbook": 3}')] == [None] * 6


def test_a_database_is_made_as_the_other_is_and_opened_last() -> None:
    (create,) = map(as_text, dump_restore.create("n", FOUND))
    assert 'OWNER "o""wner" TEMPLATE template0' in create and "CONNECTION LIMIT 0" in create
    assert "LOCALE_PROVIDER \"icu\" ICU_LOCALE 'de'" in create
    made = [as_text(one) for one in dump_restore.attributes("n", FOUND)]
    assert made[0] == 'REVOKE ALL ON DATABASE "n" FROM PUBLIC'
    assert 'GRANT CONNECT ON DATABASE "n" TO PUBLIC' in made
    assert 'GRANT CREATE ON DATABASE "n" TO "a" WITH GRANT OPTION' in made
    assert 'ALTER DATABASE "n" SET "app"."mode" TO \'a=b\'' in made
    assert 'ALTER ROLE "r" IN DATABASE "n" SET "statement_timeout" TO \'7s\'' in made
    # A list is set by value: as one literal it would be one name.
    assert made[made.index("BEGIN") + 2] == 'ALTER DATABASE "n" SET "search_path" FROM CURRENT'
    assert made[-1] == 'ALTER DATABASE "n" CONNECTION LIMIT 12'


def test_nothing_granted_is_left_at_the_defaults() -> None:
    made = [as_text(one) for one in dump_restore.attributes("n", FOUND | {"acl": None, "settings": None})]
    assert not any(one.startswith(("REVOKE", "GRANT")) for one in made)


def test_both_names_change_in_one_transaction() -> None:
    script = [as_text(one) for one in rename.exchange("db", "aside", "new", kept={"run": RUN})]
    begin, end = script.index("BEGIN"), script.index("COMMIT")
    inside = script[begin + 1 : end]
    assert inside[:2] == ['ALTER DATABASE "db" RENAME TO "aside"', 'ALTER DATABASE "new" RENAME TO "db"']
    assert [one for one in script if "ALLOW_CONNECTIONS true" in one] == inside[-2:]


def test_only_the_one_known_difference_of_a_dump_is_brought_to_one_form() -> None:
    before = "CHECK (((s)::text = ANY ((ARRAY['NEW'::character varying, 'it''s'::character varying])::text[])))"
    after = "CHECK (((s)::text = ANY (ARRAY[('NEW'::character varying)::text, ('it''s'::character varying)::text])))"
    assert as_parsed_again(before) == after == as_parsed_again(after)
    other = before.replace("NEW", "OLD")
    assert as_parsed_again(other) != as_parsed_again(before)
    assert as_parsed_again("CHECK ((a = 1))") == "CHECK ((a = 1))"


def test_a_question_as_text_has_its_parameters_as_literals() -> None:
    text = as_text("cutover_obstacles", database="it's; drop")
    assert "d.datname = 'it''s; drop'" in text and "%" not in text and not text.endswith(";")
    with pytest.raises(KeyError):
        as_text("cutover_obstacles")
