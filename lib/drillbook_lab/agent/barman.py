"""The barman-cloud-* commands as CNPG calls them: arguments, environment, and what their exit status means.

Standard library only: the WAL commands import it once a segment.
"""

from __future__ import annotations

import json
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from drillbook_lab.agent.spec import StoreSpec

_EXIT_TEXT = {1: "Operation error", 2: "Network error", 3: "CLI argument parsing error", 4: "General error"}


def program(name: str) -> str:
    """The console script next to this Python (not the one that PATH happens to find)."""
    return os.path.join(os.path.dirname(sys.executable), name)  # noqa: PTH118, PTH120 - pathlib costs 10 ms here


def store_arguments(store: StoreSpec) -> list[str]:
    """Options and the two positionals that every command begins with."""
    endpoint = ["--endpoint-url", store.endpoint_url] if store.endpoint_url else []
    return [*endpoint, "--cloud-provider", "aws-s3", store.destination_path, store.server_name]


def environment(store: StoreSpec, *, home: str, **more: str) -> dict[str, str]:
    """Only what the call needs: no proxy, profile or instance role of the machine may leak into the lab."""
    with open(store.credentials_file, encoding="utf-8") as handle:  # noqa: PTH123
        credentials: dict[str, str] = json.load(handle)
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR") if name in os.environ}
    return {
        **kept,
        "HOME": home,
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
        **credentials,
        **more,
    }


def last_words(stderr: str) -> str:
    """The last line, where barman puts the reason, without barman's own time and pid."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    if not lines:
        return ""
    _, marker, reason = lines[-1].partition("] ERROR: ")
    return reason if marker else lines[-1]


def exit_text(returncode: int) -> str:
    """The words that CNPG has for an exit status of barman-cloud-restore."""
    return f"{_EXIT_TEXT.get(returncode, 'Generic failure')} (exit code {returncode})"


def wal_restore_text(returncode: int, wal: str) -> str:
    """The words that CNPG has for an exit status of barman-cloud-wal-restore."""
    texts = {
        1: f"object storage or file not found {wal}: WAL not found",
        2: "connectivity failure while executing barman-cloud-wal-restore, retrying",
        3: f"invalid name for a WAL file: {wal}",
        4: "generic error code encountered while executing barman-cloud-wal-restore",
    }
    unknown = f"encountered an unrecognized exit code error: '{returncode}' while executing barman-cloud-wal-restore"
    return texts.get(returncode, unknown)
