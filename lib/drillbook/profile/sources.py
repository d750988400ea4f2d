"""A profile's YAML files, read so that every value remembers the file and line it is at; ``extends`` resolved."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

Key = tuple[str | int, ...]


@dataclass(frozen=True)
class SourceLine:
    """Where something is in a profile's file; lines count from 1."""

    file: Path
    line: int

    def __str__(self) -> str:
        try:
            shown = self.file.relative_to(Path.cwd())
        except ValueError:
            shown = self.file
        return f"{shown}:{self.line}"


@dataclass
class Source:
    """The values of a profile with all that it extends, where each stands, and what is wrong with the files as YAML."""

    values: dict[str, Any] = field(default_factory=dict)
    places: dict[Key, SourceLine] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    def place(self, key: Key) -> SourceLine | None:
        """Where ``key`` stands, or the nearest enclosing key that stands anywhere."""
        for length in range(len(key), -1, -1):
            if key[:length] in self.places:
                return self.places[key[:length]]
        return None


def read(path: Path) -> Source:
    """Reads ``path`` and every file it extends; files that can't be read or parsed are reported as faults.

    Mappings are merged key by key and the extending file wins; a list replaces the whole list below it.
    """
    return _read(path, ())


def is_there(path: Path) -> bool:
    """Whether there is such a file; also where this account can't look, which reading it then says."""
    try:
        return path.is_file()
    except OSError:
        return True


def _read(path: Path, below: tuple[Path, ...]) -> Source:
    source = Source()
    if path in below:
        chain = " → ".join(step.name for step in (*below[below.index(path) :], path))
        source.faults.append(f"{SourceLine(path, 1)} extends: goes round in a circle ({chain})")
        return source
    try:
        node = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except OSError as error:
        source.faults.append(f"{path}: can't be read ({error.strerror})")
        return source
    except UnicodeDecodeError:
        source.faults.append(f"{path}: is not UTF-8 text")
        return source
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        source.faults.append(f"{SourceLine(path, line)}: is not YAML ({error.problem})")
        return source
    except yaml.YAMLError as error:
        source.faults.append(f"{SourceLine(path, 1)}: is not YAML ({error})")
        return source
    if not isinstance(node, yaml.MappingNode):
        source.faults.append(f"{SourceLine(path, 1)}: is not a mapping of keys to values")
        return source
    source.values = _Reader(path, source).mapping(node, ())
    return _extended(source, path, below)


def _extended(source: Source, path: Path, below: tuple[Path, ...]) -> Source:
    if "extends" not in source.values:
        return source
    named = source.values.pop("extends")
    place = source.places.pop(("extends",))
    if not isinstance(named, str) or not named:
        source.faults.append(f"{place} extends: {named!r} is not the name of a file")
        return source
    base_path = (path.parent / Path(named).expanduser()).resolve()
    if not is_there(base_path):
        source.faults.append(f"{place} extends: there is no file {named}")
        return source
    base = _read(base_path, (*below, path))
    return Source(
        values=_merged(base.values, source.values, base.places, ()),
        places=base.places | source.places,
        faults=[*base.faults, *source.faults],
    )


def _merged(base: dict[str, Any], over: dict[str, Any], places: dict[Key, SourceLine], key: Key) -> dict[str, Any]:
    merged = dict(base)
    for name, value in over.items():
        if isinstance(value, dict) and isinstance(base.get(name), dict):
            merged[name] = _merged(base[name], value, places, (*key, name))
            continue
        merged[name] = value
        # What this value hides is nowhere any more: a fault in it must not be reported at the base's line.
        for hidden in [place for place in places if place[: len(key) + 1] == (*key, name)]:
            del places[hidden]
    return merged


class _Reader:
    """Turns a file's YAML nodes into plain values; keys given twice and values within themselves are faults."""

    def __init__(self, path: Path, source: Source) -> None:
        self._path = path
        self._source = source
        self._scalars = yaml.constructor.SafeConstructor()
        self._within: list[yaml.Node] = []

    def mapping(self, node: yaml.MappingNode, key: Key) -> dict[str, Any]:
        self._stands(key, node)
        self._within.append(node)
        values: dict[str, Any] = {}
        for name_node, value_node in node.value:
            name = name_node.value if isinstance(name_node, yaml.ScalarNode) else ""
            if not name or name == "<<":
                self._fault(name_node, key, "a key must be plain text (merge with extends)")
            elif name in values:
                self._fault(name_node, (*key, name), "is given twice")
            else:
                values[name] = self._value(value_node, (*key, name))
                self._stands((*key, name), name_node)
        self._within.pop()
        return values

    def _value(self, node: yaml.Node, key: Key) -> Any:
        if node in self._within:
            self._fault(node, key, "contains itself")
            return None
        if isinstance(node, yaml.MappingNode):
            return self.mapping(node, key)
        if isinstance(node, yaml.SequenceNode):
            self._stands(key, node)
            self._within.append(node)
            items = [self._value(item, (*key, index)) for index, item in enumerate(node.value)]
            self._within.pop()
            return items
        self._stands(key, node)
        try:
            return self._scalars.construct_object(node)
        except (yaml.YAMLError, ValueError):
            self._fault(node, key, "is not a plain value")
            return None

    def _stands(self, key: Key, node: yaml.Node) -> None:
        self._source.places[key] = SourceLine(self._path, node.start_mark.line + 1)

    def _fault(self, node: yaml.Node, key: Key, message: str) -> None:
        self._source.faults.append(f"{SourceLine(self._path, node.start_mark.line + 1)} {dotted(key)}: {message}")


def dotted(key: Key) -> str:
    """A key as a person writes it: ``tenants[0].questions[1].sql``."""
    text = ""
    for part in key:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text or "(top)"
