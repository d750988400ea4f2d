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
from differences import ADMISSION, CHANGES
from fix_apiserver import ADMIN, Api
from recorded import watched

Row = dict[str, Any]
NAMESPACE = "rec-10-admission"
HEALTHY = "Cluster in healthy state"
IMAGES = {"spec.imageName"}  # the recorded operator had another default image
# The API server's own remark next to a refusal by the schema; the refusal is the same.
SCHEMA_NOTE = "some validation rules were not checked because the object was invalid"


def rows(recordings: Path) -> list[Row]:
    text = (recordings / "10-admission" / "table.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def live(recordings: Path) -> list[Row]:
    """The objects that the recorded changes were tried on: made for it, and scenario 02's Cluster when it was healthy."""
    made = [entry.obj for entry in watched(recordings / "10-admission") if entry.what == "ADDED"]
    orders = (entry.obj for entry in watched(recordings / "02-backup") if entry.kind == "Cluster")
    return [*made, next(obj for obj in orders if (obj.get("status") or {}).get("phase") == HEALTHY)]


def said(reply: str) -> list[str]:
    """The single faults that kubectl printed, without who says them."""
    text = " ".join(reply.split())
    for before in (
        "is invalid: ",
        "denied the request: ",
        'error when creating "STDIN": ',
        "Error from server (BadRequest): ",
        "Error from server (Conflict): ",
    ):
        text = text.rpartition(before)[2] if before in text else text
    faults = text.removeprefix("* ").split(" * ") if text.startswith("* ") else [text]
    return sorted(fault.removeprefix(".").strip() for fault in faults if SCHEMA_NOTE not in fault)


def flat(value: Any, path: str = "") -> dict[str, Any]:
    """An object as its leaves."""
    if isinstance(value, dict) and value:
        return {
            key: leaf
            for name, inner in value.items()
            for key, leaf in flat(inner, f"{path}.{name}" if path else name).items()
        }
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


def ask(
    api: Api, verb: str, place: str, body: Row, *, validation: str = "Strict"
) -> tuple[bool, list[str], Row, list[str]]:
    """A request by server-side dry run: whether it was accepted, its faults, what it would store, its warnings."""
    kind = "application/merge-patch+json" if verb == "PATCH" else "application/json"
    request = urllib.request.Request(  # noqa: S310 - the lab's own address
        f"{api.url}/{place}?dryRun=All&fieldValidation={validation}",
        data=json.dumps(body).encode(),
        method=verb,
        headers={"Authorization": f"Bearer {ADMIN}", "Content-Type": kind},
    )
    trusted = ssl.create_default_context(cadata=api.serving.tls.ca_pem)
    try:
        with urllib.request.urlopen(request, context=trusted, timeout=30) as answer:  # noqa: S310
            warned = [text.encode("latin-1").decode() for text in answer.headers.get_all("Warning") or ()]
            return (
                True,
                [],
                json.load(answer),
                [json.loads(text.partition(" ")[2].removeprefix("- ")) for text in warned],
            )
    except urllib.error.HTTPError as refused:
        body = json.load(refused)
        causes = (body.get("details") or {}).get("causes") or []
        faults = sorted(" ".join(f"{cause.get('field', '')}: {cause['message']}".split()) for cause in causes)
        return False, faults or said(str(body.get("message"))), {}, []


def attempt(api: Api, row: Row) -> tuple[bool, list[str], Row, list[str]]:
    """A recorded creation, made again."""
    obj = row["attempt"]
    return ask(api, "POST", PLACES[obj["kind"]].format(obj.get("metadata", {}).get("namespace", NAMESPACE)), obj)


def change(api: Api, row: Row) -> tuple[bool, list[str], Row, list[str]]:
    """A recorded change of a live object, made again; `scale to N` and the laxer field validations are reported in words."""
    if row["what"].startswith("scale to "):
        wanted = {"spec": {"replicas": int(row["what"].rpartition(" ")[2])}}
        return ask(api, "PATCH", f"{PLACES['Cluster'].format(NAMESPACE)}/live/scale", wanted)
    if "validate=" in row["what"]:
        obj = {**minimal(), "spec": {**minimal()["spec"], "recovery": {"source": "x"}}}
        validation = row["what"].rpartition("=")[2].capitalize()
        return ask(api, "POST", PLACES["Cluster"].format(NAMESPACE), obj, validation=validation)
    kind, _, name = row["on"].partition("/")
    place = next(PLACES[known] for known in PLACES if known.lower() == kind)
    namespace = "rec-02-backup" if name == "orders" else NAMESPACE
    subresource = "/status" if row["what"].endswith(("subresource", "nonsense")) and "status" in row["patch"] else ""
    return ask(api, "PATCH", f"{place.format(namespace)}/{name}{subresource}", row["patch"])


def minimal() -> Row:
    return {
        "apiVersion": "postgresql.cnpg.io/v1",
        "kind": "Cluster",
        "metadata": {"name": "adm"},
        "spec": {"instances": 1, "storage": {"size": "1Gi"}},
    }


def difference(row: Row, answer: tuple[bool, list[str], Row, list[str]]) -> str:
    """How the lab's answer to one attempt differs, "" if it doesn't."""
    accepted, reply, stored, warned = answer
    if accepted != row["accepted"]:
        return f"accepted here: {reply or 'yes'}; there: {row.get('reply') or 'accepted'}"
    if not accepted and reply != said(row.get("reply", "")):
        return f"there {said(row.get('reply', ''))}, here {reply}"
    told = row.get("warnings") or [text for text in row.get("reply", "").splitlines() if text.startswith("Warning: ")]
    warnings = sorted(text.removeprefix("Warning: ") for text in told)
    if accepted and sorted(warned) != warnings:
        return f"warned there {warnings}, here {sorted(warned)}"
    if accepted and "stored" in row:
        return "; ".join(stored_difference(row["stored"], stored))
    return ""


def judge(found: dict[str, str], known: dict[str, str]) -> None:
    """Every difference is in the table, and every entry of the table is a difference."""
    unexplained = {what: how for what, how in found.items() if what not in known}
    assert not unexplained, "\n".join(f"{what}: {how}" for what, how in unexplained.items())
    assert set(known) <= set(found), f"no longer different: {set(known) - set(found)}"


def test_recorded_creations_are_answered_as_the_operator_answered_them(recordings: Path, api: Api) -> None:
    """Each difference is fixed in the lab or is in the table with its reason; a row of the table that is none is removed."""
    creations = [row for row in rows(recordings) if row.get("verb") == "create"]
    assert len(creations) > 200
    judge({row["what"]: how for row in creations if (how := difference(row, attempt(api, row)))}, ADMISSION)


def test_recorded_changes_are_answered_as_the_operator_answered_them(recordings: Path, api: Api) -> None:
    """The other 60 attempts: changes of live objects, a scale, laxer validation, and what the live Cluster is stored as."""
    for obj in live(recordings):
        namespace = obj["metadata"]["namespace"]
        if namespace != NAMESPACE:
            api.do(api.registry.create, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
        made = api.do(
            api.registry.create,
            {key: obj[key] for key in ("apiVersion", "kind", "spec")}
            | {
                "metadata": {
                    key: obj["metadata"][key] for key in ("name", "namespace", "annotations") if key in obj["metadata"]
                },
            },
        )
        if "status" in obj:
            api.do(api.registry.update, {**made, "status": obj["status"]}, subresource="status")
    changes = [row for row in rows(recordings) if "verb" not in row]
    assert len(changes) == 60
    found = {row["what"]: difference(row, change(api, row)) for row in changes if "accepted" in row}
    [stored] = [row["stored"] for row in changes if "accepted" not in row]
    given = {
        **minimal(),
        "metadata": {"name": "adm"},
        "spec": {"storage": {"size": "1Gi"}, "walStorage": {"size": "1Gi"}},
    }
    as_stored = {"accepted": True, "stored": stored}
    found["live cluster as stored"] = difference(
        as_stored, ask(api, "POST", PLACES["Cluster"].format(NAMESPACE), given)
    )
    judge({what: how for what, how in found.items() if how}, CHANGES)
