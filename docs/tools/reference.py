"""The reference pages of the documentation site, as Markdown: library, command line, parameters, notebooks."""

from __future__ import annotations

import importlib
import json
import operator
import re
import subprocess
import sys
import types
import typing
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import griffe
import nbformat
import typer.main
from markdown.extensions.toc import slugify
from nbconvert import MarkdownExporter

import csgn_lib
from csgn_lib import runs
from csgn_lib.records import Run
from csgn_lib.runs.folders import folder_for

HOME = Path(__file__).resolve().parents[2]
LIBRARY = Path(csgn_lib.__file__).parent
FIRST = "config mdg vss hsf losses vocabulary".split()  # the method, then the rest by name


def packages() -> list[str]:
    """Names of the library's modules and packages, the method first."""
    names = sorted(path.stem for path in LIBRARY.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists())
    return FIRST + [name for name in names if name not in FIRST and not name.startswith("_")]


def public_names(package: str) -> list[tuple[str, str]]:
    """Each public name of a package, and the path of its definition.

    Public are the names without an underscore that a module defines; of a package those that its ``__init__`` defines
    or takes from the library and, in ``__all__``, those that it looks up late; or else those of its modules.
    """
    imported = importlib.import_module(f"csgn_lib.{package}")
    module = _library()[package]
    if module.is_init_module and (listed := {*_taken(module), *getattr(imported, "__all__", ())}):
        return [(name, _definition(module, name)) for name in sorted(listed)]
    if module.is_init_module:
        children = sorted(name for name, child in module.modules.items() if not name.startswith("_"))
        return [(f"{child}.{name}", path) for child in children for name, path in public_names(f"{package}.{child}")]
    return [(name, path) for name, path in _own(module).items() if not name.startswith("_")]


def overview() -> str:
    """The library's own docstring with the table of symbols, and a line for each package."""
    hidden = "{members: false, show_root_heading: false, show_root_toc_entry: false}"
    lines = ["# The library's reference", f"::: csgn_lib\n    options: {hidden}", "## Packages"]
    rows = [f"| [`csgn_lib.{name}`]({name}.md) | {_first_line(name)} |" for name in packages()]
    return "\n\n".join(lines) + "\n\n| package | content |\n|---|---|\n" + "\n".join(rows) + "\n"


def package(name: str) -> str:
    """The page of one package: its docstring, then every public name by mkdocstrings."""
    parts = [
        f"# csgn_lib.{name}",
        f"::: csgn_lib.{name}\n    options: {{members: false, show_root_heading: false, show_root_toc_entry: false}}",
    ]
    for public, path in public_names(name):
        here = f"csgn_lib.{name}.{public}"
        if not _collected(path):  # several constants of one assignment
            value = operator.attrgetter(public)(importlib.import_module(f"csgn_lib.{name}"))
            parts.append(f"## `{here}` {{ #{here} }}\n\n```python\n{public} = {value!r}\n```")
            continue
        owner = path.split(".")[1]
        if owner != name and owner in packages():
            parts.append(f"## `{here}` {{ #{here} }}\n\nDefined in [`csgn_lib.{owner}`][{path}].")
            continue
        if path != here:  # the name that users import leads here too
            parts.append(f"[](){{ #{here} }}")
        parts.append(f"::: {path}\n    options: {{heading: {here}, toc_label: {public}}}")
    return "\n\n".join(parts) + "\n"


def cli() -> str:
    """The command line, as typer writes it."""
    made = subprocess.run(
        [sys.executable, *"-m typer csgn_lib.__main__ utils docs --name csgn --title".split(), "Command line"],
        capture_output=True, text=True, check=True, cwd=HOME,
    )  # fmt: skip
    return made.stdout


def commands() -> list[str]:
    """Every command and every option's long name, as the page must show them."""
    from csgn_lib.__main__ import app

    found = []
    for name, command in typer.main.get_command(app).commands.items():
        found += [f"csgn {name}", *(option.opts[-1] for option in command.params if option.opts[-1].startswith("--"))]
    return found


def parameter_names() -> list[str]:
    from csgn_lib.config import Experiment

    return list(Experiment.model_fields)


