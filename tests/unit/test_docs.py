"""README, index and decisions say what is there: a table, a command or a link that is not true fails here."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import re
import subprocess
from pathlib import Path

import pytest

from drillbook.cli import app as cli

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), ROOT / "runbooks" / "README.md", ROOT / "outputs" / "README.md"]
)


def section(title: str, text: str = README) -> str:
    """The text under a heading, up to the next one of the same level."""
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert found, f"no section {title!r}"
    return found[1]


def first_column(text: str) -> list[str]:
    """The code-quoted names in the first column of the tables in ``text``."""
    return re.findall(r"^\| \[?`([^`]+)`", text, re.MULTILINE)


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


def shell_lines(text: str) -> list[str]:
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]


def test_the_readme_is_one_product_page() -> None:
    lines = README.splitlines()
    assert len([line for line in lines if not line.startswith("|")]) <= 76, (
        "a row of a table for each runbook and command; no more prose"
    )
    assert re.findall(r"^## (.*)$", README, re.MULTILINE)[:2] == ["Where it has been run", "Try it"]


def test_the_readme_says_where_it_was_run_for_real_and_that_the_fixes_since_were_not() -> None:
    """The versions are those of the real operator's answers."""
    said = " ".join(section("Where it has been run").split())
    versions = json.loads((ROOT / "docs" / "conformance-real.json").read_text())["versions"]
    assert all(version.removeprefix("v") in said for version in versions.values())
    assert "has been run on the embedded lab only" in said


def test_make_targets_that_are_named_exist() -> None:
    named = {target for page in PAGES for target in re.findall(r"\bmake ([a-z]+(?:-[a-z]+)*)\b", page.read_text())}
    # "make python3-venv" is Debian's package list, "make it" and the like are prose outside of code.
    in_code = {
        target
        for page in PAGES
        for code in re.findall(r"`([^`\n]+)`", page.read_text()) + shell_lines(page.read_text())
        if not code.startswith("sudo apt-get")
        for target in re.findall(r"\bmake ([a-z]+(?:-[a-z]+)*)\b", code)
    }
    assert {"drill", "test"} <= in_code <= named
    assert in_code <= make_targets()


def test_every_verb_of_the_project_has_a_target() -> None:
    assert {"setup", "drill", "test", "test-long", "lint", "lab", "bench", "docs"} <= make_targets()


def test_the_commands_listed_are_the_commands_there_are() -> None:
    listed = [name.removeprefix("drillbook ") for name in first_column(section("Commands")) if "drillbook " in name]
    real = {command.name or command.callback.__name__ for command in cli.app.registered_commands if command.callback}
    assert sorted(listed) == sorted(real)
    for command in cli.app.registered_commands:
        assert command.callback is not None
        assert command.callback.__doc__, f"{command.callback.__name__} has no help"


def test_drillbook_commands_in_the_pages_exist() -> None:
    real = {command.name or command.callback.__name__ for command in cli.app.registered_commands if command.callback}
    real |= {str(group.name) for group in cli.app.registered_groups}
    for page in PAGES:
        text = page.read_text()
        for code in re.findall(r"`([^`\n]+)`", text) + shell_lines(text):
            for name in re.findall(r"(?:^|[ /])drillbook ([a-z]+(?:-[a-z]+)*)\b(?! role)", code.partition("#")[0]):
                assert name in real, f"{page.name}: drillbook {name}"


def test_the_reference_pages_are_those_that_the_code_writes() -> None:
    """``make docs`` writes them again."""
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None and spec.loader is not None
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    for place, text in generate.pages().items():
        assert place.read_text(encoding="utf-8") == text, f"{place.relative_to(ROOT)}: run `make docs`"


def test_every_page_is_in_the_navigation() -> None:
    named = set(re.findall(r": ([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE))
    there = {str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")}
    assert named == {page for page in there if not page.startswith("adr/0")}


def test_the_names_that_the_index_points_to_exist() -> None:
    for page in (ROOT / "docs").rglob("*.md"):
        if page.parent.name == "adr":
            continue
        for name in re.findall(r"`(drillbook(?:\.\w+)+)`", page.read_text(encoding="utf-8")):
            parts = name.split(".")
            found = None
            for length in range(len(parts), 0, -1):
                with contextlib.suppress(ModuleNotFoundError):
                    found = importlib.import_module(".".join(parts[:length]))
                    break
            for part in parts[length:]:
                found = getattr(found, part)


def test_the_runbooks_listed_are_the_files() -> None:
    files = sorted(path.stem for path in (ROOT / "runbooks").glob("*.ipynb"))
    assert sorted(first_column(section("Runbooks"))) == files
    index = (ROOT / "runbooks" / "README.md").read_text(encoding="utf-8")
    assert sorted(name for name in first_column(index) if not name.endswith("-")) == files


def test_a_runbook_has_a_prefix_that_the_index_explains() -> None:
    index = (ROOT / "runbooks" / "README.md").read_text(encoding="utf-8")
    prefixes = {name for name in first_column(index) if name.endswith("-")}
    assert all(f"`{prefix}`" in section("Runbooks") for prefix in prefixes)
    for path in (ROOT / "runbooks").glob("*.ipynb"):
        assert path.stem.partition("-")[0] + "-" in prefixes


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_link_leads_to_a_file(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
        if not target.startswith("https://"):
            assert (page.parent / target).exists(), target


def test_paths_that_the_readme_names_exist() -> None:
    for name in re.findall(r"`((?:sites|deploy|docs|lib|tests|outputs|runbooks)/[^`<*]*)`", README):
        assert (ROOT / name).exists(), name


def test_decisions_have_a_number_each_and_the_same_parts() -> None:
    records = sorted((ROOT / "docs" / "adr").glob("0*.md"))
    numbers = [int(path.name[:4]) for path in records]
    assert numbers == list(range(1, len(numbers) + 1))
    for path in records:
        text = path.read_text(encoding="utf-8")
        assert text.startswith(f"# {int(path.name[:4])}. "), path.name
        assert re.findall(r"^## (.*)$", text, re.MULTILINE) == ["Context", "Options", "Decision", "Price"], path.name


def test_the_change_log_keeps_its_form() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert "## [Unreleased]" in text
    kinds = set(re.findall(r"^### (.*)$", text, re.MULTILINE))
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_the_record_can_be_followed_with_the_commands_of_the_readme(tmp_path: Path) -> None:
    """``sed -n 7p journal.jsonl | sha256sum`` is ``prev`` of line 8, on a journal as the library writes it."""
    from drillbook.evidence import Journal

    path = tmp_path / "journal.jsonl"
    journal = Journal.open(path)
    for number in range(9):
        journal.append("fact", name=f"n{number}", value=number)
    digest = subprocess.run(
        ["sh", "-c", "sed -n 7p journal.jsonl | sha256sum"], cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout.split()[0]
    assert json.loads(path.read_text().splitlines()[7])["prev"] == digest


def test_the_help_of_every_command_can_be_read(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ["", "run", "finish", "cleanup", "verify", "list", "doctor"]:
        assert cli.status([*([command] if command else []), "--help"]) == 0
        assert "Usage: drillbook" in capsys.readouterr().out
