"""What the library needs of an object store."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple, Protocol


class ObjectInfo(NamedTuple):
    """An object as a listing shows it: ``key`` is relative to the store's location, ``size`` in bytes."""

    key: str
    size: int
    modified: datetime
    etag: str
    storage_class: str


class Level(NamedTuple):
    """One level of a listing: the "folders" right below a prefix (each ends with "/"), and the objects next to them."""

    folders: tuple[str, ...]
    objects: tuple[ObjectInfo, ...]


class ObjectStore(Protocol):
    """A place of objects under keys. Every method may raise ObjectStoreError with the store's own code."""

    @property
    def location(self) -> str:
        """Where it is, as a URL without credentials; keys are relative to it."""

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """All objects whose key begins with ``prefix``, in key order, page by page."""

    def level(self, prefix: str) -> Level:
        """What lies right below ``prefix``."""

    def get(self, key: str, *, start: int = 0, length: int | None = None) -> bytes:
        """An object's bytes, or ``length`` of them from ``start``."""

    def stream(self, key: str, *, piece: int) -> Generator[bytes, None, None]:
        """An object's bytes from its beginning, about ``piece`` at a time, by one request; ends early when it is closed."""

    def head(self, key: str) -> ObjectInfo | None:
        """An object's description, ``None`` if there is no such object."""

    def uploads(self, prefix: str) -> Sequence[str] | None:
        """The keys below ``prefix`` that are being uploaded in parts; ``None`` if these credentials may not ask."""

    def safeguards(self) -> Mapping[str, str | None]:
        """What the bucket does against loss, by name: in words, "" where it is not set, ``None`` if these credentials may not ask."""

    def close(self) -> None:
        """End the connections; safe to call twice."""
