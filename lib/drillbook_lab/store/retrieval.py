"""Objects in an archive class, as S3 gives them out: on request, after a while, for some days.

moto makes an object readable in the moment in which that is asked for. Here the time passes that ``retrieval.json`` in
the store's folder says, by tier and in seconds; what was asked for is kept in a file, and survives a kill.
"""

from __future__ import annotations

import datetime
import json
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from drillbook_lab.home import write_json
from drillbook_lab.store.signature import Refused

ARCHIVED = frozenset({"GLACIER", "DEEP_ARCHIVE"})
SECONDS = {"Expedited": 1.0, "Standard": 3.0, "Bulk": 6.0}
"""Until an object can be read, where nothing else is said. In AWS: minutes, hours, up to two days."""
_DATE = "%a, %d %b %Y %H:%M:%S GMT"
_NOT_OF_DEEP_ARCHIVE = "Expedited"


@dataclass(frozen=True)
class Request:
    """What a RestoreObject asks for."""

    days: int
    tier: str

    @classmethod
    def of_xml(cls, body: bytes) -> Request:
        """From a request's body. Refused: it is none."""
        try:
            tree = ElementTree.fromstring(body)  # noqa: S314 - from the holder of a key, on loopback
        except ElementTree.ParseError as error:
            raise Refused(400, "MalformedXML", f"The XML you provided was not well-formed: {error}") from error
        said = {element.tag.rpartition("}")[2]: (element.text or "").strip() for element in tree.iter()}
        days, tier = said.get("Days", ""), said.get("Tier") or "Standard"
        if not days.isdigit() or tier not in SECONDS:
            raise Refused(400, "MalformedXML", "The XML you provided did not validate against our published schema")
        if int(days) < 1:
            raise Refused(400, "InvalidArgument", "restoration days should be at least 1")
        return cls(int(days), tier)


class Retrieval:
    """Which archived objects are asked for, and until when they can be read."""

    def __init__(self, folder: Path) -> None:
        self._kept = folder / "retrievals.json"
        self._said = folder / "retrieval.json"
        self._lock = threading.Lock()
        self._asked: dict[str, dict[str, Any]] = _read(self._kept)

    def ask(self, name: str, etag: str, storage_class: str, body: bytes, now: datetime.datetime) -> int:
        """RestoreObject: 202 for one that is begun, 200 for a copy whose days are counted again. Refused: S3 would."""
        wanted = Request.of_xml(body)
        if storage_class not in ARCHIVED:
            words = "Restore is not allowed for the object's current storage class"
            raise Refused(403, "InvalidObjectState", words)
        if storage_class == "DEEP_ARCHIVE" and wanted.tier == _NOT_OF_DEEP_ARCHIVE:
            raise Refused(400, "InvalidArgument", "Retrieval option is not supported by this storage class")
        with self._lock:
            known = self._current(name, etag, now)
            if known and now < _at(known["ready"]):
                raise Refused(409, "RestoreAlreadyInProgress", "Object restore is already in progress")
            ready = now if known else now + datetime.timedelta(seconds=self._seconds(wanted.tier))
            self._asked[name] = {
                "etag": etag,
                "ready": (_at(known["ready"]) if known else ready).isoformat(),
                "expires": _midnight_after(ready + datetime.timedelta(days=wanted.days)).isoformat(),
            }
            write_json(self._kept, self._asked)
            return 200 if known else 202

    def header(self, name: str, etag: str, now: datetime.datetime) -> str:
        """``x-amz-restore`` as HEAD says it; "" for an object that nobody has asked for, or whose days are over."""
        with self._lock:
            known = self._current(name, etag, now)
        if not known:
            return ""
        if now < _at(known["ready"]):
            return 'ongoing-request="true"'
        return f'ongoing-request="false", expiry-date="{_at(known["expires"]).strftime(_DATE)}"'

    def readable_until(self, name: str, etag: str, now: datetime.datetime) -> datetime.datetime | None:
        """Until when it can be read; None: it can't be read now."""
        with self._lock:
            known = self._current(name, etag, now)
        return _at(known["expires"]) if known and now >= _at(known["ready"]) else None

    def _current(self, name: str, etag: str, now: datetime.datetime) -> dict[str, Any] | None:
        """What was asked for this very object; another one under its name is another matter."""
        known = self._asked.get(name)
        return known if known and known["etag"] == etag and now < _at(known["expires"]) else None

    def _seconds(self, tier: str) -> float:
        return float(_read(self._said).get(tier, SECONDS[tier]))


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return found


def _at(text: str) -> datetime.datetime:
    return datetime.datetime.fromisoformat(text)


def _midnight_after(moment: datetime.datetime) -> datetime.datetime:
    """S3 rounds the end up to the next midnight, UTC."""
    return (moment + datetime.timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)


__all__ = ["ARCHIVED", "SECONDS", "Request", "Retrieval"]
