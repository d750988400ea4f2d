"""The command line: starts a runbook, settles what one left, and shows and verifies its evidence."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shlex
import sys
import traceback
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text
from typer.exceptions import TyperException

from drillbook import conformance as probes
from drillbook import engine, evidence
from drillbook.archive.sampling import SAMPLES
from drillbook.cli import arguments, headless
from drillbook.cli.console import (
    VERDICT_STYLES,
    ProgressPrinter,
    ask,
    gate_lines,
    program,
    say_where_it_is,
    show_outcome,
)
from drillbook.cli.notify import tell_of_run
from drillbook.errors import ParameterError, RunbookError
from drillbook.evidence_store import noted_pending
from drillbook.kube import Kube
from drillbook.model import parse_instant
from drillbook.report.cards import show_instant

if TYPE_CHECKING:
    from drillbook.cli.headless.undoing import WayBack

BAD_USAGE = 4
STOPPED_MIDWAY = 6
INTERNAL_ERROR = 70
_INTERRUPTED = 130  # what typer answers to Ctrl-C

EXIT_STATUSES = {
    0: "verified, or planned",
    1: "failed",
    2: "unproven",
    3: "waiting for an approval",
    BAD_USAGE: "bad usage, parameters, site or target; nothing was touched",
    5: "the evidence can't be written; nothing was touched (6 if the run had acted before)",
    STOPPED_MIDWAY: "stopped midway; `drillbook list` shows the state and what the run holds",
    INTERNAL_ERROR: "internal error",
}

_STATUSES = ", ".join(f"{status} {meaning.partition(';')[0]}" for status, meaning in EXIT_STATUSES.items())

app = typer.Typer(
    name="drillbook",
    help="Executable runbooks that prove your PostgreSQL can be restored.",
    epilog=f"Exit status: {_STATUSES}. Evidence goes to $DRILLBOOK_OUTPUTS, else to outputs/ of the project.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


keys = typer.Typer(help="Make, rotate and revoke the keys that sign evidence.", no_args_is_help=True)
app.add_typer(keys, name="key")


class KeyScheme(StrEnum):
    """The kinds of key that sign evidence."""

    ED25519 = "ed25519"
    ECDSA_P256 = "ecdsa-p256"


class _Heard(Console):
    """A console that may lose its reader (a closed terminal, a broken pipe): then it is silent, and the work goes on."""

    def print(self, *objects: Any, **options: Any) -> None:
        try:
            super().print(*objects, **options)
        except OSError:
            self.on_broken_pipe()

    def on_broken_pipe(self) -> None:
        self.quiet = True
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.file.fileno())  # what Python still holds for it goes there at the end
        os.close(nowhere)


# Without a terminal there is no width to fit into: a table in a log is not cut.
out = _Heard(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 200)
err = _Heard(highlight=False, soft_wrap=True, stderr=True)


class Mode(StrEnum):
    """Whether a runbook only shows what it would do, or does it."""

    PLAN = "plan"
    APPLY = "apply"


SiteOption = Annotated[
    str, typer.Option("--site", help="A profile's name or path; otherwise $DRILLBOOK_SITE, otherwise lab.")
]
TrustOption = Annotated[
    Path | None, typer.Option(help="The file of the keys that count; otherwise the profile's evidence.trust.")
]
RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="A run's id, the beginning of one, or its folder.")]


def _tell_version(wanted: bool) -> None:
    if wanted:
        out.print(f"drillbook {importlib.metadata.version('drillbook')}", highlight=False)
        raise typer.Exit


@app.callback()
def _every(
    _: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_tell_version, help="Say the version and exit.")
    ] = False,
) -> None:
    pass


@app.command()
def run(
    notebook: Annotated[str, typer.Argument(metavar="RUNBOOK", help="A runbook's path, or its name in runbooks/.")],
    parameter: Annotated[
        list[str] | None,
        typer.Option("--parameter", "-p", metavar="NAME VALUE", help="A parameter of the notebook; may be repeated."),
    ] = None,
    mode: Annotated[Mode, typer.Option(help="plan changes nothing; apply does what the runbook says.")] = Mode.PLAN,
    site: SiteOption = "",
    if_due: Annotated[
        bool, typer.Option("--if-due", help="Do nothing if its schedule's current period has a run already.")
    ] = False,
) -> int:
    """Run a runbook headless, clean up after it, seal its evidence and write its report."""
    path = engine.find_runbook(notebook)
    given = arguments.parameters(parameter or [])
    if if_due:
        from drillbook.cli.schedule import already_run  # what signs takes a third of a second to import

        if known := already_run(site, path.stem, engine.outputs_dir()):
            out.print(Text(f"nothing to do: {known}"))
            return 0
    outcome = headless.execute(path, given, mode=str(mode), site=site, progress=ProgressPrinter(out).tell)
    show_outcome(out, outcome)
    if mode is Mode.APPLY:
        tell_of_run(out, outcome)
    return int(outcome.exit_code)


@app.command(name="open")
def open_runbook(
    runbook: Annotated[str, typer.Argument(metavar="RUNBOOK", help="A runbook's path, or its name in runbooks/.")],
) -> int:
    """Copy a runbook under outputs/open/, to be stepped through in JupyterLab: the tracked one stays as it is."""
    path = engine.copy_to_work_on(engine.find_runbook(runbook))
    out.print(Text(str(path)))
    jupyter = shlex.quote(program("jupyter"))
    out.print(Text(f"{jupyter} lab {'--allow-root ' if os.geteuid() == 0 else ''}{shlex.quote(str(path))}"))
    return 0


@app.command()
def finish(
    run_id: RunArgument,
    notebook: Annotated[Path, typer.Option(help="The executed notebook to keep with the run.")],
) -> int:
    """Seal a run that was stepped through in JupyterLab or by plain papermill: clean up, keep the notebook, report."""
    if not notebook.is_file():
        raise ParameterError([f"there is no notebook {notebook}"], where="drillbook finish")
    outcome = headless.finish(engine.find_run(run_id), notebook)
    show_outcome(out, outcome)
    return int(outcome.exit_code)


@app.command()
def resume(
    run_id: RunArgument,
    confirm: Annotated[str, typer.Option(metavar="PHRASE", help="The phrase of the plan that waits.")] = "",
    notebook: Annotated[Path | None, typer.Option(help="The runbook, where it doesn't lie in runbooks/.")] = None,
    parameter: Annotated[
        list[str] | None,
        typer.Option(
            "--parameter", "-p", metavar="NAME VALUE", help="Another target for a recovery that is not in service."
        ),
    ] = None,
) -> int:
    """Go on with a run that waits at a gate or stopped midway; what it has seen comes from its journal."""
    target = arguments.parameters(parameter or [])
    outcome = headless.resume(
        engine.find_run(run_id), confirm=confirm, notebook=notebook, target=target, progress=ProgressPrinter(out).tell
    )
    show_outcome(out, outcome)
    tell_of_run(out, outcome)
    return int(outcome.exit_code)


@app.command()
def approve(
    run_id: RunArgument,
    phrase: Annotated[
        str, typer.Option(help="The phrase that the gate shows; without it the plan is shown and it is asked for.")
    ] = "",
    kubeconfig: Annotated[str, typer.Option(help="Your own credentials; otherwise the profile's.")] = "",
    context: Annotated[str, typer.Option(help="A context of that kubeconfig.")] = "",
    name: Annotated[str, typer.Option(help="Your name, as the auditor knows you; noted next to the identity.")] = "",
) -> int:
    """Show the plan at which a run waits, and approve it as yourself; the run goes on when it is resumed."""
    folder = engine.find_run(run_id)
    gate = headless.waits_at(folder)
    out.print(Text(f"{folder.name} waits at: {gate['section']}", style="bold"))
    for line in gate_lines(gate, whole=True):
        out.print(line)
    if not phrase and not sys.stdin.isatty():
        raise ParameterError(
            ["there is no terminal to ask on"], where="drillbook approve", todo=f'Give --phrase "{gate["phrase"]}".'
        )
    asked = f"To approve exactly this plan, type {gate['phrase']!r}"
    given = phrase or str(typer.prompt(asked, default="", show_default=False, err=True))
    noted = headless.approve(folder, given, kubeconfig=kubeconfig, context=context, name=name)
    actor = noted["actor"]
    out.print(Text(f"approved by {actor['username']} (identity: {actor['strength']}): {noted['section']}"))
    out.print(Text(f"next: run the waiting cell again in its notebook, or: drillbook resume {folder.name}"))
    return 0


@app.command()
def abandon(
    run_id: RunArgument,
    as_it_stands: Annotated[
        bool, typer.Option("--as-it-stands", help="Undo nothing: behind the point of no return.")
    ] = False,
    notebook: Annotated[
        Path | None, typer.Option(help="The saved notebook to keep with it; otherwise the one that it was opened in.")
    ] = None,
) -> int:
    """End a run that waits or stopped: undo what can be undone, the newest first, and say what can't be."""
    found = headless.abandon(
        engine.find_run(run_id), notebook=notebook, as_it_stands=as_it_stands, progress=ProgressPrinter(out).tell
    )
    for line in found.left:
        out.print(Text.assemble(("not undone   ", "bold red"), line))
    show_outcome(out, found.outcome)
    return STOPPED_MIDWAY if found.left else 0


