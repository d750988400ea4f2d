"""The file by which every client finds the server."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path

import yaml


def write_kubeconfig(
    path: Path, server: str, ca_pem: str, contexts: Mapping[str, str], current: str, *, namespace: str = "default"
) -> None:
    """Write a kubeconfig, readable by its owner alone: one context (with a user) per name and token."""
    if current not in contexts:
        raise ValueError(f"{current!r} is none of the contexts {sorted(contexts)}")
    authority = base64.b64encode(ca_pem.encode()).decode()
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": current,
        "clusters": [{"name": "drillbook-lab", "cluster": {"server": server, "certificate-authority-data": authority}}],
        "users": [{"name": name, "user": {"token": token}} for name, token in contexts.items()],
        "contexts": [
            {"name": name, "context": {"cluster": "drillbook-lab", "user": name, "namespace": namespace}}
            for name in contexts
        ],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    path.chmod(0o600)
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
