"""The lab's command line: `up down status env run fault long-term writer reconciler`. Exit status: 0 ok, 1 failed, 4 bad usage."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from drillbook_lab.agent.procs import tied
from drillbook_lab.errors import LabError
from drillbook_lab.faults import catalogue as faults
from drillbook_lab.faults import cluster as faultcluster
from drillbook_lab.home import LabHome, default_home
from drillbook_lab.node import supervise
from drillbook_lab.node.pinning import write_site
from drillbook_lab.site import long_term
from drillbook_lab.site.site import load
from drillbook_lab.store.retrieval import ARCHIVED
from drillbook_lab.usage import UsageFault
from drillbook_lab.view import Client

FAILED = 1
USAGE = 4

app = typer.Typer(
    help="The embedded lab: real PostgreSQL, barman and S3 behind a Kubernetes-shaped API, on this machine only.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
# A pipe has no width: tables are not to be squeezed for it.
out = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 200)
err = Console(stderr=True, highlight=False, soft_wrap=True)

HomeOption = Annotated[
    Path | None, typer.Option("--home", help="The lab's folder; else $DRILLBOOK_LAB_HOME, else the state directory.")
]
ProfileOption = Annotated[str, typer.Option("--profile", help="Which site to build: first or second.")]
DataOption = Annotated[float, typer.Option("--data-mb", min=0.0, help="Size of the tenants' data in megabytes.")]
InstancesOption = Annotated[
    int,
    typer.Option(
        "--instances",
        min=1,
        max=3,
        envvar="DRILLBOOK_LAB_INSTANCES",
        help="PostgreSQL instances of the site's cluster.",
    ),
]
MethodOption = Annotated[
    str,
    typer.Option(
        "--backup-method",
        envvar="DRILLBOOK_LAB_BACKUP_METHOD",
        help="How the site archives: plugin or barmanObjectStore.",
    ),
]
RecoverOption = Annotated[
    bool,
    typer.Option(
        "--recover",
        help="Grant what the recover- and change- runbooks need, too (deploy/recover/, deploy/replace/, deploy/change/).",
    ),
]
SiteOption = Annotated[
    Path | None, typer.Option("--site", help="The site profile to pin and export; else the one in sites/.")
]


def _home(chosen: Path | None) -> LabHome:
    return LabHome(chosen.absolute() if chosen is not None else default_home())


@app.command()
def up(
    home: HomeOption = None,
    profile: ProfileOption = "first",
    data_mb: DataOption = 60.0,
    instances: InstancesOption = 1,
    backup_method: MethodOption = "plugin",
    recover: RecoverOption = False,
) -> None:
    """Start the lab and build its site; a lab that is up already is left as it is."""
    load(profile, backup_method)  # an unknown one is bad usage, and said before anything starts
    lab = _home(home)
    began = time.monotonic()
    if lab.is_running() and lab.state().get("ready"):
        state = lab.state()
        if state.get("profile") != profile:
            raise UsageFault(
                "another site's lab is up", f"profile {state.get('profile')} in {lab.root}", "drillbook lab down"
            )
        out.print(f"The lab is up already: {state['namespace']}/{state['cluster']} at {state['url']}")
        return
    daemon = None
    if not lab.is_running():
        if lab.is_resumable and lab.state().get("profile") != profile:
            raise UsageFault(
                "another site's lab lies here", f"profile {lab.state()['profile']} in {lab.root}", "drillbook lab down"
            )
        if lab.is_resumable:  # it goes on as what it is, whatever is the default
            backup_method = lab.state().get("backup_method", backup_method)
        more = ("--instances", str(instances), "--backup-method", backup_method, *(["--recover"] if recover else []))
        daemon = supervise.start(lab, supervise.daemon_command(lab, profile, data_mb, *more), detached=True)
    try:
        state = supervise.follow(lab, daemon, _stage)
    except (LabError, KeyboardInterrupt):
        if daemon is not None and daemon.poll() is None:
            daemon.send_signal(signal.SIGTERM)
            daemon.wait(30)
        raise
    out.print(f"The lab is up after {time.monotonic() - began:.1f} s: {state['namespace']}/{state['cluster']}")
    out.print('To use it in this shell: eval "$(drillbook lab env)"', markup=False)


def _stage(line: dict[str, Any]) -> None:
    if line["state"] == "done":
        note = f"  {line['note']}" if line["note"] else ""
        out.print(f"  {line['stage']:<32} {line['seconds']:5.1f} s{note}", markup=False)
    elif line["state"] == "failed":
        err.print(f"  {line['stage']:<32} failed: {line['note']}", markup=False)


@app.command()
def down(home: HomeOption = None) -> None:
    """End the lab and remove everything of it: processes, sockets, data."""
    lab = _home(home)
    out.print("The lab is gone." if supervise.down(lab) else f"There is no lab in {lab.root}.", markup=False)


@app.command()
def status(
    home: HomeOption = None, as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False
) -> None:
    """Show the cluster, its backups, the processes and the addresses; 1 if no lab is up."""
    lab = _home(home)
    state = lab.state()
    if not lab.is_running() or not state.get("ready"):
        known = "is being built" if lab.is_running() else "is not up"
        raise LabError(f"the lab {known}", str(lab.root), "drillbook lab up")
    found = _status(lab, state)
    if as_json:
        out.print_json(json.dumps(found))
        return
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for name, value in (
        ("API server", found["url"]),
        ("Object store", found["endpoint"]),
        ("Site", f"{found['profile']} ({found['namespace']}/{found['cluster']})"),
        ("Cluster", f"{found['phase']}, timeline {found['timeline']}, system {found['system_id']}"),
        ("WAL archiving", found["archiving"]),
        ("Faults in force", ", ".join(found["faults"]) or "none"),
        ("Kubeconfig", str(lab.kubeconfig)),
    ):
        table.add_row(name, value)
    out.print(table)
    backups = Table("Backup", "Phase", "Id", "Ended", title="Backups", title_justify="left", box=None)
    for backup in found["backups"]:
        backups.add_row(backup["name"], backup["phase"], backup["id"], backup["stopped_at"])
    out.print(backups)
    processes = Table("Process", "Pid", title="Processes", title_justify="left", box=None)
    for process in found["processes"]:
        processes.add_row(process["what"], str(process["pid"] or "not running"))
    out.print(processes)


def _status(lab: LabHome, state: dict[str, Any]) -> dict[str, Any]:
    client = Client(lab)
    namespace, name = state["namespace"], state["cluster"]
    cluster = client.get(f"/apis/postgresql.cnpg.io/v1/namespaces/{namespace}/clusters/{name}")
    backups = client.get(f"/apis/postgresql.cnpg.io/v1/namespaces/{namespace}/backups")["items"]
    told = cluster.get("status") or {}
    conditions = {entry["type"]: entry for entry in told.get("conditions") or ()}
    archiving = conditions.get("ContinuousArchiving") or {"status": "Unknown", "message": "no attempt yet"}
    return {
        **{key: state[key] for key in ("url", "endpoint", "profile", "namespace", "cluster", "pid")},
        "home": str(lab.root),
        "phase": told.get("phase", ""),
        "timeline": told.get("timelineID"),
        "system_id": told.get("systemID"),
        "archiving": archiving["message"] if archiving["status"] == "True" else f"failing: {archiving['message']}",
        "faults": faults.in_force(lab),
        "backups": [
            {
                "name": backup["metadata"]["name"],
                "phase": (backup.get("status") or {}).get("phase", ""),
                "id": (backup.get("status") or {}).get("backupId", ""),
                "stopped_at": (backup.get("status") or {}).get("stoppedAt", ""),
            }
            for backup in backups
        ],
        "processes": faults.control(lab, {"op": "status"})["processes"],
    }


def environment(lab: LabHome, site: Path | None) -> dict[str, str]:
    """What a program needs to find the lab, and nothing that says that it is one."""
    found = {"KUBECONFIG": str(lab.kubeconfig)}
    pinned = write_site(lab, site)
    if pinned is not None:
        found["DRILLBOOK_SITE"] = str(pinned)
    return found


@app.command()
def env(home: HomeOption = None, site: SiteOption = None) -> None:
    """Print `export` lines: KUBECONFIG with the contexts `lab` (least privilege) and `lab-admin`."""
    lab = _home(home)
    if not lab.is_running():
        raise LabError("the lab is not up", str(lab.root), "drillbook lab up")
    for name, value in environment(lab, site).items():
        typer.echo(f"export {name}={shlex.quote(value)}")


@app.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
def run(
    command: Annotated[list[str], typer.Argument(help="The command, after --.")],
    profile: ProfileOption = "first",
    data_mb: DataOption = 60.0,
    site: SiteOption = None,
    instances: InstancesOption = 1,
    backup_method: MethodOption = "plugin",
    recover: RecoverOption = False,
) -> None:
    """Run a command against its own lab, which dies with it; the exit status is the command's."""
    load(profile, backup_method)
    if shutil.which(command[0]) is None:
        raise UsageFault("there is no such command", command[0])
    lab = LabHome(Path(tempfile.mkdtemp(prefix="drillbook-lab-")))
    granted = ["--recover"] if recover else []
    more = ("--throwaway", "--instances", str(instances), "--backup-method", backup_method, *granted)
    argv = supervise.daemon_command(lab, profile, data_mb, *more)
    daemon = supervise.start(lab, argv, detached=False)
    try:
        supervise.follow(lab, daemon, _stage_to_stderr)
        code = _command(command, {**os.environ, **environment(lab, site)})
    except LabError as fault_:
        raise LabError(fault_.what, fault_.found) from fault_  # its log goes with the lab: no use in naming it
    finally:
        if daemon.poll() is None:
            daemon.send_signal(signal.SIGTERM)
        try:
            daemon.wait(30)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()
        lab.clear()
        shutil.rmtree(lab.root, ignore_errors=True)
    raise _Ended(code)


