"""The folder for a site: its profile, what to apply, and APPLY.md, which lists it in order with what each grants."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from drillbook.cli.init import profile_text, rendering
from drillbook.cli.init.choices import Choices
from drillbook.cli.init.discovery import Found
from drillbook.errors import ParameterError
from drillbook.profile import load_site

PROFILE, APPLY, KUBECONFIG, TOKEN = "site.yaml", "APPLY.md", "kubeconfig.yaml", "token"
_CLUSTERS = "clusters.postgresql.cnpg.io"
# What some operators don't want: asked for by one kind of runbook only.
OPTIONAL = {
    "backups": ("rbac/backups.yaml",),
    "change": ("change/rbac.yaml",),
    "troubleshoot": ("rbac/troubleshoot.yaml",),
    "recover": ("recover/rbac.yaml",),
    "replace": ("replace/rbac.yaml",),
}


@dataclass(frozen=True)
class ApplyStep:
    """One thing to apply: its title, what it grants or does, and the one command."""

    title: str
    grants: tuple[str, ...]
    command: str


def require_room(root: Path, out: Path | None) -> Path:
    """``deploy/`` of the checkout at ``root``. ParameterError: it isn't there, or the folder ``out`` is there already."""
    if out is not None and out.exists():
        raise ParameterError(
            [f"{out} is there already"],
            where="drillbook init",
            todo="Name another folder with --out, or remove it yourself.",
        )
    return rendering.deploy_folder(root)


def write(found: Found, choices: Choices, out: Path, *, root: Path, kubectl: tuple[str, ...] = ()) -> None:
    """Write the folder ``out``, whole or not at all. ``kubectl`` are the options that reach the same cluster by kubectl.

    ParameterError: it is there already, it can't be written, or the answers make no valid profile.
    """
    deploy = require_room(root, out)
    files, steps = _files_and_steps(found, choices, deploy, out, " ".join(["kubectl", *map(shlex.quote, kubectl)]))
    partial = out.with_name(f".{out.name}.partial")
    try:
        partial.mkdir(parents=True)
        for name, text in (files | {APPLY: _page(found, choices, out, steps)}).items():
            path = partial / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
        load_site(str(partial / PROFILE), start=Path.cwd())
        partial.rename(out)
    except OSError as error:
        raise ParameterError([f"{out} can't be written: {error.strerror}"], where="drillbook init") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _files_and_steps(
    found: Found, choices: Choices, deploy: Path, out: Path, kubectl: str
) -> tuple[dict[str, str], list[ApplyStep]]:
    files = {
        PROFILE: profile_text.text(found, choices, kubeconfig=KUBECONFIG, context=_context(choices)),
        KUBECONFIG: rendering.kubeconfig(found, _context(choices), TOKEN),
        ".gitignore": f"{TOKEN}\n",
    }
    steps: list[ApplyStep] = []

    def add(name: str, text: str) -> str:
        files[name] = text
        return shlex.quote(str(out / name))

    namespaces = add("10-namespaces.yaml", rendering.manifests([deploy / "namespaces.yaml"], found, choices))
    made = f"nothing: makes `{choices.drillbook_namespace}` and `{choices.drill_namespace}`"
    steps.append(ApplyStep("Namespaces", (made,), f"{kubectl} apply -f {namespaces}"))
    # Backups and logs are no part of a drill; and an account comes before what is bound to it.
    rights = sorted((deploy / "rbac").glob("*.yaml"), key=lambda path: (path.name != "identity.yaml", path.name))
    stream = rendering.manifests([path for path in rights if path.stem not in OPTIONAL], found, choices)
    granting = f"{kubectl} apply -f {add('20-rights.yaml', stream)}"
    steps.append(ApplyStep("The ServiceAccount and its rights", tuple(rendering.grants(stream)), granting))
    steps += _secrets(found, choices, kubectl)
    steps += _sql_steps(found, deploy / "sql", kubectl, add)
    if rendering.managed_entry(found.cluster) is None:
        template = (deploy / "sql" / "managed-role.yaml").read_text(encoding="utf-8")
        patch = add("80-managed-role.json", rendering.managed_patch(found.cluster, template, choices.sql_secret))
        steps.append(
            ApplyStep(
                "The role's password, kept by CloudNativePG",
                (
                    "the role logs in with the Secret's password. Where the Cluster's manifest is in Git, add the entry there as well",
                ),
                f"{kubectl} -n {found.namespace} patch {_CLUSTERS} {found.name} --type=json --patch-file {patch}",
            )
        )
    backup = f"drillbook-{choices.name}-{datetime.now(UTC):%Y%m%d%H%M%S}"
    steps.append(
        ApplyStep(
            "A base backup that holds the role",
            (
                "nothing: adds one base backup to the archive; the copy needs one that was taken after the role was made",
            ),
            f"{kubectl} apply -f {add('90-backup.yaml', rendering.backup(found, backup))} && {kubectl} -n {found.namespace} wait "
            f"--for=jsonpath='{{.status.phase}}'=completed backups.postgresql.cnpg.io/{backup} --timeout=2h",
        )
    )
    steps.append(
        ApplyStep(
            "Becoming the ServiceAccount",
            (
                f"this machine what step 2 grants, for eight hours: `{KUBECONFIG}` reads the token from `{TOKEN}`. Repeat it when it has expired",
            ),
            f"(umask 077; {kubectl} -n {choices.drillbook_namespace} create token {rendering.ROLE} --duration=8h "
            f"> {shlex.quote(str(out / TOKEN))})",
        )
    )
    for key, paths in OPTIONAL.items():
        files[f"optional/{key}.yaml"] = rendering.manifests([deploy / path for path in paths], found, choices)
    return files, steps


