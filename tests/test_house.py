"""Rules of the code base: import order, light imports, notebooks, no absolute paths."""

import ast
import json
import re
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

from csgn_lib import CORE

HOME = Path(__file__).resolve().parents[1]
LIBRARY = HOME / "csgn_lib"
# Each package imports only from packages before it. The core decides a run's result; the workbench is built on it.
WORKBENCH = "analysis runs figures models panels commands __main__".split()
ORDER = [*CORE, *WORKBENCH]
MODULES = sorted(LIBRARY.rglob("*.py"))
NOTEBOOKS = sorted((HOME / "notebooks").glob("*.ipynb"))


def _name(module: Path) -> str:
    parts = module.relative_to(HOME).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _package(name: str) -> str:
    return name.split(".")[1] if "." in name else "__init__"


NAMES = {_name(module): module for module in MODULES}


def _imports(module: Path, everywhere: bool = True) -> set[str]:
    """The library's modules that a module imports, in functions too; those for type checking only if ``everywhere``."""
    tree, found = ast.parse(module.read_text()), set()
    typing = {id(inner) for node in ast.walk(tree) if _checks_types(node) for inner in ast.walk(node)}
    for node in ast.walk(tree):
        if not everywhere and id(node) in typing:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import; write csgn_lib..."
            full = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in NAMES else node.module for name in full}
    return found & set(NAMES) - {"csgn_lib"}


def _checks_types(node: ast.AST) -> bool:
    """The block of ``if TYPE_CHECKING``, which runs in no process."""
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(HOME)))
def test_packages_import_only_earlier_packages(module):
    if (package := _package(_name(module))) == "__init__":
        assert not _imports(module)
        return
    assert package in ORDER, f"{module} is in no known package: give it a place in ORDER"
    late = [name for name in _imports(module) if ORDER.index(_package(name)) > ORDER.index(package)]
    assert not late, f"{module} imports {late}, which come after {package}"


def test_no_import_cycles():
    graph = {name: _imports(module, everywhere=False) - {name} for name, module in NAMES.items()}
    while leaves := {name for name, imported in graph.items() if not imported & set(graph)}:
        graph = {name: imported for name, imported in graph.items() if name not in leaves}
    assert not graph, f"import cycle among {sorted(graph)}"


@pytest.mark.parametrize(
    ("modules", "heavy"),
    [
        ("csgn_lib", {"torch", "numpy", "pandas", "matplotlib", "pydantic", "typer"}),
        ("csgn_lib.__main__", {"torch", "numpy", "pandas", "matplotlib", "pydantic"}),
        ("csgn_lib.runs, csgn_lib.runs.kernel, csgn_lib.figures, csgn_lib.statistics", {"torch"}),
    ],
)
def test_imports_stay_light(modules, heavy):
    code = f"import sys, {modules}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=HOME, capture_output=True, text=True, check=True)
    assert not heavy & set(loaded.stdout.split())


def _cells(notebook: Path, kind: str = "code") -> list[dict]:
    cells = json.loads(notebook.read_text())["cells"]
    return [cell | {"source": "".join(cell["source"])} for cell in cells if cell["cell_type"] == kind]


