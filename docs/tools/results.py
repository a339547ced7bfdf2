"""`make results`: README.md and pages of docs/ from their templates, with every number taken from a record.

A template of docs/templates/ is Markdown with Jinja expressions, such as ``{{ difference("seeds", "CSGN",
"CLIP-ReID") }}``; the functions of `FUNCTIONS` read the committed records below reports/. ``README.md`` is written to
the top of the repository, every other template to docs/.
"""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from csgn_lib.records import write_text
from csgn_lib.runs.demo import PLAN
from csgn_lib.statistics import clusters_of, spread

HOME = Path(__file__).resolve().parents[2]
TEMPLATES = HOME / "docs" / "templates"
HARD, GENERAL = "cloth_changing", "general"
DESCRIPTORS = ("clothing out", "person only")


def outputs() -> dict[Path, str]:
    """Every generated page: its path and its text."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), undefined=jinja2.StrictUndefined, keep_trailing_newline=True
    )
    environment.globals |= FUNCTIONS
    found = {}
    for path in sorted(TEMPLATES.glob("*.md")):
        target = HOME / path.name if path.name == "README.md" else HOME / "docs" / path.name
        found[target] = environment.get_template(path.name).render()
    return found


def demo(row: str, metric: str = "mean_ap", protocol: str = HARD) -> float:
    """A score of ``make first-result`` in percent."""
    return 100 * _csv("first-result/results.csv").set_index(["row", "protocol"]).loc[(row, protocol), metric]


def demo_table(rows: dict[str, str]) -> str:
    """A Markdown table of rows of ``make first-result``: recorded name to the name that is shown."""
    columns = [("rank1", HARD), ("mean_ap", HARD), ("rank1", GENERAL), ("mean_ap", GENERAL)]
    head = ["", "rank-1, cloth-changing", "mAP, cloth-changing", "rank-1, general", "mAP, general"]
    return _table(head, [[shown, *(f"{demo(row, *column):.1f}" for column in columns)] for row, shown in rows.items()])


def mean(record: str, label: str, protocol: str = HARD) -> str:
    """mAP of a row over the runs of a sweep, in percent: mean ± s.d. (over worlds where there are several)."""
    found = values(record, label, protocol)
    over = spread(found, found.index.get_level_values(_cluster(found)))
    return f"{over['mean']:.1f} ± {over['sd']:.1f}"


def mean_table(record: str, rows: list[str], columns: dict[str, tuple[str, str]]) -> str:
    """A Markdown table of `mean`: a column is its title, a descriptor (or plain) and a protocol."""
    body = [[row, *(mean(record, _label(row, *column[:1]), column[1]) for column in columns.values())] for row in rows]
    return _table(["", *columns], body)


def difference(record: str, label: str, against: str, protocol: str = HARD, worlds: int | None = None) -> str:
    """Mean paired difference of mAP in points, with the 95 % interval of Student's t over worlds."""
    low, middle, high = difference_values(record, label, against, protocol, worlds)
    low, middle, high = (round(value, 1) + 0.0 for value in (low, middle, high))  # no minus before zero
    return f"{middle:+.1f} [{low:+.1f}, {high:+.1f}]"


def difference_values(
    record: str, label: str, against: str, protocol: str = HARD, worlds: int | None = None
) -> tuple[float, float, float]:
    """Low end, mean and high end of `difference`."""
    paired = (values(record, label, protocol) - values(record, against, protocol)).dropna()
    if worlds is not None:
        paired = paired[paired.index.get_level_values("world") < worlds]
    over = spread(paired, paired.index.get_level_values(_cluster(paired)))
    return over["low"], over["mean"], over["high"]


def difference_table(rows: dict[str, str], columns: dict[str, tuple[str, str, str, str]]) -> str:
    """A Markdown table of `difference`: a column is its title, record, descriptor (or plain), baseline and protocol."""

    def cell(row: str, record: str, descriptor: str, against: str, protocol: str) -> str:
        return difference(record, _label(row, descriptor), against, protocol)

    body = [[shown, *(cell(row, *column) for column in columns.values())] for row, shown in rows.items()]
    return _table(["", *columns], body)


