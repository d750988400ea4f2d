"""The profile's long-term section, and the location that it names, opened for as long as a step looks at it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from drillbook.archive.layout import PARALLEL
from drillbook.archive.location import SourceArchive, long_term_archive, open_long_term
from drillbook.archive.retrieval import LongTermStore, Readable
from drillbook.engine.step import Context
from drillbook.errors import NotReady
from drillbook.profile import LongTerm

MISSING = (
    "the profile has no long_term: where the long-term backups lie (server_name, and destination where it is not the main "
    "archive's), how long they are kept (years, every), and the Secret with the key that may call s3:RestoreObject (secret)"
)


def settings(ctx: Context) -> LongTerm:
    """The profile's section; NotReady says what to add where there is none."""
    if ctx.site.long_term is None:
        raise NotReady(
            [MISSING],
            where=f"Site {ctx.site.name}",
            todo="Add the section long_term: docs/how-to/long-term-backups.md.",
        )
    return ctx.site.long_term


def place(ctx: Context) -> SourceArchive:
    """The long-term location, in the terms of the source's archive."""
    return long_term_archive(ctx.site, ctx.archive, settings(ctx))


@contextmanager
def reading(ctx: Context) -> Iterator[LongTermStore]:
    """The location by the archive's reader."""
    with open_long_term(ctx.kube, ctx.site, place(ctx), settings(ctx)) as store:
        yield store


def look(store: LongTermStore, keys: Iterable[str]) -> list[Readable]:
    """Whether each object can be read now, in order; several are asked at once. ObjectStoreError."""
    with ThreadPoolExecutor(PARALLEL, thread_name_prefix="readable") as pool:
        return list(pool.map(store.readable, keys))


__all__ = ["look", "place", "reading", "settings"]
