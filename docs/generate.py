"""Writes the pages of ``docs/reference/`` from the code: profile keys, commands, exit statuses, journal events, record.

``make docs`` runs it; a test compares what it writes with the pages that are there.
"""

from __future__ import annotations

import ast
import typing
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined
from typer.main import get_command

from drillbook.cli import app
from drillbook.engine.opening import SCHEMA
from drillbook.evidence.record import ABSENT, record
from drillbook.profile.schema import Site
from drillbook.profile.units import show_duration

ROOT = Path(__file__).resolve().parents[1]
PAGES = ROOT / "docs" / "reference"
NOTICE = "<!-- Written by docs/generate.py from the code; change the code, then run `make docs`. -->\n\n"


def models_in(kind: Any) -> Iterator[type[BaseModel]]:
    """The models that a field's type consists of."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        yield kind
    for part in typing.get_args(kind):
        yield from models_in(part)


def type_name(kind: Any) -> str:
    """A field's type as a reader of YAML needs it."""
    if kind is timedelta:
        return "duration"
    inner = list(models_in(kind))
    many = typing.get_origin(kind) in (tuple, list)
    if inner:
        return "list of sections" if many else "section"
    if many:
        return f"list of {type_name(typing.get_args(kind)[0])}"
    if typing.get_origin(kind) is typing.Annotated:
        return type_name(typing.get_args(kind)[0])
    parts = [part for part in typing.get_args(kind) if part is not type(None)]
    if typing.get_origin(kind) is typing.Literal:
        return " or ".join(f"`{part}`" for part in parts)
    if parts:
        return " or ".join(dict.fromkeys(type_name(part) for part in parts))
    return {"str": "text", "bool": "true or false", "int": "whole number", "float": "number"}.get(
        getattr(kind, "__name__", ""), getattr(kind, "__name__", str(kind)).lower()
    )


def default_of(field: Any) -> str:
    """What applies where the key is left out."""
    if field.is_required():
        return "**required**"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, timedelta):
        return f"`{show_duration(value)}`"
    if isinstance(value, BaseModel) or value is PydanticUndefined or value in ((), [], {}, "", None):
        return "–"
    return f"`{value}`"


def cell(text: str) -> str:
    """Text in a cell of a table."""
    return " ".join(text.split()).replace("|", "\\|").replace("``", "`")


def section(model: type[BaseModel], path: str) -> Iterator[str]:
    """A heading, the model's own description, its keys, and then the sections below it."""
    yield f"## `{path}`\n" if path else "## The profile\n"
    yield cell(model.__doc__ or "") + "\n"
    yield "| key | type | default |\n|---|---|---|"
    below = []
    for name, field in model.model_fields.items():
        key = field.alias or name
        yield f"| `{key}` | {type_name(field.annotation)} | {default_of(field)} |"
        many = "[]" if typing.get_origin(field.annotation) in (tuple, list) else ""
        below += [(inner, f"{path}.{key}{many}".lstrip(".")) for inner in models_in(field.annotation)]
    yield ""
    for inner, where in below:
        yield from section(inner, where)


def profile() -> str:
    """Every key of a site profile."""
    head = (
        "# Profile keys\n\nA profile is one YAML file under `sites/`. An unknown key is an error. `extends: other.yaml` takes"
        " over another profile. Durations are written `45m` or `1h30m`, sizes `10Gi`.\n"
    )
    return "\n".join([head, *section(Site, "")])


def commands() -> str:
    """Every command with its arguments and options, as its help has them."""
    group = get_command(app.app)
    lines = [
        "# Commands\n",
        "`drillbook COMMAND --help` shows the same.\n",
        "## Exit statuses\n",
        "| status | meaning |\n|---|---|",
    ]
    lines += [f"| {status} | {meaning} |" for status, meaning in app.EXIT_STATUSES.items()]
    every = dict(group.commands)  # type: ignore[attr-defined]
    for name, inner in group.commands.items():  # type: ignore[attr-defined]
        every |= {f"{name} {part}": command for part, command in getattr(inner, "commands", {}).items()}
    for name, command in sorted(every.items()):
        lines += [f"\n## `drillbook {name}`\n", cell(command.help or "") + "\n"]
        rows = []
        for parameter in command.params:
            if parameter.name == "help" or getattr(parameter, "hidden", False):
                continue
            shown = ", ".join(f"`{flag}`" for flag in parameter.opts)
            kind = "option" if parameter.param_type_name == "option" else "argument"
            shown = shown if kind == "option" else f"`{parameter.name.upper()}`"
            rows.append(f"| {shown} | {kind} | {cell(getattr(parameter, 'help', '') or '')} |")
        if rows:
            lines += ["| name | kind | meaning |\n|---|---|---|", *rows]
    return "\n".join(lines) + "\n"


def appended(tree: ast.AST) -> Iterator[tuple[str, list[str]]]:
    """The events that a module writes to the journal: each type, and the fields named in that call."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        if node.func.attr not in ("append", "note", "write") or not node.args:
            continue
        kind = node.args[0]
        if (
            isinstance(kind, ast.Constant)
            and isinstance(kind.value, str)
            and (node.keywords or node.func.attr == "write")
        ):
            yield kind.value, [keyword.arg or "…" for keyword in node.keywords]


def journal() -> str:
    """Every type of event, the fields that each call names, and the module that writes it."""
    known: dict[str, tuple[set[str], set[str]]] = {}
    for path in sorted((ROOT / "lib" / "drillbook").rglob("*.py")):
        for kind, fields in appended(ast.parse(path.read_text(encoding="utf-8"))):
            names, modules = known.setdefault(kind, (set(), set()))
            names |= set(fields)
            modules.add(".".join(path.relative_to(ROOT / "lib").with_suffix("").parts))
    lines = [
        "# Journal events\n",
        "`journal.jsonl` has one JSON object a line. Each has `seq`, `at` (UTC), `type` and `prev`, the SHA-256 of the line"
        " before it; the rest depends on the type. `…` stands for fields that are given together.\n",
        "| type | fields | written by |\n|---|---|---|",
    ]
    for kind, (names, modules) in sorted(known.items()):
        shown = ", ".join(f"`{name}`" for name in sorted(names))
        lines.append(f"| `{kind}` | {shown} | {', '.join(f'`{module}`' for module in sorted(modules))} |")
    return "\n".join(lines) + "\n"


def leaves(value: Any, path: str = "") -> Iterator[str]:
    """The paths of a record's fields."""
    if isinstance(value, dict) and value:
        for key, below in value.items():
            yield from leaves(below, f"{path}.{key}".lstrip("."))
    else:
        yield path


def record_page() -> str:
    """The fields of a record, from the record of a journal that says only by which schema it was opened, and why a field may be null."""
    found = record([{"type": "opened", "schema": SCHEMA}])
    lines = [
        "# Record fields\n",
        "`record.json` is computed from the journal and from nothing else. Its groups are always the same: a field that a run"
        " has nothing for is `null`, and `absent` gives the reason by the field's path.\n",
        "| field | where it is null |\n|---|---|",
    ]
    paths = [path for path in leaves(found) if not path.startswith(("absent", "facts"))]
    lines += [f"| `{path}` | {cell(ABSENT.get(path, ''))} |" for path in paths]
    return "\n".join(lines) + "\n"


def pages() -> dict[Path, str]:
    """Each generated page's path and text."""
    made = {"profile": profile(), "commands": commands(), "journal": journal(), "record": record_page()}
    return {PAGES / f"{name}.md": NOTICE + text for name, text in made.items()}


if __name__ == "__main__":
    for place, text in pages().items():
        place.write_text(text, encoding="utf-8")
