"""What has to be changed in Git after a cut, so that what is declared is what is there."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import yaml

from drillbook.engine.step import Context, Step
from drillbook.model import ArchivedCommit, Frozen, show_instant
from drillbook.steps.cutover.application import addressed
from drillbook.steps.preflight.readiness import SourceCluster
from drillbook.steps.recovery.replacement import ReplacementCluster


class GitPatch(Frozen):
    """``profile``: this site's profile; ``manifests``: the Cluster; ``addresses``: where applications are pointed, in words."""

    profile: str
    manifests: str
    addresses: tuple[str, ...]

    def _repr_markdown_(self) -> str:
        points = "".join(f"- {line}\n" for line in self.addresses)
        return f"**The profile**\n\n```yaml\n{self.profile}```\n\n**The Cluster**\n\n```yaml\n{self.manifests}```\n\n{points}"


@dataclass(frozen=True)
class PatchForGit(Step[GitPatch]):
    """Write down what has to be changed in Git.

    The profile keeps both serverNames with their periods: a recovery to before the cut reads the old one. The declared
    Cluster must name the new serverName, or the next sync would archive into the old history.
    """

    old: SourceCluster
    replacement: ReplacementCluster
    newest: ArchivedCommit | None = None
    at: datetime | None = None  # when the old line ended, where it went on after what was recovered

    def do(self, ctx: Context) -> GitPatch:
        # A period ends with the newest commit that the old line holds and the new one goes on from.
        cut = self.at or (self.newest.committed_at if self.newest is not None else self.replacement.created_at)
        known = [period.model_dump(mode="json", exclude_none=True) for period in ctx.site.archive.server_names]
        periods = known or [{"name": self.old.server_name}]
        periods[-1] = periods[-1] | {"until": show_instant(cut)}
        periods.append({"name": self.replacement.server_name, "since": show_instant(cut)})
        one_name = {"server_name": ""} if ctx.site.archive.server_name else {}  # the profile has one way of naming them
        profile: dict[str, Any] = {"archive": one_name | {"server_names": periods}}
        if self.replacement.ref.name != self.old.ref.name:
            profile["cluster"] = {"namespace": self.replacement.ref.namespace, "name": self.replacement.ref.name}
        spec = ctx.cluster_object(self.replacement.ref)["spec"]
        kept = {
            key: spec[key]
            for key in ("description", "bootstrap", "externalClusters", "plugins", "backup")
            if key in spec
        }
        manifest = {"kind": "Cluster", "metadata": {"name": self.replacement.ref.name}, "spec": kept}
        points: list[str] = []
        if self.replacement.ref.name != self.old.ref.name:
            found, others = addressed(ctx, self.old.ref.name, self.replacement.ref.name)
            points = [f"{one.where}: {self.old.ref.name}-rw becomes {self.replacement.ref.name}-rw" for one in found]
            points += [f"not changed by this run: {text}" for text in others]
        result = GitPatch(profile=_yaml(profile), manifests=_yaml(manifest), addresses=tuple(points))
        ctx.recorder.log("git.patch.yaml", f"# sites/{ctx.site.name}.yaml\n{result.profile}---\n{result.manifests}")
        return result


def _yaml(value: dict[str, Any]) -> str:
    return yaml.safe_dump(value, sort_keys=False, default_flow_style=False)


__all__ = ["GitPatch", "PatchForGit"]