def _context(choices: Choices) -> str:
    return f"drillbook-{choices.name}"


def _sql_steps(found: Found, sql: Path, kubectl: str, add: Callable[[str, str], str]) -> Iterator[ApplyStep]:
    primary = f"$({kubectl} -n {found.namespace} get {_CLUSTERS} {found.name} -o jsonpath='{{.status.currentPrimary}}')"
    psql = (
        f'{kubectl} -n {found.namespace} exec -i "{primary}" -c postgres -- psql -X -U postgres -v ON_ERROR_STOP=1 -d'
    )
    script = add("30-role.sql", (sql / "drillbook-role.sql").read_text(encoding="utf-8"))
    what = "to log in, at most ten times at once; to switch WAL; its own database; no right on any tenant's"
    yield ApplyStep("The role drillbook and its database", (what,), f"{psql} postgres < {script}")
    template = (sql / "drillbook-tenant.sql").read_text(encoding="utf-8")
    for number, database in enumerate(found.databases, 1):
        name = "".join(letter if letter.isalnum() or letter in "-_" else "-" for letter in database.name)
        script = add(f"40-read-{number:02}-{name}.sql", rendering.tenant_sql(database, template))
        what = f"CONNECT, and SELECT on all tables, later ones too, of: {', '.join(database.schemas) or 'no schema'}"
        yield ApplyStep(
            f"What is read of database {database.name}", (what,), f"{psql} {shlex.quote(database.name)} < {script}"
        )


def _source_secret(found: Found, choices: Choices) -> str:
    """The Secret of the source's namespace with the role's password: the Cluster's own entry may name one already."""
    entry = rendering.managed_entry(found.cluster) or {}
    return str((entry.get("passwordSecret") or {"name": choices.sql_secret})["name"])