@app.command()
def undo(
    run_id: Annotated[
        str,
        typer.Argument(
            metavar="RUN", help="The recovery, or the change of indexes, to go back from; its folder need not be here."
        ),
    ],
    mode: Annotated[
        Mode, typer.Option(help="plan changes nothing; apply stops at its gate before it changes anything.")
    ] = Mode.APPLY,
    site: SiteOption = "",
) -> int:
    """Go back from a recovery that was put into service, or from changed indexes: show what it means, and wait at a gate."""
    from drillbook.cli.headless import undoing  # the steps take a while to import

    return _go(undoing.way_back(run_id, site), mode)


@app.command(name="drop-kept")
def drop_kept(
    run_id: Annotated[
        str,
        typer.Argument(
            metavar="RUN", help="The run that put a database or a cluster aside; its folder need not be here."
        ),
    ],
    mode: Annotated[
        Mode, typer.Option(help="plan changes nothing; apply stops at its gate before it changes anything.")
    ] = Mode.APPLY,
    site: SiteOption = "",
) -> int:
    """Drop the database or the cluster that a recovery, or its undo, has put aside: behind its own gate."""
    from drillbook.cli.headless import undoing  # the steps take a while to import

    return _go(undoing.drop_kept(run_id, site), mode)


def _go(way: WayBack, mode: Mode) -> int:
    given: dict[str, Any] = dict(way.parameters)
    outcome = headless.execute(way.notebook, given, mode=str(mode), site=way.site, progress=ProgressPrinter(out).tell)
    show_outcome(out, outcome)
    return int(outcome.exit_code)


