"""Every recorded attempt to create or change an object, made again on the lab: accepted or refused, words, and what is stored."""

from __future__ import annotations

import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from differences import ADMISSION
from fix_apiserver import ADMIN, Api

Row = dict[str, Any]
NAMESPACE = "rec-10-admission"
IMAGES = {"spec.imageName"}  # the recorded operator had another default image
# The API server's own remark beside a refusal by the schema; the refusal is the same.
SCHEMA_NOTE = "some validation rules were not checked because the object was invalid"


def rows(recordings: Path) -> list[Row]:
    text = (recordings / "10-admission" / "table.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def live(recordings: Path) -> list[Row]:
    """The objects that the recorded changes were tried on, as they were first seen."""
    text = (recordings / "10-admission" / "watch.jsonl").read_text()
    return [entry["object"] for entry in map(json.loads, text.splitlines()) if entry["type"] == "ADDED" and "object" in entry]


def said(reply: str) -> list[str]:
    """The single faults that kubectl printed, without who says them."""
    text = " ".join(reply.split())
    for before in ("is invalid: ", "denied the request: ", 'error when creating "STDIN": '):
        text = text.rpartition(before)[2] if before in text else text
    faults = text.removeprefix("* ").split(" * ") if text.startswith("* ") else [text]
    return sorted(fault.removeprefix(".").strip() for fault in faults if SCHEMA_NOTE not in fault)


def flat(value: Any, path: str = "") -> dict[str, Any]:
    """An object as its leaves."""
    if isinstance(value, dict) and value:
        return {key: leaf for name, inner in value.items() for key, leaf in flat(inner, f"{path}.{name}" if path else name).items()}
    return {path: value}


def stored_difference(real: Row, lab: Row) -> list[str]:
    ours, theirs = flat({"spec": lab.get("spec")}), flat({"spec": real.get("spec")})
    return [
        f"{path}: {theirs.get(path, 'absent')!r} there, {ours.get(path, 'absent')!r} here"
        for path in sorted(set(ours) | set(theirs))
        if ours.get(path) != theirs.get(path) and path not in IMAGES
    ]


PLACES = {
    "Cluster": "apis/postgresql.cnpg.io/v1/namespaces/{}/clusters",
    "Backup": "apis/postgresql.cnpg.io/v1/namespaces/{}/backups",
    "ScheduledBackup": "apis/postgresql.cnpg.io/v1/namespaces/{}/scheduledbackups",
    "Pooler": "apis/postgresql.cnpg.io/v1/namespaces/{}/poolers",
    "Database": "apis/postgresql.cnpg.io/v1/namespaces/{}/databases",
    "ObjectStore": "apis/barmancloud.cnpg.io/v1/namespaces/{}/objectstores",
}


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """The lab's API server."""
    server = Api(tmp_path_factory.mktemp("oracle"))
    server.start()
    server.do(server.registry.create, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    yield server
    server.stop()


def attempt(api: Api, row: Row) -> tuple[bool, list[str], Row]:
    """The same request by server-side dry run, fields validated strictly."""
    obj = row["attempt"]
    place = PLACES[obj["kind"]].format(obj.get("metadata", {}).get("namespace", NAMESPACE))
    request = urllib.request.Request(  # noqa: S310 - the lab's own address
        f"{api.url}/{place}?dryRun=All&fieldValidation=Strict", data=json.dumps(obj).encode(), method="POST",
        headers={"Authorization": f"Bearer {ADMIN}", "Content-Type": "application/json"},
    )  # fmt: skip
    trusted = ssl.create_default_context(cadata=api.serving.tls.ca_pem)
    try:
        with urllib.request.urlopen(request, context=trusted, timeout=30) as answer:  # noqa: S310
            return True, [], json.load(answer)
    except urllib.error.HTTPError as refused:
        body = json.load(refused)
        causes = (body.get("details") or {}).get("causes") or []
        faults = sorted(" ".join(f"{cause.get('field', '')}: {cause['message']}".split()) for cause in causes)
        return False, faults or said(str(body.get("message"))), {}


def difference(api: Api, row: Row) -> str:
    """How the lab's answer to one attempt differs, "" if it doesn't."""
    accepted, reply, stored = attempt(api, row)
    if accepted != row["accepted"]:
        return f"accepted here: {reply or 'yes'}; there: {row.get('reply') or 'accepted'}"
    if not accepted and reply != said(row.get("reply", "")):
        return f"there {said(row.get('reply', ''))}, here {reply}"
    if accepted and "stored" in row:
        return "; ".join(stored_difference(row["stored"], stored))
    return ""


def test_recorded_creations_are_answered_as_the_operator_answered_them(recordings: Path, api: Api) -> None:
    """Each difference is fixed in the lab or stands in the table with its reason; a row of the table that is none is removed."""
    creations = [row for row in rows(recordings) if row.get("verb") == "create"]
    assert len(creations) > 200
    found = {row["what"]: how for row in creations if (how := difference(api, row))}
    unexplained = {what: how for what, how in found.items() if what not in ADMISSION}
    assert not unexplained, "\n".join(f"{what}: {how}" for what, how in unexplained.items())
    assert set(ADMISSION) <= set(found), set(ADMISSION) - set(found)


def test_the_page_names_every_difference_that_is_left() -> None:
    page = (Path(__file__).parents[2] / "docs" / "recordings.md").read_text()
    assert all(f"`{what}`" in page for what in ADMISSION)