def _stage_to_stderr(line: dict[str, Any]) -> None:
    # The command's own output is the only thing on stdout.
    if line["state"] == "done":
        err.print(f"  {line['stage']:<32} {line['seconds']:5.1f} s", markup=False)


def _command(command: list[str], env: dict[str, str]) -> int:
    """Run it to its end; a signal to us is passed on, and its exit status is ours."""
    child = subprocess.Popen(command, env=env, preexec_fn=tied(signal.SIGTERM))
    for signum in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, lambda received, _: child.send_signal(received))
    while True:
        try:
            code = child.wait()
            return code if code >= 0 else 128 - code
        except KeyboardInterrupt:
            continue  # the terminal has sent it to the command as well


@app.command()
def fault(
    name: Annotated[str | None, typer.Argument(help="The fault; see --list.")] = None,
    undo: Annotated[bool, typer.Option("--undo", "--off", help="Put it back as it was.")] = False,
    all_off: Annotated[bool, typer.Option("--all-off", help="Put back whatever is broken.")] = False,
    listing: Annotated[bool, typer.Option("--list", help="Show the faults, and which are in force.")] = False,
    home: HomeOption = None,
) -> None:
    """Break something for real, or fix it again."""
    lab = _home(home)
    if listing or (name is None and not all_off):
        _show_faults(lab)
        return
    if name is not None and (all_off or name not in {entry.name for entry in faults.catalogue()}):
        if all_off:
            raise UsageFault("--all-off goes without a name", name)
        faults.inject(lab, name)  # says which there are
    if not lab.is_running():
        raise LabError("the lab is not up", str(lab.root), "drillbook lab up")
    if name is None:
        lifted = faults.mend_all(lab)
        out.print(f"undone: {', '.join(lifted)}" if lifted else "No fault is in force.", markup=False)
    elif undo:
        faults.restore(lab, name)
        out.print(f"{name}: undone", markup=False)
    else:
        out.print(f"{name}: {faults.inject(lab, name)}", markup=False)


