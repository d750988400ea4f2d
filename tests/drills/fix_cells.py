"""The tiny procedure's cells, run one after the other in this process, as a notebook's kernel does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny_steps import Drain, LookAround, MakeThing, RemoveThing, Replace, ScaleUp, ValueIsNew

from drillbook.engine import Run, open_run
from drillbook.errors import ConfirmationRequired


def begin(site: str, **given: Any) -> Run:
    return open_run("change-tiny", site=site, **({"mode": "apply", "value": "new"} | given))


def cells(run: Run, upto: str = "close") -> Run:
    """The notebook's cells in their order, up to and with that step."""
    seen = run.do(LookAround())
    if upto == "LookAround":
        return run
    made = run.do(MakeThing(seen))
    if upto == "MakeThing":
        return run
    drain, replace, scale = Drain(), Replace(seen, "new"), ScaleUp()
    cut = run.plan("Replace the value", drain, replace, scale)
    run.confirm(cut)
    for step in (drain, replace, scale):
        result = run.do(step)
        replaced = result if step is replace else locals().get("replaced")
        if upto == type(step).__name__:
            return run
    run.do(ValueIsNew(replaced, "new"))  # type: ignore[arg-type]
    if upto == "ValueIsNew":
        return run
    run.do(RemoveThing(made))
    if upto == "RemoveThing":
        return run
    run.close()
    return run


def confirmed(run: Run) -> str:
    """Run to the gate, and the phrase that it asks for."""
    with pytest.raises(ConfirmationRequired):
        cells(run)
    phrase: str = run.journal.events()[-1]["phrase"]
    return phrase


def dies(run: Run) -> None:
    """Its process is gone silently: nothing is given back, nothing is written."""
    run.context.close()
    run.lock.release()


def closed(run: Run) -> Path:
    dies(run)
    return run.folder


def to_the_gate(run: Run) -> None:
    """A gate before anything is made."""
    seen = run.do(LookAround())
    with pytest.raises(ConfirmationRequired):
        run.confirm(run.plan("Replace the value", Drain(), Replace(seen, "new"), ScaleUp()))