def parameters() -> str:
    """Every parameter of an experiment with its type, default, value in the demo, and meaning; then the presets."""
    from csgn_lib import config

    demo = config.Experiment.from_parameters(preset="demo").model_dump()
    lines = [
        "# Parameters of an experiment", "",
        "The same names are used by `csgn train --set`, by notebooks, by sweep grids and in result tables. Origin "
        "marks: [A] abstract of the paper, [P] its opening pages, [C] convention of CLIP-ReID, [O] choice of this "
        "project.", "",
        "| name | type | default | in `demo` | meaning |", "|---|---|---|---|---|",
    ]  # fmt: skip
    for name, field in config.Experiment.model_fields.items():
        default, small = field.get_default(), demo[name]
        cells = [f"`{name}`", _type(field.annotation), f"`{_shown(default)}`",
                 "" if small == default else f"`{_shown(small)}`", _escaped(field.description or "")]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    for title, table in (("Settings", config.PRESETS), ("Methods", config.METHODS)):
        lines += ["", f"## {title}", "", "| name | parameters that differ from the default |", "|---|---|"]
        lines += [f"| `{name}` | {', '.join(f'`{key}={_shown(value)}`' for key, value in values.items())} |"
                  for name, values in table.items()]  # fmt: skip
    lines += ["", "A preset is a setting (`prcc-paper`) or a setting with a method (`prcc-paper+clip-reid`)."]
    return "\n".join(lines) + "\n"


def protocols() -> str:
    """Every protocol of every benchmark, headline first, with its one-line description."""
    from csgn_lib.datasets.benchmark_protocols import BENCHMARK_PROTOCOLS

    lines = [
        "# Benchmarks and protocols", "",
        "`csgn_lib.datasets.load(name, root)` reads a benchmark. The first protocol of a benchmark is its headline. A "
        "*match* is a gallery image of the query's person; images of other people are never dropped.", "",
        "| benchmark | protocol | what is ranked, and which matches are dropped |", "|---|---|---|",
    ]  # fmt: skip
    for benchmark, found in BENCHMARK_PROTOCOLS.items():
        lines += [f"| `{benchmark}` | `{name}` | {_escaped(one.description)} |" for name, one in found.items()]
    return "\n".join(lines) + "\n"


def executed(path: Path) -> Path:
    """The executed copy of a finished run with the notebook's code and default parameters; else the notebook itself."""
    defaults = {name: parameter.default for name, parameter in runs.declared(path).items()}
    run = Run(folder_for(path.stem, path, defaults))
    copy = run.path("executed.ipynb")
    return copy if copy.exists() and run.status["state"] == "done" else path


def notebook(path: Path) -> tuple[str, dict[str, bytes]]:
    """A notebook as Markdown, with its outputs if it was executed here, and its pictures by name."""
    content = nbformat.read(executed(path), as_version=4)
    content.metadata.setdefault("language_info", {})["name"] = "python"
    text, resources = MarkdownExporter().from_notebook_node(content, {"unique_key": path.stem})
    text = re.sub(r"(?<=\]\(#)[^)]+(?=\))", lambda found: slugify(found[0].replace("-", " "), "-"), text)
    note = f"`notebooks/{path.name}` · headless: `csgn run {path.stem}`"
    title, _, rest = text.lstrip().partition("\n")
    return f"{title}\n\n{note}\n{rest}", resources.get("outputs", {})


@cache
def _library() -> griffe.Module:
    return griffe.load("csgn_lib", search_paths=[HOME])


def _own(module: griffe.Module) -> dict[str, str]:
    """Functions, classes and assigned names that a module defines itself, and their paths, in its order."""
    return {
        name: member.path for name, member in module.members.items() if not member.is_alias and not member.is_module
    }


def _taken(package: griffe.Module) -> list[str]:
    """What a package's ``__init__`` defines or takes from the library's packages, by name."""
    taken = [name for name, path in package.imports.items() if re.match(r"csgn_lib\.(?!records)\w+\.", path)]
    return sorted({*taken, *_own(package)} - {name for name in _own(package) if name.startswith("_")})


def _first_line(name: str) -> str:
    docstring = _library()[name].docstring
    return _escaped(docstring.value.partition("\n")[0]) if docstring else ""


def _definition(package: griffe.Module, name: str) -> str:
    """The path of what a package exports as ``name``; its path in the package if only running the code finds it."""
    for module in (package, *package.modules.values()):
        member = module.members.get(name)
        with suppress(griffe.AliasResolutionError, AttributeError):
            target = member.final_target if member.is_alias else member
            if not (target.is_module and name in target.members):
                return target.path
    return f"{package.path}.{name}"


def _collected(path: str) -> bool:
    """Whether mkdocstrings can read the docstring of ``path`` from the source."""
    try:
        return not _library()[path.removeprefix("csgn_lib.")].is_alias
    except KeyError:
        return False


def _type(annotation: Any) -> str:
    """The values that a parameter takes, or its type: ``none``, ``"dot"``, ``tuple[str, ...]``."""
    if annotation is type(None):
        return "`none`"
    arguments = typing.get_args(annotation)
    if typing.get_origin(annotation) is typing.Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return ", ".join(map(_type, arguments))
    return f"`{annotation if arguments else getattr(annotation, '__name__', annotation)}`"


def _shown(value: Any) -> str:
    return "none" if value is None else str(value) if isinstance(value, str) else json.dumps(value)


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")
