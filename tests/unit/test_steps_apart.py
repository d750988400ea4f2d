"""A step never calls another step: what several need is a function, and each act is in its own cell."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import drillbook.steps

SOURCES = sorted(Path(drillbook.steps.__file__).parent.rglob("*.py"))
WORK = ("check", "plan", "do", "verify", "observe")


def nested(tree: ast.Module) -> Iterator[str]:
    """The calls of a step's work: with the context as the first argument, on anything but the object's own class."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute) or node.func.attr not in WORK:
            continue
        owner, first = node.func.value, node.args[0] if node.args else None
        own = isinstance(owner, ast.Call) and isinstance(owner.func, ast.Name) and owner.func.id == "super"
        if isinstance(first, ast.Name) and first.id == "ctx" and not own:
            yield f"line {node.lineno}: {ast.unparse(node)[:100]}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_no_step_calls_a_step(path: Path) -> None:
    assert list(nested(ast.parse(path.read_text(encoding="utf-8")))) == []


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("Backup(self.cluster).do(ctx)", 1),
        ("salvage.verify(ctx, result)", 1),
        ("rung.observe(ctx)", 1),
        ("step.check(ctx)", 1),
        ("one.plan(ctx)", 1),
        ("super().do(ctx)", 0),
        ("ctx.recorder.check(check)", 0),
        ("do(ctx)", 0),
        ("read(ctx, self.checks())", 0),
    ],
)
def test_a_step_in_a_step_is_seen(line: str, found: int) -> None:
    assert len(list(nested(ast.parse(line)))) == found
