"""Evidence that is locked away, and evidence that was handed over: copied, shown, and verified where it is."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from drillbook.errors import EvidenceTampered, ParameterError
from drillbook.evidence import EvidenceFinding, Ledger, stamp_if_asked, verify
from drillbook.evidence.trust import Trust
from drillbook.evidence.unpacking import unpack
from drillbook.evidence_store import LockedBucket, RunState, archive_all, archive_ledger, lifecycle_rule, open_bucket
from drillbook.evidence_store.audit import audit, sites_in
from drillbook.profile import Site, load_site

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

PENDING = 2


def archive_runs(console: Console, outputs: Path, site: str, *, everything: bool) -> int:
    """Copy what is pending, and show each sealed run; the exit status: 2 if something is pending still.

    As after a run, the ledger's head is stamped before it is copied, where the profile names an authority.
    ParameterError, PreconditionError, NotReady: nothing can be locked there; nothing was put.
    """

    def tell(state: RunState) -> None:
        if state.pending:
            console.print(Text(f"pending   {state.run_id} {state.runbook}: {state.why}", style="bold red"))
        else:
            console.print(Text(f"archived  {state.run_id} {state.runbook}: {state.where}"))

    profile = load_site(site)
    why = [stamp_if_asked(Ledger.of(outputs, profile.name), profile.evidence)] if profile.evidence.archive else []
    found = archive_all(outputs, profile, everything=everything, tell=tell)
    if not found:
        console.print("no run of this site is sealed yet")
    if not any(state.pending for state in found):
        why.append(archive_ledger(outputs, profile))
    for line in filter(None, why):
        console.print(Text(f"pending   {line}", style="bold red"), soft_wrap=True)
    return PENDING if any(state.pending for state in found) or any(why) else 0


def show_lifecycle(console: Console, site: str, *, days: int, storage_class: str, smallest: int) -> int:
    """Print the rule that moves old archives to a colder class, as S3 takes it; the exit status. ParameterError."""
    profile = load_site(site)
    if profile.evidence.archive is None:
        raise ParameterError(
            [f"the profile {profile.name} has no evidence.archive"],
            where="drillbook archive",
            todo="Write there the bucket with Object Lock.",
        )
    rule = lifecycle_rule(
        profile.evidence.archive, profile.name, days=days, storage_class=storage_class, smallest=smallest
    )
    console.out(json.dumps(rule, indent=2), highlight=False)
    return 0


def verify_bucket(
    console: Console,
    location: str,
    outputs: Path,
    *,
    site: str,
    endpoint_url: str,
    trust: Trust | None,
    authority: Path | None,
    to: Path | None,
) -> list[EvidenceFinding]:
    """Check ``s3://bucket/prefix``: by the profile's key and lock, where it is the profile's; otherwise by this machine's own key.

    With ``to`` what is there is left in that folder, laid out as an outputs folder. ParameterError; ObjectStoreError.
    """
    profile = _profile(site)
    settings = profile.evidence.archive if profile else None
    ours = settings is not None and settings.location == location.rstrip("/")
    if to is not None and to.exists() and any(to.iterdir()):
        raise ParameterError([f"--out {to} is not empty"], where="drillbook verify", todo="Nothing was read.")
    roots = certificates(authority, site)
    found: list[EvidenceFinding] = []
    with _opened(profile if ours else None, location, endpoint_url) as bucket, _folder(to) as folder:
        sites = sites_in(bucket)
        if not sites:
            what = "holds no evidence: no object, no version and no delete marker"
            return [EvidenceFinding(12, location, what)]
        for name in sites:
            mine = ours and profile is not None and name == profile.name
            found += audit(
                bucket,
                name,
                folder,
                settings=settings if ours else None,
                trust=trust,
                outputs=outputs if mine else None,
                authority=roots,
            )
            runs = len(list(folder.glob("*/*/journal.jsonl")))
            lines, head = Ledger.of(folder, name).lines()
            console.print(f"{location}: site {name}, {runs} runs, ledger at line {lines}, {head}")
            console.print(_stamped(Ledger.of(folder, name), roots)[1])
    if not ours:
        console.print(
            Text("locks were compared with no profile: any lock that still holds was enough", style="dim"),
            soft_wrap=True,
        )
    return found


def certificates(given: Path | None, site: str) -> list[Certificate]:
    """By which time stamps count: of the file that is given, else of the profile's evidence.timestamp; [] for none. ParameterError."""
    profile = _profile(site) if given is None else None
    named = profile.evidence.timestamp if profile else None
    path = given or (Path(named.ca) if named else None)
    if path is None:
        return []
    from drillbook.evidence.timestamps import authority  # only those who have one pay for it

    return authority(path)