def _python(cell: dict) -> ast.Module:
    lines = [line for line in cell["source"].splitlines() if not line.lstrip().startswith(("%", "!"))]
    return ast.parse("\n".join(lines))


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
class TestNotebook:
    def test_has_no_outputs(self, notebook):
        assert all(not cell["outputs"] and cell["execution_count"] is None for cell in _cells(notebook))

    def test_cells_are_short_without_classes_or_long_functions(self, notebook):
        for cell in _cells(notebook):
            if "parameters" not in cell["metadata"].get("tags", []):  # that one is as long as its names are many
                assert len(cell["source"].splitlines()) <= 15, cell["source"]
            for node in ast.walk(_python(cell)):
                assert not isinstance(node, ast.ClassDef), node.name
                if isinstance(node, ast.FunctionDef):
                    assert node.end_lineno - node.lineno < 10, node.name

    def test_parameters_cell_is_typed_and_commented(self, notebook):
        tagged = [cell for cell in _cells(notebook) if "parameters" in cell["metadata"].get("tags", [])]
        assert len(tagged) == 1
        lines = tagged[0]["source"].splitlines()
        for statement in _python(tagged[0]).body:
            assert isinstance(statement, ast.AnnAssign), f"no type: {ast.unparse(statement)}"
            ast.literal_eval(statement.value)  # nothing is derived here
            assert "#" in lines[statement.end_lineno - 1], f"no comment: {ast.unparse(statement)}"

    def test_figures_have_column_or_page_width(self, notebook):
        widths = {w for cell in _cells(notebook) for w in re.findall(r"figsize=\(([^,]+),", cell["source"])}
        assert widths <= {"figures.COLUMN_WIDTH", "figures.TEXT_WIDTH"}

    def test_title_is_a_question(self, notebook):
        first = json.loads(notebook.read_text())["cells"][0]
        assert first["cell_type"] == "markdown" and "?" in "".join(first["source"]).splitlines()[0]

    def test_first_cell_has_answer_command_and_cost(self, notebook):
        first = "".join(json.loads(notebook.read_text())["cells"][0]["source"])
        command = r"\(`(csgn run|make) [^`]+`\)"
        answer = rf"\*Last answer:\* {command}\n\n(- .+\n)+\n"
        assert re.search(rf"^{answer}\*Cost:\* \d+ s, .+\.$", first, re.M)
        assert any("**Answer.**" in cell["source"] for cell in _cells(notebook))

    def test_image_in_first_cell_exists(self, notebook):
        first = "".join(json.loads(notebook.read_text())["cells"][0]["source"])
        paths = re.findall(r"!\[[^]]+\]\(([^\s)]+)", first)
        assert len(paths) == 1 and (notebook.parent / paths[0]).is_file(), paths

    def test_at_most_three_consecutive_code_cells(self, notebook):
        kinds = "".join(cell["cell_type"][0] for cell in json.loads(notebook.read_text())["cells"])
        assert "cccc" not in kinds


def _texts() -> list[Path]:
    kinds = {".py", ".ipynb", ".md", ".toml", ".yml", ".yaml", ".json", ".html", ".mplstyle", ".csv", ""}
    tops = [path for path in HOME.iterdir() if path.is_file() and path.name != ".git"]  # a file in a worktree
    folders = ["csgn_lib", "benchmarks", "tests", "notebooks", "docs", ".ci"]
    made = ("runs", "demo", "cache")  # not committed
    folders += [f"reports/{path.name}" for path in (HOME / "reports").iterdir() if path.name not in made]
    files = [path for name in folders for path in (HOME / name).rglob("*") if path.is_file()]
    return [path for path in tops + files if path.suffix in kinds and "__pycache__" not in path.parts]


def test_no_absolute_paths_are_committed():
    machine = re.compile(r"(?<![\w.])/(?:work|root|Users/\w+|home/\w+)/")
    found = [path for path in _texts() if machine.search(path.read_text(encoding="utf-8", errors="replace"))]
    assert not [path for path in found if path != Path(__file__).resolve()]


def _public(body: list[ast.stmt]) -> list[ast.FunctionDef]:
    """The functions and methods whose name, and that of their class, has no underscore in front."""
    found = [node for node in body if isinstance(node, ast.FunctionDef) and node.name[0] != "_"]
    classes = [node for node in body if isinstance(node, ast.ClassDef) and node.name[0] != "_"]
    return found + [method for node in classes for method in _public(node.body)]


def test_public_functions_have_docstrings_and_functions_are_short():
    sizes = []
    for module in MODULES:
        tree = ast.parse(module.read_text())
        functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
        public = [n for n in functions if n.name[0] != "_"] if "synthetic" in module.parts else _public(tree.body)
        assert not [node.name for node in public if not ast.get_docstring(node)], module
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                body = node.body[1:] if ast.get_docstring(node, clean=False) else node.body
                sizes.append(1 + node.end_lineno - body[0].lineno + 1 if body else 1)
    assert statistics.median(sizes) <= 8 and sum(size < 30 for size in sizes) >= 0.95 * len(sizes)


def test_the_map_of_the_library_has_at_most_14_lines():
    table = (HOME / "docs" / "library.md").read_text(encoding="utf-8").partition("## Map")[2].partition("##")[0]
    assert 0 < len(re.findall(r"^\| `", table, re.M)) <= 14


@pytest.mark.parametrize("name", ["mdg", "vss", "hsf", "losses", "vocabulary"])
def test_method_files_begin_with_equations_and_origin_marks(name):
    text = ast.get_docstring(ast.parse((LIBRARY / f"{name}.py").read_text()))
    legend = "Symbols: see ``csgn_lib``. Origin marks: [A] the paper's abstract, [P] its opening pages, [C] convention"
    assert legend in text and re.search(r"^    \S.* = .*$", text, re.M)
