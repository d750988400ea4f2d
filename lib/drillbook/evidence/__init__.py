"""What a run leaves behind: journal, record, ledger and seal, and the proof that nobody has touched them.

Everything derives from the journal. ``record`` computes what it says, ``seal`` fixes it with ``SHA256SUMS`` and the
site's ledger, ``verify`` computes all of it again. Standard tools can follow: ``sha256sum -c SHA256SUMS``, and
``sed -n 7p journal.jsonl | sha256sum`` is the ``prev`` of line 8.
"""

from drillbook.evidence.canonical import SCHEMA, canonical, notebook_digest, plain, sha256_file
from drillbook.evidence.journal import Journal
from drillbook.evidence.judge import Judgement, judge
from drillbook.evidence.ledger import Ledger
from drillbook.evidence.mask import Masker
from drillbook.evidence.record import record
from drillbook.evidence.seal import Seal, seal, sealed_runs, sign_if_asked, stamp_if_asked
from drillbook.evidence.verify import EvidenceFinding, require_intact, verify

__all__ = [
    "SCHEMA",
    "EvidenceFinding",
    "Journal",
    "Judgement",
    "Ledger",
    "Masker",
    "Seal",
    "canonical",
    "judge",
    "notebook_digest",
    "plain",
    "record",
    "require_intact",
    "seal",
    "sealed_runs",
    "sha256_file",
    "sign_if_asked",
    "stamp_if_asked",
    "verify",
]
