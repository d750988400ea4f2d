"""A run as a notebook holds it: opened, resumed, let go, superseded, released. What it does is in :mod:`engine`."""

from __future__ import annotations

import os
import secrets
import threading
from pathlib import Path
from typing import Any, NoReturn

from drillbook.engine.alive import RunLock
from drillbook.engine.approval import who
from drillbook.engine.cluster_lock import ClusterLock, require_none_waits
from drillbook.engine.drawing import error_json
from drillbook.engine.kinds import kind_of
from drillbook.engine.observations import Observations
from drillbook.engine.opening import in_notebook, opening, package_sha256, public_names, waivers
from drillbook.engine.point_of_no_return import Midway
from drillbook.engine.previous_attempts import PreviousAttempts
from drillbook.engine.repeats import Repeats
from drillbook.engine.replay import Replay
from drillbook.engine.run_folders import run_dirs
from drillbook.engine.show import Display, mask_outputs
from drillbook.engine.step import Context
from drillbook.errors import NotResumable, ParameterError, RunbookError
from drillbook.evidence import Ledger, Masker, gates, judge, seal, sign_if_asked
from drillbook.evidence_store import note_pending
from drillbook.profile import Site
from drillbook.report import cards
from drillbook.report.page import render


class Handle:
    """A run's folder, lock, Lease and journal, and whether this object may still act."""

    def __init__(
        self,
        folder: Path,
        runbook: str,
        run_id: str,
        site: Site,
        *,
        given: dict[str, Any],
        note: str,
        past: PreviousAttempts | None = None,
    ) -> None:
        self.folder, self.runbook, self.run_id, self.site = folder, runbook, run_id, site
        self.mode, self._given = given["mode"], given
        self.masker = Masker(keep=public_names(site))
        self.lock = RunLock(folder)
        self.observations = Observations(folder, self.masker)
        self.observations.waived = waivers(site, runbook)
        self.journal = self.observations.journal
        self.context = Context(
            site=site,
            run_id=run_id,
            mode=self.mode,
            recorder=self.observations,
            mask=self.masker.register,
            parameters={name: value for name, value in given.items() if name not in ("site", "mode")},
            # Drawn for this run and kept in memory only: a digest of a small number can't be guessed from the record.
            digest_key=secrets.token_bytes(32),
            outputs=folder.parent.parent,
            require_lease=lambda: self._hold.require(),
        )
        self._note = note
        self._n = 0
        self._hold = ClusterLock(self.context)
        self._closed = False
        self._refused = ""  # the step at which the run was refused: it is over, and its cells do nothing more
        self._left = ""  # why nothing more is done by this object: the run was superseded, or let go
        self._seen = 0  # how many events there were when it was let go
        self._repeats = Repeats()
        self._acting = threading.RLock()  # a second thread (a subshell) waits for the step that runs
        self._replay = Replay(past, self.context, self.observations) if past is not None else None
        self._midway = Midway(self.journal, past.events if past is not None else ())

    # -- opening -------------------------------------------------------------------------------

    def start(self) -> None:
        """Journal the opening, enter it in the ledger, take the Lease, and show the run's card."""
        mask_outputs(self.masker.mask)
        actor: dict[str, Any] = {"username": os.environ.get("USER", ""), "strength": "declared"}
        trouble: RunbookError | None = None
        try:
            actor = self.context.kube.whoami().model_dump(mode="json")
        except RunbookError as error:
            trouble = error
        data = opening(
            self.site, run_id=self.run_id, runbook=self.runbook, given=self._given, note=self._note, actor=actor
        )
        if self.mode == "apply":
            data["previous"] = self.ledger.open(self.run_id, self.runbook)["previous"]
        self.journal.append("opened", **data)
        if trouble is not None:
            self._fail_open(trouble)
        try:
            if kind_of(self.runbook).alone:
                if self.mode == "apply":
                    require_none_waits(self.context.kube, self.site, {folder.name for folder in run_dirs()})
                self._hold.take()
        except RunbookError as error:
            self._fail_open(error)
        self._show(cards.run_card(self.journal.events()[0]))

    def go_on(self) -> None:
        """Take the Lease again and journal who resumes; what earlier attempts did comes from the journal."""
        mask_outputs(self.masker.mask)
        try:
            self._hold.take_over(self.journal.events())
            actor = who(self.context.kube)
        except RunbookError:
            self.release()
            raise
        attempt = gates.attempt(self.journal.events()) + 1
        package = package_sha256()
        self.journal.append(
            "resumed", attempt=attempt, actor=actor, note=self._note, package_sha256=package, **in_notebook()
        )
        self._show(cards.run_card(self.journal.events()[0]))

    # -- another opening in the same kernel ----------------------------------------------------

    @property
    def over(self) -> bool:
        """Whether this object has nothing left that another opening must care about: closed, or gone silently."""
        gone = not (self.lock.held or self._left or self._refused)
        return self._closed or gone or bool(self._left and self.ended_elsewhere)

    @property
    def unmoved(self) -> bool:
        """Whether it was resumed and has done nothing since: opening the runbook then means this run."""
        return self._replay is not None and self._n == 0 and not self._left

    def let_go(self, why: str) -> None:
        """Refuse every step until :meth:`take_up`; Lease and lock are given back, so that others can resume or abandon it."""
        with self._acting:
            if not self._left:
                self._left, self._seen = why, len(self.journal.events())
                self.release()

    def take_up(self) -> None:
        """Go on with this object; NotResumable if another process has gone on with the run, or ended it."""
        if self._left:
            since = {event["type"] for event in self.journal.events()[self._seen :]}
            if since - {"approved"}:
                raise NotResumable(
                    f"run {self.run_id} was continued elsewhere", todo="`drillbook list` shows what its state is."
                )
            try:
                self.lock = RunLock(self.folder)
            except BlockingIOError as error:
                raise NotResumable(f"run {self.run_id} is open in another kernel", todo="Go on there.") from error
            self._left = ""
        self._show(cards.run_card(self.journal.events()[0]))

    def supersede(self, by: str) -> None:
        """Close and seal this run, which has changed nothing, because run ``by`` is opened in its place."""
        with self._acting:
            self._left, self._closed = f"was superseded by run {by}", True
            self.journal.append("superseded", by=by)
            found = judge(self.journal.events())
            self.journal.append("closed", verdict=found.verdict, reasons=found.reasons, by="notebook")
            self.release()
            render(self.folder)
            if self.mode == "apply":
                seal(self.folder, self.ledger)
                sign_if_asked(self.folder, self.ledger, self.site.evidence)
                note_pending(self.folder, self.site)
            else:
                seal(self.folder, None)

    @property
    def ended_elsewhere(self) -> bool:
        """Whether its journal says that the run has ended."""
        return any(event["type"] == "closed" for event in self.journal.events())

    def _fail_open(self, error: RunbookError) -> NoReturn:
        self.journal.append(
            "step_finished",
            n=0,
            status="refused" if error.verdict is None else "failed",
            seconds=0.0,
            result=None,
            error=error_json(error),
        )
        self.release()
        raise error

    @property
    def ledger(self) -> Ledger:
        return Ledger.of(self.folder.parent.parent, self.site.name)

    def _require_open(self) -> None:
        if self._left or self._closed or self._refused:
            why = self._left or (f"was refused at {self._refused}" if self._refused else "is closed")
            todo = "Open a new run: run the cell that opens it again."
            if self._left and not self._closed:
                todo = f'Correct the cell that opens a run and run it again; `run = resume_run("{self.run_id}")` goes on with this one.'
            raise ParameterError([f"run {self.run_id} {why}"], where="run", todo=todo)

    def release(self) -> None:
        """Give back the Lease, close the clients; safe to call twice."""
        self._hold.give_back()
        self.context.close()
        self.observations.doing.forget()
        self.lock.release()

    def _show(self, bundle: dict[str, str]) -> None:
        Display(self.masker.mask).draw(bundle)
