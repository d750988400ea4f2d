"""What is signed of a sealed run: two in-toto Statements over the same files. Pure: a record in, bytes out.

One has Drillbook's own predicate, the fields of the record; the other is in-toto's ``test-result``, for tools that know
nothing of us. What was not observed is no pass there: UNPROVEN is FAILED, its checks prefixed with ``unproven:``, and
nothing is ever WARNED.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from drillbook.evidence.canonical import canonical
from drillbook.model import Verdict

STATEMENT = "https://in-toto.io/Statement/v1"
RESTORE_TEST = "urn:drillbook:predicate:restore-test:1"
TEST_RESULT = "https://in-toto.io/attestation/test-result/v0.1"
PAYLOAD_TYPE = "application/vnd.in-toto+json"

_FIELDS = (
    "record",
    "test",
    "who",
    "when",
    "system",
    "backup",
    "target",
    "copy",
    "versions",
    "objectives",
    "verdict",
    "deviations",
    "cleanup",
    "controls",
    "not_tested",
    "circumstances",
    "absent",
)


def statements(
    record: Mapping[str, Any], subjects: Mapping[str, str], ledger: Mapping[str, Any]
) -> dict[str, tuple[str, bytes]]:
    """By the name of their files: each Statement's predicate type and its bytes.

    ``subjects``: SHA-256 by file name. ``ledger``: the site, and the digest of the line that sealed the run.
    """
    fields = {name: record[name] for name in _FIELDS if name in record}
    made = {
        "attestation": (RESTORE_TEST, fields | {"ledger": dict(ledger)}),
        "test-result": (TEST_RESULT, _test_result(record)),
    }
    listed = [{"name": name, "digest": {"sha256": digest}} for name, digest in sorted(subjects.items())]
    return {
        name: (kind, canonical({"_type": STATEMENT, "subject": listed, "predicateType": kind, "predicate": predicate}))
        for name, (kind, predicate) in made.items()
    }


def _test_result(record: Mapping[str, Any]) -> dict[str, Any]:
    checks: dict[str, list[str]] = {}
    for check in record["checks"]:
        checks.setdefault(str(check["verdict"]), []).append(str(check["name"]))
    test = record["test"]
    return {
        "result": "PASSED" if record["verdict"]["verdict"] == Verdict.VERIFIED else "FAILED",
        "configuration": [
            {"name": name, "digest": {"sha256": digest}}
            for name, digest in (
                (f"runbooks/{test['runbook']}.ipynb", test.get("notebook_sha256")),
                ("site profile", test.get("profile_sha256")),
            )
            if digest
        ],
        "passedTests": checks.get(Verdict.VERIFIED, []),
        "warnedTests": [],
        "failedTests": [
            *checks.get(Verdict.FAILED, []),
            *(f"unproven: {name}" for name in checks.get(Verdict.UNPROVEN, [])),
        ],
    }


__all__ = ["PAYLOAD_TYPE", "RESTORE_TEST", "STATEMENT", "TEST_RESULT", "statements"]
