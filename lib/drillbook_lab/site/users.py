"""The first tenant's users reach their database through its application: scaled to nothing, they have no session."""

from __future__ import annotations

import asyncio
from pathlib import Path

from drillbook_lab.api.errors import ApiError
from drillbook_lab.api.registry import Registry
from drillbook_lab.site.site import App

_GLANCE_SECONDS = 0.2


async def rest_with(registry: Registry, app: App, marker: Path) -> None:
    """Keep ``marker`` there while the application is scaled to nothing, until cancelled; the writer looks for it."""
    while True:
        try:
            away = registry.get("Deployment", app.namespace, app.name)["spec"].get("replicas") == 0
        except ApiError:
            away = False  # not deployed yet: its users are served by what the writer stands for
        if away != marker.exists():
            marker.touch() if away else marker.unlink()
        await asyncio.sleep(_GLANCE_SECONDS)
