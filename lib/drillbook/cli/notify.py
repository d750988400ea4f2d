"""Informing people by the site's webhook that a run failed, proves nothing, or waits for them, or that a test is missing."""

from __future__ import annotations

from rich.console import Console

from drillbook import kube as k8s
from drillbook.cli.headless.settling import RunOutcome, opening_of
from drillbook.errors import PreconditionError, RunbookError
from drillbook.evidence import Masker
from drillbook.profile import Site, load_site
from drillbook.profile.schema import Occasion

WAITING, STOPPED_MIDWAY = 3, 6
_OF_VERDICT = {"FAILED": Occasion.FAILED, "UNPROVEN": Occasion.UNPROVEN}


def occasion(outcome: RunOutcome) -> Occasion | None:
    """What the end of a run is, if it is anything that people may want to know."""
    if outcome.exit_code in (WAITING, STOPPED_MIDWAY):
        return Occasion.WAITING
    return _OF_VERDICT.get(str(outcome.verdict or ""))


def tell_of_run(console: Console, outcome: RunOutcome) -> None:
    """Post the headline of a run where the profile asks for it. What goes wrong is printed: the run's status stays its own."""
    found = occasion(outcome)
    if found is not None:
        runbook, site = outcome.folder.parent.name, str(opening_of(outcome.folder)["parameters"].get("site", ""))
        pending = ", not archived yet" if outcome.pending else ""
        _tell(console, site, found, f"{runbook}: {outcome.headline} (run {outcome.run_id}{pending})")


def tell_of_due(console: Console, site: str, states: dict[str, str]) -> None:
    """Post which schedules are failed, missing, late or unproven, by runbook, where the profile asks for it."""
    if states:
        summary = ", ".join(f"{runbook} is {state}" for runbook, state in sorted(states.items()))
        _tell(console, site, Occasion.MISSING, f"restore tests: {summary}")


def _tell(console: Console, site: str, what: Occasion, text: str) -> None:
    try:
        profile = load_site(site)
        if what not in profile.announce.on or profile.announce.webhook is None:
            return
        from drillbook.steps.finish.webhook import send  # the steps take a while to import

        masker = Masker()
        answer = send(_address(profile, masker), masker.mask(f"[{profile.name}] {what.upper()}: {text}"))
    except RunbookError as error:
        console.print(f"nobody was informed: {error.what}", style="yellow", markup=False)
    else:
        console.print(f"informed  {answer}", markup=False)


def _address(site: Site, masker: Masker) -> str:
    where = site.announce.webhook
    assert where is not None  # noqa: S101 - asked before
    with k8s.Kube.open(site.kubernetes.kubeconfig, site.kubernetes.context, mask=masker.register) as kube:
        found = kube.secret(where.namespace, where.name).get(site.announce.key, "").strip()
    if not found:
        raise PreconditionError(
            f"Secret {where} has no key {site.announce.key}",
            todo="Put the webhook's address there, or correct announce.key.",
        )
    return found


__all__ = ["occasion", "tell_of_due", "tell_of_run"]
