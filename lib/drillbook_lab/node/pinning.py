"""The site profile of a running lab: the project's own, with this lab's identity pinned and its kubeconfig named."""

from __future__ import annotations

from pathlib import Path

import yaml

from drillbook_lab.home import LabHome
from drillbook_lab.view import Client

# Which profile under sites/ describes which of the lab's sites.
PROFILES = {"first": "lab.yaml", "second": "lab-second.yaml"}


def profile_of(lab_profile: str) -> Path | None:
    """The profile in ``sites/`` of the working directory or a folder above it."""
    here = Path.cwd()
    candidates = (folder / "sites" / PROFILES.get(lab_profile, "") for folder in (here, *here.parents))
    return next((path for path in candidates if path.is_file()), None)


def write_site(lab: LabHome, site: Path | None = None) -> Path | None:
    """Write ``site.yaml`` into the lab's home; None if there is no profile to extend.

    A lab is another cluster each time it is built: a run against the wrong one is refused by its identity.
    """
    state = lab.state()
    base = site or profile_of(state["profile"])
    if base is None:
        return None
    client = Client(lab)
    cluster = client.get(f"/apis/postgresql.cnpg.io/v1/namespaces/{state['namespace']}/clusters/{state['cluster']}")
    pinned = {
        "extends": str(base.absolute()),
        "kubernetes": {"kubeconfig": str(lab.kubeconfig), "context": "lab"},
        "identity": {
            "kube_system_uid": client.get("/api/v1/namespaces/kube-system")["metadata"]["uid"],
            "system_identifier": str(cluster["status"]["systemID"]),
        },
    }
    path = lab.path("site.yaml")
    path.write_text(yaml.safe_dump(pinned, sort_keys=False), encoding="utf-8")
    return path
