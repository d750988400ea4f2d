"""Time stamps by RFC 3161 over the ledger's head: somebody else's word for when the ledger had come so far.

What is stamped is the last line's SHA-256, which stands for all lines before it: one token covers every run until then.
A token is next to the ledger, as ``<site>.<line>.tsr``, and needs nothing of ours: ``sed -n 42p site.jsonl > line``, then
``openssl ts -verify -in site.42.tsr -data line -CAfile ca.pem``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import urllib3
from cryptography import x509
from rfc3161_client import (
    HashAlgorithm,
    TimestampRequestBuilder,
    TimeStampResponse,
    VerificationError,
    VerifierBuilder,
    decode_timestamp_response,
)

from drillbook.errors import ParameterError, RunbookError, UpstreamError
from drillbook.evidence.chain import Line, read_lines
from drillbook.evidence.ledger import Ledger
from drillbook.evidence.verify import EvidenceFinding
from drillbook.evidence.writing import write_whole
from drillbook.model import parse_instant, show_instant
from drillbook.profile.evidence import EvidenceTimestamp

_TIMES = urllib3.Timeout(connect=5, read=15)
_LARGEST_BYTES = 1 << 20
RULE = 13  # behind the numbers of `verify` and of the evidence store
_TODO = "The run is sealed, and the next run's stamp covers it too: see whether the authority answers and its CA is this one."
_SKEW = timedelta(minutes=5)  # between the runner's clock and the authority's


@dataclass(frozen=True)
class Stamp:
    """A token over a line of the ledger: when, and what is wrong with it, "" if nothing."""

    name: str
    line: int
    at: datetime | None
    fault: str = ""


def authority(path: Path) -> list[x509.Certificate]:
    """The certificates of a CA file; ParameterError."""
    try:
        return x509.load_pem_x509_certificates(path.read_bytes())
    except (OSError, ValueError) as error:
        fault = f"{path} can't be read as PEM certificates: {error}"
        raise ParameterError([fault], where="evidence.timestamp.ca") from error


def stamp_head(ledger: Ledger, settings: EvidenceTimestamp) -> Path | None:
    """Have the ledger's last line stamped, verify the token, and keep it; None where it is stamped, or is empty.

    ParameterError: the CA. UpstreamError: the authority gave no token that verifies. EvidenceUnwritable.
    """
    lines = read_lines(ledger.path.read_bytes())[0] if ledger.path.exists() else []
    if not lines or ledger.token(len(lines)).exists():
        return None
    roots, message = authority(Path(settings.ca)), lines[-1].raw + b"\n"
    request = TimestampRequestBuilder().data(message).hash_algorithm(HashAlgorithm.SHA256).build()
    data = _asked(settings.url, request.as_bytes())
    why = _why_not(data, message, roots, nonce=request.nonce)
    if why:
        raise UpstreamError(
            f"the answer of {settings.url} is no time stamp of evidence.timestamp.ca: {why}", todo=_TODO
        )
    path = ledger.token(len(lines))
    write_whole(path, data, 0o644)
    return path


def stamp_if_asked(ledger: Ledger, settings: EvidenceTimestamp) -> str:
    """Stamp the head after a seal; why it is not stamped, "" if it is. Never raises for the authority: the run is sealed."""
    try:
        stamp_head(ledger, settings)
    except RunbookError as error:
        return f"no time stamp: {error.what}. {error.todo}"
    return ""


def stamps(ledger: Ledger, roots: Sequence[x509.Certificate]) -> Iterator[Stamp]:
    """Every token next to a ledger, by line, judged; without ``roots`` only whether it is over the line that is there."""
    lines = read_lines(ledger.path.read_bytes())[0] if ledger.path.exists() else []
    for number in ledger.stamped():
        line = lines[number - 1] if 0 < number <= len(lines) else None
        yield _judged(ledger.token(number).name, number, ledger.token(number).read_bytes(), line, roots)


def stamp_findings(ledger: Ledger, roots: Sequence[x509.Certificate]) -> tuple[list[EvidenceFinding], str]:
    """What is wrong with the tokens next to a ledger, each by its file; and how far it is stamped, in words, "" for not at all."""
    found, said = [], ""
    for stamp in stamps(ledger, roots):
        if stamp.fault:
            found.append(EvidenceFinding(RULE, f"ledger/{stamp.name}", stamp.fault))
        elif stamp.at is not None:
            said = f"line {stamp.line} of {ledger.path.name} was there at {show_instant(stamp.at)}" + (
                ", by an authority that counts" if roots else "; by which authority was not checked: no CA is given"
            )
    return found, said


def _judged(name: str, number: int, data: bytes, line: Line | None, roots: Sequence[x509.Certificate]) -> Stamp:
    token = decoded(data)
    if token is None:
        return Stamp(name, number, None, "is not a time stamp")
    at = token.tst_info.gen_time.replace(tzinfo=UTC)
    if line is None:
        return Stamp(name, number, at, f"stamps line {number}, which is not in the ledger: its end was cut off")
    if not covers(data, line.sha256):
        return Stamp(name, number, at, f"line {number} of the ledger is not the one that was stamped: it was changed")
    why = _why_not(data, line.raw + b"\n", roots) if roots else ""
    if not why and line.value and parse_instant(str(line.value["at"])) > at + _SKEW:
        why = f"it is of {show_instant(at)}, and the line says that it was written at {line.value['at']}"
    return Stamp(name, number, at, why)


def decoded(data: bytes) -> TimeStampResponse | None:
    """A token, None for anything else."""
    try:
        found = decode_timestamp_response(data)
        _ = found.tst_info
    except ValueError:
        return None
    return found


def covers(data: bytes, digest: str) -> bool:
    """Whether a token is over what has this SHA-256."""
    found = decoded(data)
    return found is not None and bytes(found.tst_info.message_imprint.message).hex() == digest


def _why_not(data: bytes, message: bytes, roots: Sequence[x509.Certificate], nonce: int | None = None) -> str:
    found = decoded(data)
    if found is None:
        return "it is not a time stamp"
    try:
        VerifierBuilder(roots=list(roots), nonce=nonce).build().verify_message(found, message)
    except (VerificationError, ValueError) as error:
        return f"{error}" or type(error).__name__
    return ""


def _asked(url: str, request: bytes) -> bytes:
    headers = {"Content-Type": "application/timestamp-query", "Accept": "application/timestamp-reply"}
    try:
        with urllib3.PoolManager() as pool:
            answer = pool.request(
                "POST",
                url,
                body=request,
                headers=headers,
                timeout=_TIMES,
                retries=2,
                redirect=False,
                preload_content=False,
            )
            data = answer.read(_LARGEST_BYTES)
            answer.release_conn()
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise UpstreamError(f"{url} did not answer: {type(error).__name__}", todo=_TODO) from error
    if answer.status != 200:
        raise UpstreamError(f"{url} answered {answer.status}", todo=_TODO)
    return bytes(data)


__all__ = ["Stamp", "authority", "covers", "stamp_findings", "stamp_head", "stamp_if_asked", "stamps"]