@app.command()
def cleanup(site: SiteOption = "") -> int:
    """Clean up after killed runs: remove their copies, prove them gone, seal the record."""
    lines = headless.cleanup(site, say=lambda text: out.print(Text(text, style="dim")))
    for line in lines or ["nothing was left behind"]:
        out.print(Text(line))
    return 0


@app.command()
def verify(
    run_id: Annotated[
        str,
        typer.Argument(
            metavar="[RUN|FOLDER|s3://…]",
            help="One run, a folder that was handed over, or a bucket; without it every run and the ledger.",
        ),
    ] = "",
    trust: TrustOption = None,
    site: SiteOption = "",
    endpoint_url: Annotated[
        str, typer.Option(help="Where a bucket is that no profile here knows; otherwise AWS.")
    ] = "",
    stamp_ca: Annotated[
        Path | None,
        typer.Option(help="The CA of the time stamps that count; otherwise the profile's evidence.timestamp."),
    ] = None,
    to: Annotated[
        Path | None, typer.Option("--out", help="Leave what is in the bucket in this empty folder, as outputs/ has it.")
    ] = None,
) -> int:
    """Compute every digest, record, link, signature and lock again, and name the file, line, link, key or version that is wrong."""
    from drillbook.cli import archive  # what signs takes a third of a second to import
    from drillbook.cli.keys import trusted

    keys = trusted(trust, site)
    if keys is None:
        err.print(
            Text("signatures were not looked at: no trust file is given, and the profile names none", style="dim")
        )
    if run_id.startswith("s3://"):
        findings = archive.verify_bucket(
            out,
            run_id,
            engine.outputs_dir(),
            site=site,
            endpoint_url=endpoint_url,
            trust=keys,
            authority=stamp_ca,
            to=to,
        )
    elif archive.is_handed_over(Path(run_id)) if run_id else False:
        findings = archive.verify_folder(Path(run_id), keys, tell=out.print)
    else:
        findings = evidence.verify(engine.outputs_dir(), engine.find_run(run_id) if run_id else None, trust=keys)
        findings += archive.verify_stamps(out, engine.outputs_dir(), archive.certificates(stamp_ca, site))
    for finding in findings:
        err.print(Text(str(finding), style="red" if finding.tampered else "yellow"))
    tampered = sum(finding.tampered for finding in findings)
    if not findings:
        out.print(Text("intact", style="bold green"))
    return 1 if tampered else 2 if findings else 0