@app.command(name="long-term")
def long_term_(
    years: Annotated[int, typer.Option(help="Of how many years one is made.", min=1, max=50)] = 7,
    storage_class: Annotated[str, typer.Option(help="GLACIER, DEEP_ARCHIVE or STANDARD.")] = "GLACIER",
    home: HomeOption = None,
) -> None:
    """Make long-term backups: the newest base backup, dated back year by year, in an archive class."""
    if storage_class not in (*ARCHIVED, "STANDARD"):
        raise UsageFault(
            "there is no such storage class here", repr(storage_class), "GLACIER, DEEP_ARCHIVE or STANDARD"
        )
    lab = _home(home)
    if not lab.is_running():
        raise LabError("the lab is not up", str(lab.root), "drillbook lab up")
    made = long_term.put(lab, years, storage_class)
    out.print(f"{len(made)} long-term backups in {storage_class}: {', '.join(made)}", markup=False)


def _show_faults(lab: LabHome) -> None:
    active = faults.in_force(lab)
    table = Table("Fault", "What it breaks", "State", "How to lift", box=None)
    for entry in faults.catalogue():
        on = entry.name in active
        table.add_row(entry.name, entry.about, faults.did(lab, entry.name) if on else "off", entry.lift if on else "")
    out.print(table)