def _secrets(found: Found, choices: Choices, kubectl: str) -> Iterator[ApplyStep]:
    """Each Secret with the one that it is made from; a value goes through a pipe and is never shown."""
    source, own, copies = found.namespace, choices.drillbook_namespace, choices.drill_namespace
    login = {"username": "username", "password": "password"}
    password = _source_secret(found, choices)
    if rendering.managed_entry(found.cluster) is None:
        yield ApplyStep(
            f"Secret {source}/{password}",
            (f"nothing yet: a new password for the role {rendering.ROLE}",),
            f"openssl rand -hex 24 | tr -d '\\n' | {kubectl} -n {source} create secret generic {password} --type=kubernetes.io/basic-auth "
            f"--from-literal=username={rendering.ROLE} --from-file=password=/dev/stdin",
        )
    yield _copied(
        kubectl, (source, password), (own, choices.sql_secret), login, "the same password, where Drillbook may read it"
    )
    for database in found.databases:
        if database.login:
            what = f"the login of {database.owner}, to prove on a copy that it works"
            yield _copied(kubectl, (source, database.login), (own, choices.login_secret(database.name)), login, what)
    keys = list(rendering.secret_keys(found))
    if keys:
        (_, writer, _), *_ = keys
        what = (
            f"copies and Drillbook read `{found.archive.location}`. Better: make at the object store a key that can only list and "
            f"read there, and put that into this Secret under {', '.join(key for key, *_ in keys)} instead; this command copies the "
            "cluster's own key, which may write, though a copy never does"
        )
        yield _copied(
            kubectl, (source, writer), (copies, choices.reader_secret), {key: old for key, _, old in keys}, what
        )
    if authority := found.archive.configuration.get("endpointCA"):
        yield _copied(
            kubectl,
            (source, authority["name"]),
            (copies, authority["name"]),
            {authority["key"]: authority["key"]},
            "nothing: the object store's private CA, no secret",
        )
    for item in found.cluster["spec"].get("imagePullSecrets") or []:
        yield _copied(
            kubectl,
            (source, item["name"]),
            (copies, item["name"]),
            {".dockerconfigjson": ".dockerconfigjson"},
            "copies are pulled from the same registry",
        )


def _copied(kubectl: str, old: tuple[str, str], new: tuple[str, str], keys: dict[str, str], what: str) -> ApplyStep:
    data = ",".join(f'"{key}":"{{{{index .data "{was}"}}}}"' for key, was in keys.items())
    meta = f'"metadata":{{"namespace":"{new[0]}","name":"{new[1]}"}}'
    made = f'{{"apiVersion":"v1","kind":"Secret",{meta},"type":"{{{{.type}}}}","data":{{{data}}}}}'
    command = f"{kubectl} -n {old[0]} get secret {old[1]} -o go-template='{made}' | {kubectl} create -f -"
    return ApplyStep(f"Secret {new[0]}/{new[1]}, from {old[0]}/{old[1]}", (what,), command)


def _page(found: Found, choices: Choices, out: Path, steps: list[ApplyStep]) -> str:
    site = shlex.quote(str(out / PROFILE))
    runbook = "runbooks/drill-monthly-verification.ipynb"
    lines = [
        f"# Drillbook for Cluster {found.namespace}/{found.name}, site {choices.name}",
        "",
        f"Written by `drillbook init`, which changed nothing. Read `{PROFILE}` first, the lines marked CHECK above all; then run these "
        "in order, as somebody who administers the cluster, from the folder in which `drillbook init` ran. A step that says "
        "`AlreadyExists` was done before.",
    ]
    for number, item in enumerate(steps, 1):
        lines += [
            "",
            f"## {number}. {item.title}",
            "",
            "Grants:",
            "",
            *(f"- {grant}" for grant in item.grants),
            "",
            "```sh",
            item.command,
            "```",
        ]
    lines += [
        "",
        "## Then",
        "",
        "Ready? If not, the lines say what is missing. Then a plan, which changes nothing; read it before the drill.",
        "",
        "```sh",
        f".venv/bin/drillbook doctor --site {site}",
        f".venv/bin/drillbook run {runbook} --site {site}",
        f".venv/bin/drillbook run {runbook} --site {site} --mode apply",
        "```",
        "",
        "## Not needed for drills",
        "",
        "- `optional/backups.yaml`: `backup-manual` may ask for a base backup in the source's namespace.",
        "- `optional/change.yaml`: for the time of a change of connections only; a canary alongside the application, its variables, the Cluster and its Poolers.",
        "- `optional/troubleshoot.yaml`: the troubleshoot- runbooks may read the logs of instances, which may hold statements and rows, and Jobs and volume claims.",
        "- `optional/recover.yaml`, `optional/replace.yaml`: for the time of a recovery only; as much as the databases' superuser.",
        "",
        f"A schedule: write `schedules` into the profile, then `.venv/bin/drillbook schedule --site {site} --image IMAGE --out DIR`.",
    ]
    return "\n".join(lines) + "\n"
