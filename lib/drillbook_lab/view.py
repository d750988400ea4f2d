"""A reader's view of the lab through its own front door: the API server, over TLS, with the admin's token."""

from __future__ import annotations

import base64
import json
import ssl
import urllib.request
from typing import Any

import yaml

from drillbook_lab.home import LabHome


class Client:
    """GET, and nothing else."""

    def __init__(self, home: LabHome, context: str = "lab-admin") -> None:
        config = yaml.safe_load(home.kubeconfig.read_text(encoding="utf-8"))
        cluster = config["clusters"][0]["cluster"]
        self._server = cluster["server"]
        self._token = next(entry["user"]["token"] for entry in config["users"] if entry["name"] == context)
        authority = base64.b64decode(cluster["certificate-authority-data"]).decode()
        self._opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}),  # the lab is on this machine, whatever the environment says
            urllib.request.HTTPSHandler(context=ssl.create_default_context(cadata=authority)),
        )

    def get(self, path: str) -> dict[str, Any]:
        """One object or list."""
        request = urllib.request.Request(self._server + path, headers={"Authorization": f"Bearer {self._token}"})  # noqa: S310
        with self._opener.open(request, timeout=30) as answer:
            found: dict[str, Any] = json.load(answer)
        return found
