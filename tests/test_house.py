"""The house's rules that a machine can hold: import order, light imports, notebooks, no machine's paths."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

HOME = Path(__file__).resolve().parents[1]
LIBRARY = HOME / "csgn_lib"
# each room imports only from rooms to its left
ROOMS = (
    "records bench intervals config datasets synthetic batches backbones vocabulary mdg vss hsf losses training "
    "pretraining retrieval models probes attribution runs figures panels __main__"
).split()
MODULES = sorted(LIBRARY.rglob("*.py"))
NOTEBOOKS = sorted((HOME / "notebooks").glob("*.ipynb"))


def _room(module: Path) -> str:
    return module.relative_to(LIBRARY).parts[0].removesuffix(".py")


def _imported_rooms(module: Path) -> set[str]:
    rooms = set()
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import; write csgn_lib..."
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        rooms |= {name.split(".")[1] for name in names if name.startswith("csgn_lib.")}
    return rooms & {_room(path) for path in MODULES}


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(HOME)))
def test_a_room_imports_only_from_rooms_to_its_left(module):
    if (room := _room(module)) == "__init__":
        assert not _imported_rooms(module)
        return
    assert room in ROOMS, f"{module} is no known room: give it its place in ROOMS"
    late = [other for other in _imported_rooms(module) if ROOMS.index(other) > ROOMS.index(room)]
    assert not late, f"{module} imports {late}, to the right of {room}"


@pytest.mark.parametrize(
    ("modules", "heavy"),
    [
        ("csgn_lib", {"torch", "numpy", "pandas", "matplotlib", "pydantic", "typer"}),
        ("csgn_lib.__main__", {"torch", "numpy", "pandas", "matplotlib", "pydantic"}),
        ("csgn_lib.runs, csgn_lib.runs.kernel, csgn_lib.figures", {"torch"}),
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
    def test_it_carries_no_outputs(self, notebook):
        assert all(not cell["outputs"] and cell["execution_count"] is None for cell in _cells(notebook))

    def test_its_cells_are_short_and_hold_no_class_and_no_long_function(self, notebook):
        for cell in _cells(notebook):
            if "parameters" not in cell["metadata"].get("tags", []):  # that one is as long as its names are many
                assert len(cell["source"].splitlines()) <= 15, cell["source"]
            for node in ast.walk(_python(cell)):
                assert not isinstance(node, ast.ClassDef), node.name
                if isinstance(node, ast.FunctionDef):
                    assert node.end_lineno - node.lineno < 10, node.name

    def test_one_cell_holds_typed_plain_parameters_each_with_a_comment(self, notebook):
        tagged = [cell for cell in _cells(notebook) if "parameters" in cell["metadata"].get("tags", [])]
        assert len(tagged) == 1
        lines = tagged[0]["source"].splitlines()
        for statement in _python(tagged[0]).body:
            assert isinstance(statement, ast.AnnAssign), f"no type: {ast.unparse(statement)}"
            ast.literal_eval(statement.value)  # nothing is derived here
            assert "#" in lines[statement.end_lineno - 1], f"no comment: {ast.unparse(statement)}"

    def test_its_figures_are_as_wide_as_a_column_or_the_page(self, notebook):
        widths = {w for cell in _cells(notebook) for w in re.findall(r"figsize=\(([^,]+),", cell["source"])}
        assert widths <= {"figures.COLUMN_WIDTH", "figures.TEXT_WIDTH"}

    def test_it_opens_with_its_question(self, notebook):
        first = json.loads(notebook.read_text())["cells"][0]
        assert first["cell_type"] == "markdown" and "?" in "".join(first["source"]).splitlines()[0]

    def test_it_says_what_it_found_last_with_the_command_and_the_cost(self, notebook):
        first = "".join(json.loads(notebook.read_text())["cells"][0]["source"])
        assert re.search(
            r"^\*Last answer:\* .+\(`(csgn run|make) [^`]+`\)\n\n\*Cost:\* \d+ s, .+\.$", first, re.M | re.S
        )
        assert any("**Answer.** " in cell["source"] for cell in _cells(notebook))


def _texts() -> list[Path]:
    kinds = {".py", ".ipynb", ".md", ".toml", ".yml", ".yaml", ".json", ".html", ".mplstyle", ".csv", ""}
    tops = [path for path in HOME.iterdir() if path.is_file() and path.name != ".git"]  # a file in a worktree
    folders = ["csgn_lib", "tests", "notebooks", "docs", ".ci"]
    made = ("runs", "demo", "cache")  # not committed
    folders += [f"reports/{path.name}" for path in (HOME / "reports").iterdir() if path.name not in made]
    files = [path for name in folders for path in (HOME / name).rglob("*") if path.is_file()]
    return [path for path in tops + files if path.suffix in kinds and "__pycache__" not in path.parts]


def test_no_path_of_anyones_machine_is_committed():
    machine = re.compile(r"(?<![\w.])/(?:work|root|Users/\w+|home/\w+)/")
    found = [path for path in _texts() if machine.search(path.read_text(encoding="utf-8", errors="replace"))]
    assert not [path for path in found if path != Path(__file__).resolve()]
