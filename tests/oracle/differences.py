"""Where the lab may answer otherwise than the real operator did, and why no runbook can notice it."""

from __future__ import annotations

NO_DATABASE_KIND = "the lab serves no Database kind: no runbook makes one"
WORDS = "the same refusal at the same field, in other words: runbooks show words and decide by the code"
DECODED = "the operator's webhook stumbles before the schema is asked: refused by both"

# What was attempted: why the difference stands.
ADMISSION = {
    "name in upper case": WORDS,
    "instances -1": WORDS,
    "parameter min_wal_size=10GB": WORDS,
    "externalClusters twice the same name": WORDS,
    "parameter not a string": DECODED,
    "Database": NO_DATABASE_KIND,
    "Database postgres": NO_DATABASE_KIND,
    "Database template1": NO_DATABASE_KIND,
    "Database without owner": NO_DATABASE_KIND,
}

# Changes of live objects.
CHANGES: dict[str, str] = {}
