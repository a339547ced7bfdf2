"""Documentation: its code runs, its commands and parameters exist, its links resolve, its outputs are real."""

import importlib
import json
import re
import shlex
import tomllib
from pathlib import Path

import pytest
import typer.main
import yaml

import csgn_lib
from csgn_lib.__main__ import app
from csgn_lib.config import Experiment

HOME = Path(__file__).resolve().parents[1]
PAGES = [HOME / "README.md", HOME / "CONTRIBUTING.md", HOME / "CHANGELOG.md", *sorted((HOME / "docs").glob("*.md"))]
COMMANDS = typer.main.get_command(app).commands


def fences(page: Path, kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```$", page.read_text(encoding="utf-8"), re.M | re.S)


def commands(page: Path) -> list[list[str]]:
    """Every csgn command of a page, as words: those of its shell blocks and those within its sentences."""
    text = page.read_text(encoding="utf-8")
    lines = [line for block in fences(page, "sh") for line in block.replace("\\\n", " ").splitlines()]
    lines += re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S))
    lines = [re.sub(r"^.*?-m csgn_lib(?= )", "csgn", line) for line in lines]
    return [shlex.split(line, comments=True) for line in lines if re.match(r"csgn [a-z]+( |$)", line)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_command_and_option_exists(page):
    for _, name, *rest in commands(page):
        assert name in COMMANDS, (page.name, name)
        options = {flag for option in COMMANDS[name].params for flag in (*option.opts, *option.secondary_opts)}
        for word in rest:
            assert not word.startswith("--") or word.partition("=")[0] in options, (page.name, name, word)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_parameter_and_notebook_of_a_command_exists(page):
    for _, name, *rest in commands(page):
        if name in ("run",) and rest:
            notebook = json.loads((HOME / "notebooks" / f"{rest[0]}.ipynb").read_text(encoding="utf-8"))
            (cell,) = [c for c in notebook["cells"] if "parameters" in c["metadata"].get("tags", [])]
            known = re.findall(r"^(\w+):", "".join(cell["source"]), re.M)
            for flag, given in zip(rest, rest[1:], strict=False):
                assert flag != "-p" or given.partition("=")[0] in known, (page.name, rest)
        for flag, given in zip(rest, rest[1:], strict=False):
            known = Experiment.model_fields if "--plugin" not in rest else {*Experiment.model_fields, "pull_weight"}
            assert flag != "--set" or given.partition("=")[0] in known, (page.name, rest)
            if flag == "--preset":
                Experiment.from_parameters(preset=given)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_make_target_and_link_exists(page):
    text = page.read_text(encoding="utf-8")
    targets = re.findall(r"^([a-z-]+):", (HOME / "Makefile").read_text(encoding="utf-8"), re.M)
    assert set(re.findall(r"`make ([a-z-]+)", text)) <= set(targets), page.name
    for link in re.findall(r"\]\(([^)#]+)", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)):
        assert link.startswith("http") or (page.parent / link).exists(), (page.name, link)


def test_names_in_library_map_exist():
    lines = re.findall(
        r"^\| (`[^|]+) \| [^|]+ \| ([^|]+) \|$", (HOME / "docs" / "library.md").read_text(encoding="utf-8"), re.M
    )
    named = {name for places, _ in lines for name in re.findall(r"`(\w+)(?:\.py|/)`", places)}
    names = {
        path.stem for path in (HOME / "csgn_lib").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    low = {"__init__", "__main__", "images", "progress", "records", "statistics"}  # what the others are made with
    assert names - low <= named, names - low - named
    for places, shown in lines:
        first = re.match(r"`(\w+)", places)[1]
        for name in re.findall(r"`([\w.]+)`", shown):
            package, _, last = name.rpartition(".")
            assert hasattr(importlib.import_module(f"csgn_lib.{package or first}"), last), name


def test_version_and_citation_are_consistent():
    citation = yaml.safe_load((HOME / "CITATION.cff").read_text(encoding="utf-8"))
    project = tomllib.loads((HOME / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert csgn_lib.__version__ == project["version"] == citation["version"]
    assert f"## {csgn_lib.__version__}\n" in (HOME / "CHANGELOG.md").read_text(encoding="utf-8")
    assert citation["license"] == project["license"] and citation["preferred-citation"]["doi"].startswith("10.1016/")
    assert {"message", "title", "authors", "type"} <= set(citation)