@app.command()
def writer(action: Annotated[str, typer.Argument(help="start or stop")], home: HomeOption = None) -> None:
    """Start or stop the tenants' writer."""
    if action not in ("start", "stop"):
        raise UsageFault("the writer can be started or stopped", repr(action), "lab writer start | lab writer stop")
    faults.control(_home(home), {"op": "writer", "run": action == "start"})
    out.print(f"The writer is {'running' if action == 'start' else 'stopped'}.", markup=False)


@app.command()
def psql(
    database: Annotated[str, typer.Argument(help="A database of the site's cluster.")],
    statement: Annotated[str, typer.Argument(help="One SQL statement.")],
    home: HomeOption = None,
) -> None:
    """Run one statement as superuser in the primary's pod, to see or to damage data by hand; psql's status is ours."""
    lab = _home(home)
    if not lab.is_running():
        raise LabError("the lab is not up", str(lab.root), "drillbook lab up")
    argv = ["psql", "-X", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-d", database, "-c", statement]
    done = faultcluster.execute(lab, faultcluster.primary(lab), argv)
    out.print(str(done["output"]).rstrip(), markup=False, highlight=False)
    if done["code"]:
        raise _Ended(int(done["code"]))


@app.command(name="reconciler")
def reconciler_(action: Annotated[str, typer.Argument(help="on or off")], home: HomeOption = None) -> None:
    """Have a reconciler, in Argo CD's place, hold the application to the manifests in a folder; or have it no longer."""
    lab = _home(home)
    if action not in ("on", "off"):
        raise UsageFault("the reconciler can be on or off", repr(action), "lab reconciler on | lab reconciler off")
    if not lab.is_running():
        raise LabError("the lab is not up", str(lab.root), "drillbook lab up")
    faults.control(lab, {"op": "reconciler", "run": action == "on"})
    out.print(f"It applies {lab.declared} every two seconds." if action == "on" else "It is off.", markup=False)


class _Ended(Exception):
    """A command of `lab run` has ended: its exit status is ours, whatever it is."""

    def __init__(self, code: int) -> None:
        self.code = code


def main() -> int:
    """Run the command line; every way to end has its exit status."""
    try:
        app()
    except SystemExit as end:
        # typer itself ends a usage error with 2 and an interruption with 130.
        return {0: 0, None: 0, 2: USAGE}.get(end.code if isinstance(end.code, int | None) else FAILED, FAILED)
    except _Ended as end:
        return end.code
    except LabError as fault_:
        err.print(f"{fault_.what}: {fault_.found}" if fault_.found else fault_.what, markup=False)
        if fault_.to_do:
            err.print(f"To do: {fault_.to_do}", markup=False)
        return USAGE if isinstance(fault_, UsageFault) else FAILED
    except KeyboardInterrupt:
        return FAILED
    return 0


if __name__ == "__main__":
    sys.exit(main())
