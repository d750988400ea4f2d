"""The answer of a search for a cause: one cause with its evidence and its fix, or that there is nothing to fix here; pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from drillbook.model import Frozen

SIDECAR = "plugin-barman-cloud"
NOT_YOURS = "NOT YOUR PROBLEM"


class ObjectPatch(Frozen):
    """A merge patch (RFC 7396) of one Kubernetes object."""

    kind: str
    namespace: str
    name: str
    merge: dict[str, Any]


class Cause(Frozen):
    """Why; ``seen`` is the evidence, ``fix`` what to do; ``patch`` is the same where it is one change of one object."""

    name: str
    seen: str
    fix: str
    patch: ObjectPatch | None = None


class Named(Frozen):
    """The answer: the cause with its fix, or that there is nothing to fix here."""

    answer: str
    cause: str = ""
    fix: str = ""
    patch: ObjectPatch | None = None

    def rows(self) -> Iterator[tuple[str, str]]:
        yield "Answer", self.answer
        if self.fix:
            yield "Fix", self.fix


def name_cause(wrong: Sequence[str], found: Sequence[Cause], *, well: str) -> Named:
    """The first of the causes ``found``; none of them where nothing is ``wrong``, because then it is ``well``."""
    if not wrong:
        return Named(answer=f"{NOT_YOURS}: {well}.")
    if not found:
        return Named(answer=f"NOT FOUND. {wrong[0]}")
    return Named(
        answer=f"{found[0].name.upper()}. {found[0].seen}", cause=found[0].name, fix=found[0].fix, patch=found[0].patch
    )


__all__ = ["NOT_YOURS", "SIDECAR", "Cause", "Named", "ObjectPatch", "name_cause"]