def inside(notebook: str, key: str, **where: Any) -> dict[str, Any]:
    """The entry of a list in a notebook's recorded results whose values are those of ``where``; a dict as it is."""
    found = json.loads((HOME / "reports" / "inside" / f"{notebook}-results.json").read_text(encoding="utf-8"))[key]
    if isinstance(found, dict):
        return found
    (one,) = [entry for entry in found if all(entry[name] == value for name, value in where.items())]
    return one


def interval(entry: dict[str, Any], form: str = "{:.2f}", scale: float = 1) -> str:
    """``value [low, high]`` of an entry."""
    value, low, high = (form.format(scale * entry[name]) for name in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def bench(record: str, what: str) -> float:
    """The value of the one line of a benchmark whose name ends so."""
    found = _csv(record)
    (value,) = found["value"][found["what"].str.endswith(what)]
    return value


def sweep_time(*records: str) -> str:
    """Time of sweeps on two cores: half the recorded seconds of their runs, since two run at a time."""
    return _about(sum(_csv(f"{record}/costs-records.csv")["seconds"].sum() for record in records) / 2)


def notebook_time(name: str) -> str:
    """Time of a notebook, from the cost in its first cell."""
    return _about(_notebook_seconds(name))


def demo_time() -> str:
    """Time of `make demo` on two cores: half the recorded seconds of its notebooks, since two run at a time."""
    costs = pd.concat([_csv(f"ablation/{name}/costs-records.csv") for name in ("main", "controls")])
    trained = costs.groupby("row")["seconds"].median()
    steps = [trained[s.name] if s.notebook == "12_train" else _notebook_seconds(s.notebook) for s in PLAN]
    return _about(sum(steps) / 2)


def notebook_list() -> str:
    """A Markdown list of the notebooks and their titles, which are questions."""
    lines = []
    for path in sorted((HOME / "notebooks").glob("*.ipynb")):
        first = json.loads(path.read_text(encoding="utf-8"))["cells"][0]["source"]
        title = "".join(first).partition("\n")[0].removeprefix("# ").strip()
        lines.append(f"- `{path.stem}`: {title}")
    return "\n".join(lines)


def values(record: str, label: str, protocol: str = HARD) -> pd.Series:
    """mAP in percent of every run of a row, by seed and world."""
    row, descriptor = _split(label)
    column = f"{descriptor}.protocols.{protocol}.mean_ap"
    found = _csv(f"{record}/runs-records.csv")[["row", "seed", "world", column]]  # a few of hundreds: much faster
    found = found[found["row"] == row].set_index(["seed", "world"])
    if found.empty:
        raise KeyError(f"reports/{record}/runs-records.csv has no row {row!r}")
    return 100 * found[column]


def _cluster(found: pd.Series) -> str:
    return clusters_of(found.index.to_frame(index=False))


def _split(label: str) -> tuple[str, str]:
    row, _, last = label.rpartition(", ")
    return (row, last) if last in DESCRIPTORS else (label, "plain")


def _label(row: str, descriptor: str) -> str:
    return row if descriptor == "plain" else f"{row}, {descriptor}"


def _about(seconds: float) -> str:
    """``5 minutes``, ``50 minutes``, ``2 hours``: to the nearest minute, five minutes from 10, half an hour from 90."""
    if seconds < 90 * 60:
        step = 5 if seconds >= 600 else 1
        return f"{step * round(seconds / 60 / step)} minutes"
    return f"{round(seconds / 1800) / 2:g} hours"


def _notebook_seconds(name: str) -> float:
    cells = json.loads((HOME / "notebooks" / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]
    return float(re.search(r"^\*Cost:\* (\d+) s", "".join(cells[0]["source"]), re.M)[1])


@cache
def _csv(name: str) -> pd.DataFrame:
    return pd.read_csv(HOME / "reports" / name)


def _table(head: list[str], body: list[list[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


FUNCTIONS = {
    function.__name__: function
    for function in (demo, demo_table, mean, mean_table, difference, difference_values, difference_table,
                     inside, interval, bench, sweep_time, notebook_time, demo_time, notebook_list)
}  # fmt: skip

if __name__ == "__main__":
    for target, text in outputs().items():
        write_text(target, text)
        print(target.relative_to(HOME))