@app.command(name="archive")
def archive_evidence(
    site: SiteOption = "",
    everything: Annotated[
        bool, typer.Option("--all", help="Compare the archived ones too, and copy again what is not there.")
    ] = False,
    lifecycle: Annotated[
        bool, typer.Option("--lifecycle", help="Print the rule that moves old archives to a colder storage class.")
    ] = False,
    days: Annotated[int, typer.Option(min=0, help="With --lifecycle: after how many days.")] = 90,
    storage_class: Annotated[str, typer.Option(help="With --lifecycle: GLACIER, DEEP_ARCHIVE …")] = "GLACIER",
    smallest: Annotated[int, typer.Option(min=1, help="With --lifecycle: smaller objects stay (bytes).")] = 128 * 1024,
) -> int:
    """Copy sealed runs that are pending to the profile's bucket under Object Lock, and show which are there."""
    from drillbook.cli import archive  # what signs takes a third of a second to import

    if lifecycle:
        return archive.show_lifecycle(out, site, days=days, storage_class=storage_class, smallest=smallest)
    return archive.archive_runs(out, engine.outputs_dir(), site, everything=everything)


@app.command(name="due")
def due_tests(
    site: SiteOption = "",
    at: Annotated[str, typer.Option(help="As it was at this instant (RFC 3339); otherwise now.")] = "",
    every: Annotated[
        bool, typer.Option("--all", help="Every period, not only the current one and the one before.")
    ] = False,
    prometheus: Annotated[bool, typer.Option("--prometheus", help="As text for Prometheus.")] = False,
    notify: Annotated[
        bool,
        typer.Option("--notify", help="Post what is open to the profile's announce.webhook, where it asks for it."),
    ] = False,
    trust: TrustOption = None,
) -> int:
    """Show which of the profile's schedules are done, late, missing, failed or unproven, by the sealed runs alone."""
    from drillbook.cli.due import show_due  # what signs takes a third of a second to import
    from drillbook.cli.keys import trusted

    try:
        instant = parse_instant(at) if at else None
    except ValueError as error:
        raise ParameterError([f"--at: {error}"], where="drillbook due") from error
    return show_due(
        out,
        engine.outputs_dir(),
        site,
        trust=trusted(trust, site),
        at=instant,
        everything=every,
        prometheus=prometheus,
        notify=notify,
    )


@app.command(name="schedule")
def schedule_jobs(
    to: Annotated[Path, typer.Option("--out", help="The folder that is written; it must be empty or not there.")],
    image: Annotated[str, typer.Option(help="The image that runs them, with its tag or digest.")],
    site: SiteOption = "",
    evidence: Annotated[str, typer.Option(metavar="SIZE", help="The volume for the evidence.")] = "5Gi",
) -> int:
    """Write the profile's schedules as CronJobs, each class of runbooks under its own rights, and the exporter: a folder for kubectl apply -k."""
    from drillbook.cli.schedule import write_schedules  # what signs takes a third of a second to import

    return write_schedules(out, site, image, to, evidence)