def verify_stamps(console: Console, outputs: Path, roots: list[Certificate]) -> list[EvidenceFinding]:
    """Check the time stamps over every ledger below ``outputs``, and say how far each is stamped."""
    found: list[EvidenceFinding] = []
    for path in sorted((outputs / "ledger").glob("*.jsonl")):
        findings, said = _stamped(Ledger(path), roots)
        found += findings
        console.print(said)
    return found


def _stamped(ledger: Ledger, roots: list[Certificate]) -> tuple[list[EvidenceFinding], Text]:
    if not ledger.stamped():
        why = "none was made yet" if roots else "no time stamp configured"
        return [], Text(
            f"{ledger.path.stem}: {why}: when it was sealed is said by the runner's clock alone", style="dim"
        )
    from drillbook.evidence.timestamps import stamp_findings

    found, said = stamp_findings(ledger, roots)
    return found, Text(f"time stamp: {said or 'none that counts'}")


def _profile(site: str) -> Site | None:
    try:
        return load_site(site)
    except ParameterError:
        if site:
            raise
        return None  # an auditor's machine has none


@contextmanager
def _opened(profile: Site | None, location: str, endpoint_url: str) -> Iterator[LockedBucket]:
    if profile is not None:
        with open_bucket(profile) as bucket:
            yield bucket
        return
    with LockedBucket.open(location, endpoint_url=endpoint_url, default_chain=True) as bucket:
        yield bucket


@contextmanager
def _folder(to: Path | None) -> Iterator[Path]:
    if to is not None:
        to.mkdir(parents=True, exist_ok=True)
        yield to
        return
    with tempfile.TemporaryDirectory(prefix="drillbook-verify-") as folder:
        yield Path(folder)


def is_handed_over(path: Path) -> bool:
    """Whether a folder holds archives of runs, or is a whole outputs folder, rather than being a run."""
    return path.is_dir() and not (path / "journal.jsonl").exists() and (bool(_tars(path)) or (path / "ledger").is_dir())


def verify_folder(path: Path, trust: Trust | None, *, tell: Callable[[str], None]) -> list[EvidenceFinding]:
    """Check a folder of archives, as `drillbook evidence` writes it, or an outputs folder; reads only.

    Of a folder of archives each is checked with its lines of the ledger; with the whole ``ledger.jsonl`` in it the links
    of all lines too. Runs that the ledger knows and that are not in the folder are of another period: not altered.
    """
    if not _tars(path):
        return verify(path, trust=trust)
    found: list[EvidenceFinding] = []
    with tempfile.TemporaryDirectory(prefix="drillbook-verify-") as folder:
        outputs, runs = Path(folder), {}
        for tar in _tars(path):
            try:
                runs[tar.name] = unpack(tar.name, tar.read_bytes(), outputs)
            except (EvidenceTampered, OSError) as error:
                found.append(EvidenceFinding(4, tar.name, str(error)))
        sites = {run.site for run in runs.values()}
        whole = path / "ledger.jsonl"
        if len(sites) > 1:
            what = f"holds runs of several sites: {', '.join(sorted(sites))}"
            return [*found, EvidenceFinding(9, str(path), what)]
        if not whole.is_file():
            what = "is not there: whether a run was removed can't be seen"
            found.append(EvidenceFinding(6, "ledger.jsonl", what))
        for site in sites:
            ledger = Ledger.of(outputs, site).path
            ledger.parent.mkdir(parents=True, exist_ok=True)
            ledger.write_bytes(whole.read_bytes() if whole.is_file() else b"")
        faults = {name: run.fault(Ledger.of(outputs, run.site)) for name, run in runs.items()}
        found += [EvidenceFinding(7, name, fault) for name, fault in faults.items() if fault]
        checked = verify(outputs, trust=trust)
        found += [one for one in checked if one.rule not in (7, 8) or "its folder" not in one.what]
        tell(f"{path}: {len(runs)} runs of site {', '.join(sorted(sites)) or '?'}")
    return found


def _tars(path: Path) -> list[Path]:
    return sorted([*path.glob("*.tar"), *path.glob("runs/*.tar")])


__all__ = [
    "archive_runs",
    "certificates",
    "is_handed_over",
    "show_lifecycle",
    "verify_bucket",
    "verify_folder",
    "verify_stamps",
]
