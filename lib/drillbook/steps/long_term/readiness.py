"""What an annual restore needs beyond any drill: the profile's section, and the key that may ask for objects."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from drillbook import kube as k8s
from drillbook.archive.location import open_retriever
from drillbook.engine.step import Context
from drillbook.errors import NotReady, PreconditionError
from drillbook.evidence.facts import Facts, TestKind
from drillbook.steps.long_term.location import place, reading, settings
from drillbook.steps.preflight.readiness import CheckReadiness, SourceCluster


@dataclass(frozen=True)
class CheckLongTermReadiness(CheckReadiness):
    """The right cluster, the rights to recover a copy, and the two keys to the long-term location.

    The profile must say where the long-term backups lie. The reader's key lists and reads them; another one may ask for
    archived objects, and nothing else.
    """

    compares_rows: ClassVar[bool] = False

    def do(self, ctx: Context) -> SourceCluster:
        secret, faults = settings(ctx).secret, []
        cluster = super().do(ctx)
        where = ctx.site.drillbook_namespace
        if secret is not None and not ctx.kube.can_i("get", k8s.SECRET, namespace=where, name=secret.name):
            faults.append(f"missing right: get on secrets/{secret.name} in {where} (deploy/rbac/drillbook.yaml)")
        else:
            try:
                with open_retriever(ctx.kube, ctx.site, place(ctx), settings(ctx)):
                    pass  # nothing is asked of the store by this key before the gate
            except PreconditionError as error:
                faults.append(f"{error.what}: {error.todo}")
        try:
            with reading(ctx):
                pass
        except PreconditionError as error:
            faults.append(f"{error.what}: {error.todo}")
        if faults:
            raise NotReady(faults, where=f"Site {ctx.site.name}")
        ctx.recorder.note(Facts(test=TestKind(type="annual restore from the long-term archive, and retention audit")))
        return cluster


__all__ = ["CheckLongTermReadiness"]