@app.command(name="exporter")
def run_exporter(
    site: SiteOption = "",
    listen: Annotated[str, typer.Option(metavar="ADDRESS:PORT", help="Where Prometheus reads it.")] = "127.0.0.1:9477",
    every: Annotated[float, typer.Option(min=1, help="Seconds between two readings of archive and evidence.")] = 60.0,
    token_file: Annotated[
        Path | None,
        typer.Option(help="A file with the bearer token that is demanded; needed where it is not loopback."),
    ] = None,
    trust: TrustOption = None,
) -> int:
    """Serve /metrics for Prometheus: what can be recovered, what a loss would cost, which tests are owed. Reads only."""
    from drillbook.cli.exporter import serve  # what signs takes a third of a second to import
    from drillbook.cli.keys import trusted

    return serve(
        out,
        engine.outputs_dir(),
        site,
        trust=trusted(trust, site),
        listen=listen,
        every=every,
        token_file=token_file,
    )


@app.command(name="evidence")
def evidence_folder(
    to: Annotated[Path, typer.Option("--out", help="The folder that is written; it must be empty or not there.")],
    begins: Annotated[str, typer.Option("--from", help="The first instant of the period, or a date (UTC).")],
    ends: Annotated[str, typer.Option("--to", help="The first instant after it, or a date (UTC).")],
    site: SiteOption = "",
    trust: TrustOption = None,
) -> int:
    """Write a folder for an auditor: a page to read or print, every test as a table, each run as an archive with verify.sh."""
    from drillbook.cli.evidence import write_evidence  # what signs takes a third of a second to import
    from drillbook.cli.keys import trusted

    period, faults = [], []
    for name, text in (("--from", begins), ("--to", ends)):
        try:
            period.append(parse_instant(f"{text}T00:00:00Z" if len(text) == 10 else text))
        except ValueError as error:
            faults.append(f"{name}: {error}")
    if faults:
        raise ParameterError(faults, where="drillbook evidence")
    return write_evidence(
        out, engine.outputs_dir(), site, to, begins=period[0], ends=period[1], trust=trusted(trust, site)
    )


@app.command(name="index")
def index_page(site: SiteOption = "", trust: TrustOption = None) -> int:
    """Write index.html into the outputs folder: what is due, the trend of every figure, and each run with its report."""
    from drillbook.cli.evidence import write_index  # what signs takes a third of a second to import
    from drillbook.cli.keys import trusted

    return write_index(out, engine.outputs_dir(), site, trust=trusted(trust, site))


@app.command(name="deviation")
def deviation(
    run_id: RunArgument,
    by: Annotated[str, typer.Option(help="Your name, as the auditor knows you; noted next to the account.")] = "",
    ticket: Annotated[str, typer.Option(help="The ticket that was opened for what deviates.")] = "",
    retested_by: Annotated[
        str, typer.Option(metavar="RUN", help="The later VERIFIED run of the same runbook that retested it.")
    ] = "",
    note: Annotated[str, typer.Option(help="What deviates, where the record does not show it, or what was done.")] = "",
    site: SiteOption = "",
    kubeconfig: Annotated[
        str,
        typer.Option(help="Your own credentials: the API server says who you are; otherwise this machine's account."),
    ] = "",
    context: Annotated[str, typer.Option(help="A context of that kubeconfig.")] = "",
) -> int:
    """Note the ticket and the retest of a sealed run that was not what it should have been; without options show what is known of it."""
    from drillbook.cli.deviation import note_deviation, show_deviation  # what signs takes a third of a second to import

    typed = {"ticket": ticket, "retested_by": retested_by, "note": note, "by": by}
    if not any(typed.values()):
        return show_deviation(out, run_id)
    return note_deviation(out, run_id, **typed, site=site, kubeconfig=kubeconfig, context=context)


