"""Finds a site's profile, resolves and validates it, and reports every fault at once with file, line and key."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from drillbook.errors import ParameterError
from drillbook.profile import sources
from drillbook.profile.schema import Site

M = TypeVar("M", bound=BaseModel)
DEFAULT_SITE = "lab"
SITE_VARIABLE = "DRILLBOOK_SITE"
# Written relative to the profile's folder, and read as absolute paths.
_FILES: tuple[tuple[str, ...], ...] = (
    ("kubernetes", "kubeconfig"),
    ("index_migration",),
    ("evidence", "trust"),
    ("evidence", "timestamp", "ca"),
)


def load_site(
    path_or_name: str | Path = "", *, environ: Mapping[str, str] | None = None, start: Path | None = None
) -> Site:
    """The profile at a path, or of a name as ``sites/<name>.yaml`` from ``start`` (the working directory) upwards.

    ``""`` is what ``DRILLBOOK_SITE`` says, else ``lab``. Raises ParameterError with every fault; nothing is touched.
    """
    wanted = str(path_or_name) or (environ if environ is not None else os.environ).get(SITE_VARIABLE) or DEFAULT_SITE
    path = _find(wanted, (start or Path.cwd()).resolve())
    source = sources.read(path)
    faults = list(source.faults)
    site: Site | None = None
    if source.values:
        for key in _FILES:
            _locate(source, key)
        site, found = validated(Site, source)
        faults += found
    elif not faults:
        faults.append(f"{sources.SourceLine(path, 1)}: the profile is empty")
    if faults or site is None:
        raise ParameterError(faults, where=f"site profile {wanted}", todo="Correct the profile and start again.")
    return site


def files_of(path_or_name: str | Path = "") -> tuple[Path, ...]:
    """The files that make up a profile: its own first, those that it extends, and the trust file and authority that it names.

    What `load_site` finds, which says what is wrong with them. Raises ParameterError where there is no such profile.
    """
    path = _find(str(path_or_name) or os.environ.get(SITE_VARIABLE) or DEFAULT_SITE, Path.cwd().resolve())
    source = sources.read(path)
    named = set()
    for key in _FILES[2:]:
        _locate(source, key)
        section = source.values
        for part in key[:-1]:
            section = section.get(part) or {}
        if section.get(key[-1]):
            named.add(Path(section[key[-1]]))
    others = ({place.file for place in source.places.values()} | named) - {path}
    return (path, *sorted(others))


def validated(model: type[M], source: sources.Source) -> tuple[M | None, list[str]]:
    """The values of ``source`` as ``model``, or None and what is wrong with them, each with file, line and key."""
    try:
        return model.model_validate(source.values), []
    except ValidationError as error:
        details = error.errors(include_url=False)
        return None, [_told(fault, source, model) for fault in details if not _follows(fault, details)]


def _find(wanted: str, start: Path) -> Path:
    if "/" in wanted or wanted.endswith((".yaml", ".yml")):
        path = (start / Path(wanted).expanduser()).resolve()
        if sources.is_there(path):
            return path
        raise ParameterError([f"there is no file {wanted}"], where="site profile", todo="Give the path of a profile.")
    for folder in (start, *start.parents):
        path = folder / "sites" / f"{wanted}.yaml"
        if sources.is_there(path):
            return path
    folders = (folder / "sites" for folder in (start, *start.parents))
    known = next((sorted(path.stem for path in folder.glob("*.yaml")) for folder in folders if folder.is_dir()), [])
    found = f"; profiles here: {', '.join(known)}" if known else ""
    raise ParameterError(
        [f"there is no sites/{wanted}.yaml in {start} or above it{found}"],
        where="site profile",
        todo=f"Give a name or a path with --site or in {SITE_VARIABLE}.",
    )


def _locate(source: sources.Source, key: tuple[str, ...]) -> None:
    place = source.places.get(key)
    section: Any = source.values
    for part in key[:-1]:
        section = section.get(part) if isinstance(section, dict) else None
    if place is not None and isinstance(section, dict) and isinstance(section.get(key[-1]), str) and section[key[-1]]:
        section[key[-1]] = str(place.file.parent / Path(section[key[-1]]).expanduser())


def _follows(fault: ErrorDetails, others: list[ErrorDetails]) -> bool:
    # A list whose items are all at fault counts as empty, which nobody wrote.
    key = fault["loc"]
    below = (other["loc"] for other in others if len(other["loc"]) > len(key))
    return fault["type"] == "too_short" and any(other[: len(key)] == key for other in below)


def _told(fault: ErrorDetails, source: sources.Source, model: type[BaseModel]) -> str:
    key = fault["loc"]
    place = source.place(key)
    message = _message(fault, key, model)
    return f"{place} {sources.dotted(key)}: {message}" if place else f"{sources.dotted(key)}: {message}"


def _message(fault: ErrorDetails, key: sources.Key, model: type[BaseModel]) -> str:
    if fault["type"] == "missing":
        return "is missing"
    if fault["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(key[-1]), _siblings(key, model), n=1)
        return "unknown key" + (f" (did you mean {near[0]}?)" if near else "")
    if fault["type"] == "value_error":
        return str(fault["ctx"]["error"])
    shown = repr(fault["input"])
    return f"{fault['msg'][:1].lower()}{fault['msg'][1:]}, found {shown if len(shown) <= 60 else shown[:57] + '...'}"


def _siblings(key: sources.Key, model: type[BaseModel]) -> list[str]:
    """The keys that ``model`` knows next to ``key``: follows it down through the models."""
    for part in key[:-1]:
        if isinstance(part, str):
            model = next((f for name, f in _models(model) if name == part), model)
    return [name for name, _ in _fields(model)]


def _fields(model: type[BaseModel]) -> list[tuple[str, Any]]:
    return [(field.alias or name, field.annotation) for name, field in model.model_fields.items()]


def _models(model: type[BaseModel]) -> list[tuple[str, type[BaseModel]]]:
    found = []
    for name, annotation in _fields(model):
        candidates = [annotation, *get_args(annotation)]
        found += [(name, c) for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)]
    return found
