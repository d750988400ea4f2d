"""The lab through its own front door: the API server, over TLS, with the admin's token."""

from __future__ import annotations

import base64
import json
import ssl
import urllib.error
import urllib.request
from typing import Any

import yaml

from drillbook_lab.errors import LabError
from drillbook_lab.home import LabHome


class Refusal(LabError):
    """The API server said no."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__("the lab's API server refused", message)
        self.code = code


class Client:
    """The few verbs that the lab's own command line needs."""

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
        return self._call("GET", path)

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Create an object."""
        return self._call("POST", path, body)

    def patch(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Merge-patch an object."""
        return self._call("PATCH", path, body, "application/merge-patch+json")

    def delete(self, path: str) -> None:
        """Delete an object."""
        self._call("DELETE", path)

    def _call(
        self, method: str, path: str, body: dict[str, Any] | None = None, content_type: str = "application/json"
    ) -> dict[str, Any]:
        request = urllib.request.Request(  # noqa: S310 - the lab's own address
            self._server + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {self._token}", "Content-Type": content_type},
        )
        try:
            with self._opener.open(request, timeout=30) as answer:
                found: dict[str, Any] = json.load(answer)
        except urllib.error.HTTPError as refusal:
            with refusal:
                try:
                    message = str(json.load(refusal).get("message", ""))
                except ValueError:
                    message = refusal.reason
            raise Refusal(refusal.code, message) from refusal
        return found