@app.command(name="seal")
def seal_run(
    run_id: RunArgument,
    key: Annotated[
        str, typer.Option(help="file:PATH, env:NAME or a KMS's URI; otherwise the profile's evidence.key.")
    ] = "",
    trust: TrustOption = None,
    site: SiteOption = "",
) -> int:
    """Sign a sealed run with a key that is on this machine, after everything of it was verified."""
    from drillbook.cli.keys import sign_run  # what signs takes a third of a second to import

    return sign_run(out, engine.find_run(run_id), key=key, trust=trust, site=site)


@keys.command(name="new")
def new_key(
    to: Annotated[Path, typer.Option(help="The folder for the private key.")],
    trust: Annotated[Path, typer.Option(help="The file of the keys that count; made if it is not there.")],
    owner: Annotated[str, typer.Option(help="Whose key it is: a person or a service.")],
    scheme: Annotated[
        KeyScheme, typer.Option(help="ed25519, or ecdsa-p256 where everything else knows only that.")
    ] = KeyScheme.ED25519,
    days: Annotated[int, typer.Option(min=0, help="For how many days it counts; 0: without end.")] = 400,
) -> int:
    """Make a key, and note its public half in the trust file."""
    from drillbook.cli.keys import make_key  # what signs takes a third of a second to import

    return make_key(out, to, trust, owner=owner, scheme=scheme, days=days)


@keys.command(name="rotate")
def rotate_key(
    keyid: Annotated[str, typer.Argument(metavar="KEY", help="The id of the key that is replaced, or its beginning.")],
    to: Annotated[Path, typer.Option(help="The folder for the private key.")],
    trust: Annotated[Path, typer.Option(help="The file of the keys that count.")],
    owner: Annotated[str, typer.Option(help="Whose key it is.")],
    scheme: Annotated[KeyScheme, typer.Option(help="ed25519 or ecdsa-p256.")] = KeyScheme.ED25519,
    days: Annotated[int, typer.Option(min=0, help="For how many days it counts; 0: without end.")] = 400,
) -> int:
    """Make a key in another one's place: that one counts until now."""
    from drillbook.cli.keys import make_key  # what signs takes a third of a second to import

    return make_key(out, to, trust, owner=owner, scheme=scheme, days=days, replaces=keyid)


@keys.command(name="revoke")
def revoke(
    keyid: Annotated[str, typer.Argument(metavar="KEY", help="The id of the key, or its beginning.")],
    trust: Annotated[Path, typer.Option(help="The file of the keys that count.")],
    reason: Annotated[str, typer.Option(help="Why it must not count from now on.")],
) -> int:
    """Note that a key was lost or seen: it does not count from now on."""
    from drillbook.cli.keys import revoke_key  # what signs takes a third of a second to import

    return revoke_key(out, keyid, trust, reason=reason)


