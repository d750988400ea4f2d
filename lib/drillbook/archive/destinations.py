"""Which kind of store a CloudNativePG destination is; only S3 is read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

AZURE, GCS = "Azure Blob Storage", "Google Cloud Storage"


def not_s3(configuration: Mapping[str, Any]) -> list[str]:
    """The other stores that a ``barmanObjectStore`` or ObjectStore section names, each with how; none: it is S3."""
    path = str(configuration.get("destinationPath", ""))
    place = urlsplit(path)
    host = place.hostname or ""
    found = []
    if "azureCredentials" in configuration or place.scheme == "azure" or host.endswith(".blob.core.windows.net"):
        found.append(f"{AZURE} ({_how(configuration, 'azureCredentials', path)})")
    elif "googleCredentials" in configuration or place.scheme == "gs":
        found.append(f"{GCS} ({_how(configuration, 'googleCredentials', path)})")
    elif place.scheme != "s3":
        found.append(f"{path!r}, which is not s3://bucket/prefix")
    return found


def _how(configuration: Mapping[str, Any], credentials: str, path: str) -> str:
    # A path may carry a signature in its query.
    shown = path.partition("?")[0]
    return f"{credentials}, {shown}" if credentials in configuration else shown
