"""Keys that sign evidence: made, rotated and revoked, each noted in the trust file. Private keys are written once, to files."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

from rich.console import Console
from rich.text import Text

from drillbook.errors import ParameterError
from drillbook.evidence import Ledger, require_intact, verify
from drillbook.evidence.signatures import new_key, sign, signer_of
from drillbook.evidence.trust import Trust, TrustedKey, load_trust, write_trust
from drillbook.evidence.writing import write_whole
from drillbook.model import show_instant
from drillbook.profile import load_site

_TODO = "Nothing was written."


def make_key(console: Console, to: Path, trust: Path, *, owner: str, scheme: str, days: int, replaces: str = "") -> int:
    """Write a new private key into the folder ``to`` and its public one into the trust file; the exit status.

    ``replaces`` is the id, or its beginning, of a key that counts until now. ParameterError; EvidenceUnwritable.
    """
    known = load_trust(trust) if trust.exists() else Trust()
    at = datetime.now(UTC)
    old = _of(known, replaces, trust) if replaces else None
    private, public, keyid = new_key(scheme)
    path = to / f"evidence-{keyid[:12]}.pem"
    key = TrustedKey(
        keyid=keyid, public=public, owner=owner, valid_from=at, valid_until=at + timedelta(days=days) if days else None
    )
    kept = [one.model_copy(update={"valid_until": at}) if one is old else one for one in known.keys]
    write_whole(path, private, 0o600)
    write_whole(trust.parent / f"evidence-{keyid[:12]}.pub.pem", public.encode(), 0o644)  # for openssl
    digest = write_trust(trust, Trust(keys=(*kept, key)))
    if old:
        console.print(f"replaced  {old.keyid[:12]}, which counts until {show_instant(at)}")
    _show(console, path, key, trust, digest)
    return 0


def revoke_key(console: Console, keyid: str, trust: Path, *, reason: str) -> int:
    """Note that a key does not count from now on, and why; the exit status. ParameterError; EvidenceUnwritable."""
    known = load_trust(trust)
    old = _of(known, keyid, trust)
    if old.revoked_at:
        raise ParameterError(
            [f"key {old.keyid[:12]} was revoked at {old.revoked_at}"], where="drillbook key", todo=_TODO
        )
    at = datetime.now(UTC)
    gone = old.model_copy(update={"revoked_at": at, "reason": reason})
    digest = write_trust(trust, Trust(keys=tuple(gone if one is old else one for one in known.keys)))
    console.print(f"revoked   {old.keyid} of {old.owner}: {reason}")
    _pin(console, trust, digest)
    return 0


def trusted(path: Path | None, site: str) -> Trust | None:
    """The keys that count: of the file that is given, else of the one that the profile names and pins; None for none.

    ParameterError. Without a profile here (a folder that was handed over) there is none.
    """
    if path is not None:
        return load_trust(path)
    try:
        settings = load_site(site).evidence
    except ParameterError:
        if site:
            raise
        return None
    return load_trust(Path(settings.trust), settings.trust_sha256) if settings.trust else None


def sign_run(console: Console, run_dir: Path, *, key: str, trust: Path | None, site: str) -> int:
    """Sign a sealed run; the exit status. ParameterError, PreconditionError, EvidenceTampered, EvidenceUnwritable."""
    outputs = run_dir.parent.parent
    keys = trusted(trust, site)
    settings = load_site(site).evidence if not (key and trust) else None
    uri = key or (settings.key if settings else "")
    if keys is None or not uri:
        faults = [
            f"{what} is not given, and the profile names none"
            for what, found in (("a key", uri), ("a trust file", keys))
            if not found
        ]
        raise ParameterError(
            faults,
            where="drillbook seal",
            todo="Give --key and --trust, or evidence.key and evidence.trust in the profile.",
        )
    require_intact(verify(outputs, run_dir))
    base = (trust or Path(settings.trust if settings else "")).parent
    signer = signer_of(uri, keys, base)
    name = (
        json.loads((run_dir / "record.json").read_bytes())["system"]["site"]
        if (run_dir / "record.json").is_file()
        else ""
    )
    written = sign(run_dir, Ledger.of(outputs, name), signer, keys)
    for path in written:
        console.print(f"written   {path}")
    console.print(f"signed    by {signer.public_key.keyid}" if written else "signed already, by a key that counts")
    return 0


def _of(trust: Trust, keyid: str, path: Path) -> TrustedKey:
    found = [key for key in trust.keys if key.keyid.startswith(keyid)]
    if len(found) != 1 or len(keyid) < 6:
        ids = ", ".join(key.keyid[:12] for key in trust.keys) or "none"
        raise ParameterError([f"{keyid!r} names no one key of {path}: {ids}"], where="drillbook key", todo=_TODO)
    return found[0]


def _show(console: Console, path: Path, key: TrustedKey, trust: Path, digest: str) -> None:
    until = show_instant(key.valid_until) if key.valid_until else "without end"
    console.print(f"key       {key.keyid} of {key.owner}, counts until {until}")
    console.print(f"private   {path}: keep it where only the runner, or only the one who seals, can read it")
    _pin(console, trust, digest)
    console.print("\nIn the profile:")
    console.print(Text(f"evidence:\n  key: file:{path}\n  trust: {trust}\n  trust_sha256: {digest}"))


def _pin(console: Console, trust: Path, digest: str) -> None:
    console.print(f"trust     {trust}, SHA-256 {digest}")


__all__ = ["make_key", "revoke_key", "sign_run", "trusted"]