@app.command(name="list")
def list_runs() -> int:
    """Show every run with its verdict; one that waits or stopped with its deadline, one that was never sealed as open."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("run", "runbook", "site", "started", "state", "verdict", "kept until"):
        table.add_column(heading, no_wrap=True)
    summaries = headless.runs()
    for item in summaries:
        row = (
            item.run_id,
            item.runbook,
            item.site,
            show_instant(item.started_at[:19] + "Z" if item.started_at else ""),
            item.state,
        )
        table.add_row(*row, Text(item.verdict, style=VERDICT_STYLES.get(item.verdict, "")), item.until)
    out.print(table if summaries else "no run yet: drillbook run runbooks/drill-monthly-verification.ipynb")
    for item in summaries:
        if item.doing:
            out.print(Text(f"{item.run_id}: {item.doing}"))
        for what in item.promised:
            holds = "still promised" if item.state == "sealed" else "holds"
            out.print(Text(f"{item.run_id}: {holds}: {what}", style="yellow"))
        if why := noted_pending(item.folder):
            out.print(
                Text(f"{item.run_id}: archive pending: {why} (`drillbook archive` tries again)", style="bold red")
            )
    return 0


@app.command()
def window(
    site: SiteOption = "",
    as_json: Annotated[bool, typer.Option("--json", help="Everything that was read, as JSON.")] = False,
    svg: Annotated[
        Path | None, typer.Option(help="Draw backups, WAL, gaps and window on a time line into this file.")
    ] = None,
    samples: Annotated[
        int, typer.Option(min=0, help="How many segments are read through; 0: only what listings and ends show.")
    ] = SAMPLES,
) -> int:
    """Show what can be recovered now, from the archive alone: base backups, window, gaps, damages, and what to do. Changes nothing."""
    from drillbook.cli.window import show_window  # the steps take a while to import

    return show_window(out, site, as_json=as_json, svg=svg, samples=samples)


@app.command(name="plan-recovery")
def plan_recovery(
    parameter: Annotated[
        list[str] | None,
        typer.Option(
            "--parameter",
            "-p",
            metavar="NAME VALUE",
            help="A target: target_time, target_xid, target_lsn or target_name.",
        ),
    ] = None,
    database: Annotated[
        str, typer.Option(help="The tenant's database that is damaged; otherwise the profile's first.")
    ] = "",
    site: SiteOption = "",
) -> int:
    """Show which of the three recoveries fit now, with outage, loss and room, from cluster and archive. Changes nothing."""
    from drillbook.cli import plan_recovery as recoveries  # the steps take a while to import

    return recoveries.plan_recovery(out, site, database, arguments.parameters(parameter or []))


@app.command(name="flyway")
def flyway_files(
    migration: Annotated[Path, typer.Argument(metavar="MIGRATION", help="The index migration: a YAML or SQL file.")],
    to: Annotated[Path, typer.Option(metavar="DIR", help="The folder of Flyway's migrations.")],
    build: Annotated[
        bool, typer.Option("--build", help="Let Flyway build: one statement a file, outside of transactions.")
    ] = False,
    version: Annotated[
        str, typer.Option(help="Flyway's version of it, where the migration's file is not named V<version>__….sql.")
    ] = "",
) -> int:
    """Write the file by which Flyway adopts the indexes that change-indexes has built, and fails unless they are as defined."""
    from drillbook.cli.flyway import write_flyway_files  # what parses SQL takes a tenth of a second to import

    return write_flyway_files(out, migration, to, build=build, version=version)


@app.command()
def init(
    cluster: Annotated[
        str, typer.Option(metavar="NAMESPACE/NAME", help="The Cluster to drill; needed where there are several.")
    ] = "",
    out_folder: Annotated[
        Path | None,
        typer.Option("--out", help="The folder to write; it must not be there yet. [default: drillbook-NAME]"),
    ] = None,
    name: Annotated[str, typer.Option(help="The site's name; otherwise the Cluster's.")] = "",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Ask nothing: take the defaults.")] = False,
    kubeconfig: Annotated[str, typer.Option(help="Your own credentials; otherwise what kubectl uses.")] = "",
    context: Annotated[str, typer.Option(help="A context of that kubeconfig.")] = "",
) -> int:
    """Read a cluster and write a profile for it, what to apply, and APPLY.md, which says in which order. Changes nothing.

    It reads with your own rights: Cluster, Deployments, Secrets (for names and addresses) and, by psql in the primary's
    pod, the databases' catalogues. No Secret's value is written or shown.
    """
    from drillbook.cli import init as site_init  # the steps take a while to import

    if not yes and not sys.stdin.isatty():
        raise ParameterError(
            ["there is no terminal to ask on"], where="drillbook init", todo="Give --yes to take the defaults."
        )
    root = engine.project_root()
    site_init.require_room(root, out_folder)  # before anybody has answered nine questions
    with Kube.open(kubeconfig, context) as kube:
        found = site_init.discover(kube, cluster)
    if not yes:
        out.print(Text(f"Found {found}. Enter takes what is in brackets."))
    choices = site_init.choose(
        found, site_init.usual if yes else ask, name, lambda site: out_folder or Path(f"drillbook-{site}")
    )
    folder = out_folder or Path(f"drillbook-{choices.name}")
    given = {"--kubeconfig": kubeconfig, "--context": context}
    options = tuple(part for option, value in given.items() if value for part in (option, value))
    site_init.write(found, choices, folder, root=root, kubectl=options)
    for note in found.notes:
        out.print(Text(f"check: {note}", style="yellow"))
    out.print(Text(f"{folder}: read {site_init.PROFILE}, then follow {site_init.APPLY}"))
    return 0


@app.command()
def doctor(
    site: SiteOption = "",
    conformance: Annotated[
        bool,
        typer.Option(
            "--conformance", help="Run the conformance probes against this cluster (creates temporary objects)."
        ),
    ] = False,
    namespace: Annotated[str, typer.Option(help="With --conformance: where the probes' things are made.")] = "",
    object_store: Annotated[
        str,
        typer.Option(help="With --conformance: an ObjectStore there that probes may archive to, in folders probe-…."),
    ] = "",
    endpoint_url: Annotated[str, typer.Option(help="With --conformance: that store as it is seen from here.")] = "",
    image: Annotated[
        str, typer.Option(help="With --conformance: the probes' PostgreSQL image; empty: the operator's default.")
    ] = "",
    storage_class: Annotated[
        str, typer.Option(help="With --conformance: their storage class; empty: the cluster's default.")
    ] = "",
    storage_size: Annotated[
        str, typer.Option(help="With --conformance: the size of each of their volumes.")
    ] = probes.Options.storage_size,
    probe: Annotated[
        list[str] | None, typer.Option(help="With --conformance: only this probe; may be repeated.")
    ] = None,
    write: Annotated[Path | None, typer.Option(help="With --conformance: keep the answers in this JSON file.")] = None,
) -> int:
    """Say whether this machine, site and cluster are ready for a drill, and what to do if not. Changes nothing.

    With --conformance it asks the cluster in the current kubeconfig context instead, and removes what it made.
    """
    from drillbook.cli import doctor as readiness  # the steps take a while to import
    from drillbook.cli.conformance import conformance_report

    if conformance:
        options = probes.Options(namespace, object_store, endpoint_url, storage_size, storage_class, image)
        return conformance_report(out, options, probe or [], write)
    ready = True
    for item in readiness.examine(site, engine.outputs_dir()):
        mark, style = {True: ("ok", "green"), False: ("no", "bold red"), None: ("--", "yellow")}[item.ok]
        out.print(Text.assemble((f"{mark}  ", style), (f"{item.what:<18}", "bold"), item.found))
        if item.todo:
            out.print(Text(f"    → {item.todo}"))
        ready = ready and item.ok is not False
    out.print(Text("ready", style="bold green") if ready else Text("not ready", style="bold red"))
    return 0 if ready else BAD_USAGE


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "allow_interspersed_args": False},
    add_help_option=False,
)
def lab(context: typer.Context) -> None:
    """The embedded lab: up, down, status, env, run -- COMMAND, fault NAME."""
    if importlib.util.find_spec("drillbook_lab") is None:
        raise ParameterError(["the lab is not installed"], where="drillbook lab", todo="Install drillbook[lab].")
    # Another program takes this process's place: its signals and its exit status are its own.
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", "drillbook_lab", *context.args])  # noqa: S606 - no shell is wanted


def status(given: Sequence[str]) -> int:
    """Run the command line and return its exit status; every failure is reported on stderr."""
    try:
        code = int(app(arguments.pairs_joined(given), prog_name="drillbook", standalone_mode=False) or 0)
        return _interrupted() if code == _INTERRUPTED else code
    except TyperException as error:
        if error.format_message():  # none: the help was shown
            err.print(f"drillbook: {error.format_message()}", markup=False)
            err.print("drillbook --help shows what there is.")
        return BAD_USAGE
    except RunbookError as error:
        err.print("\n".join(error.lines()), markup=False)
        say_where_it_is(err, error.todo)
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        return _interrupted()
    except Exception:  # the last line of defence: whatever else comes here is an internal error
        err.print(traceback.format_exc(), markup=False)
        err.print(
            "This is a bug in Drillbook. drillbook list shows what is open, drillbook cleanup removes what is left."
        )
        return INTERNAL_ERROR


def _interrupted() -> int:
    err.print("stopped; drillbook list shows what is open, drillbook cleanup removes what is left")
    return STOPPED_MIDWAY


def main() -> None:
    """The ``drillbook`` program."""
    sys.exit(status(sys.argv[1:]))
