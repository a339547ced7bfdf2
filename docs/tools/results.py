"""`make results`: README.md and pages of docs/ from their templates, with every number taken from a record.

A template of docs/templates/ is Markdown with Jinja expressions, such as ``{{ demo("CSGN") }}``; the functions of
`FUNCTIONS` read the committed records below reports/. ``README.md`` is written to the top of the repository, every
other template to docs/.
"""

from __future__ import annotations

import itertools
import json
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd

from csgn_lib.backbones import TOWERS
from csgn_lib.records import read_json, read_yaml, write_text
from csgn_lib.runs import load_sweep_records
from csgn_lib.runs.sweep_records import SENSITIVITIES, SweepRecords
from csgn_lib.synthetic import World

HOME = Path(__file__).resolve().parents[2]
TEMPLATES = HOME / "docs" / "templates"
HARD, GENERAL = "cloth_changing", "general"


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


def demo_difference(row: str, against: str) -> str:
    """Difference of cloth-changing mAP in ``make first-result``, in points, with its sign."""
    return _signed(demo(row) - demo(against))


def demo_time() -> str:
    """Time of `make demo` on two cores, with the rendering of its benchmark: half the recorded seconds of its notebooks
    and half the CPU seconds of its pictures, since two processes run at a time."""
    world = World()
    pictures = world.people * world.outfits * world.cameras_each * world.images
    return _about((_rendering_seconds(pictures) + sum(_json("first-result/seconds.json").values())) / 2)


def pretraining_time() -> str:
    """Time of `make tiny-clip` on two cores: both render, one trains."""
    log = (TOWERS / "csgn-tiny.log.jsonl").read_text(encoding="utf-8").splitlines()
    towers = {record["tower"]: record["seconds"] for record in map(json.loads, log)}  # the last step of each
    pictures = read_json(TOWERS / "csgn-tiny.scores.json")["taught_pictures"]
    return _about(_rendering_seconds(pictures) / 2 + sum(towers.values()))


def _rendering_seconds(pictures: int) -> float:
    return pictures / _json("world/speed.json")["pictures_per_cpu_second"]["rendered world"]


def world_record() -> dict[str, Any]:
    """The record of ``make world-rows``: its setting, people and draws."""
    return _json("world/rows.json")


def world_table() -> str:
    """A Markdown table of ``make world-rows``: means over draws in percent, with the range of mAP."""
    body = []
    for row in world_record()["draws"][0]["rows"]:
        scores = [_draws(protocol, row)[:, 0] for protocol in (HARD, GENERAL)]
        cells = [(f"{part[:, 1].mean():.1f}", _ranged(part[:, 0])) for part in scores]
        body.append([row, *cells[0], *cells[1]])
    return _table(["", "rank-1, cloth-changing", "mAP, cloth-changing", "rank-1, general", "mAP, general"], body)


def world_difference(row: str, against: str) -> str:
    """Mean difference of cloth-changing mAP over the draws of ``make world-rows``, in points, and its range."""
    found = _draws(HARD, row, against)[..., 0]
    gaps = found[:, 0] - found[:, 1]
    return f"{_signed(gaps.mean())} ({_signed(gaps.min())} to {_signed(gaps.max())})"


def recorded(name: str) -> bool:
    """Whether reports/ has this file or folder of records."""
    return (HOME / "reports" / name).exists()


def mean_table(record: str, rows: dict[str, str], columns: dict[str, tuple[str, str]]) -> str:
    """A Markdown table of a sweep: mean ± s.d. over draws, or over runs of a single draw.

    Args:
        record: folder of a sweep below reports/.
        rows: recorded name to the name that is shown.
        columns: title to a descriptor and a measure: a protocol's mAP in percent, or a sensitivity.
    """
    body = []
    for row, shown in rows.items():
        cells = []
        for descriptor, measure in columns.values():
            label, sweep = _label(row, descriptor), _sweep(record)
            known = label in set(sweep.values["label"])  # a row without f has no subspaces
            cells.append(_spread(sweep.mean(label, measure), _digits(measure)) if known else "")
        body.append([shown, *cells])
    return _table(["", *columns], body)


def difference(record: str, label: str, against: str, measure: str = HARD) -> str:
    """Mean paired difference of two rows of a sweep, with the 95 % interval of Student's t over draws."""
    return _interval(_sweep(record).difference(label, against, measure), _digits(measure))


def verdict(name: str) -> str:
    """``held``, ``not held`` or ``undecided``: a hypothesis of reports/seeds/hypotheses.yaml."""
    return _sweep("seeds").verdict(read_yaml(HOME / "reports/seeds/hypotheses.yaml")[name])


def difference_table(rows: dict[str, tuple[str, str]], columns: dict[str, tuple[str, str]]) -> str:
    """A Markdown table of ``difference``: what is shown to two labels; a column is its title, record and measure."""
    body = [
        [shown, *(difference(record, *labels, measure) for record, measure in columns.values())]
        for shown, labels in rows.items()
    ]
    return _table(["", *columns], body)


def runs_of(record: str) -> dict[str, int]:
    """Numbers of runs, rows and draws of a sweep."""
    found = _csv(f"{record}/runs-records.csv")
    return {"runs": len(found), "rows": found["row"].nunique(), "draws": found["world"].nunique()}


def text_study(condition: str, protocol: str = HARD) -> str:
    """What the text loss adds under a condition of ``make text-study``, in points of mAP, with its 95 % interval."""
    return _interval(_csv("text-study/differences.csv").set_index(["condition", "protocol"]).loc[(condition, protocol)])


def text_study_table() -> str:
    """A Markdown table of ``make text-study``: both rows' mean mAP in percent, and the paired difference."""
    base, text = "identity + triplet", "CLIP-ReID"
    means = _csv("text-study/rows.csv").groupby(["protocol", "row", "condition"])["mean_ap"].mean()[HARD]
    body = []
    for name in dict.fromkeys(_csv("text-study/differences.csv")["condition"]):
        unchanged = name if name in means[base] else "the preset"  # the baseline has no text loss to change
        scores = [f"{100 * means[base][unchanged]:.1f}", f"{100 * means[text][name]:.1f}"]
        body.append([name, *scores, text_study(name), text_study(name, GENERAL)])
    return _table(["", base, text, "difference", "difference, general"], body)


def text_to_image() -> str:
    """rank-1 and mAP of captions in ``make text-to-image``, in percent, the interval over people, and chance."""
    found = _csv("retrieval/text-to-image/words.csv").set_index("name").loc["captions"] * 100
    scores = f"rank-1 {found['rank1']:.1f}, mAP {found['mean_ap']:.1f} [{found['low']:.1f}, {found['high']:.1f}]"
    return f"{scores}; chance {found['chance']:.1f}"


def clips_table(records: dict[str, str]) -> str:
    """A Markdown table of ``make ablation-clips``: cloth-changing mAP of each row and descriptor, by sweep."""
    descriptors = ["plain", "clothing removed", "person only"]
    body = []
    for row, descriptor in itertools.product(["identity + triplet", "CLIP-ReID", "CSGN"], descriptors):
        label = _label(row, descriptor)
        body.append([label, *(_spread(_sweep(record).mean(label, HARD)) for record in records.values())])
    return _table(["", *records], body)


def vocabulary_table() -> str:
    """A Markdown table of ``make vocabulary-study``: what each vocabulary adds to the plain descriptor, by model."""
    columns = list(itertools.product(["CSGN", "frozen CLIP"], ["clothing removed", "person only"]))
    rows = _vocabulary_study("phrases", "vocabulary")
    body = [
        [name, *(_interval(rows.loc[(name, *column)]) for column in columns)]
        for name in dict.fromkeys(rows.index.get_level_values(0))
    ]
    return _table(["", *(", ".join(column) for column in columns)], body)


def settings_table() -> str:
    """A Markdown table of ``make vocabulary-study``: plain score and what each subspace adds, by setting."""
    rows = _vocabulary_study("pictures", "setting")
    body = []
    for setting, model in itertools.product(
        dict.fromkeys(rows.index.get_level_values(0)), ["CLIP-ReID", "frozen CLIP"]
    ):
        cells = [rows.loc[(setting, model, kind)] for kind in ("clothing removed", "person only")]
        body.append([f"{setting}, {model}", f"{cells[0]['plain']:.1f}", *map(_interval, cells)])
    return _table(["", "plain", "clothing removed", "person only"], body)


def _vocabulary_study(part: str, key: str) -> pd.DataFrame:
    """Cloth-changing differences of a part of the study, by ``key``, model and descriptor."""
    found = _csv("vocabulary-study/differences.csv")
    found = found[(found["part"] == part) & (found["protocol"] == HARD)]
    return found.set_index([key, "model", "descriptor"])


MODELS = ("identity + triplet", "CLIP-ReID", "CSGN")  # of `make inside`
SUBSPACES = ("plain", "clothing removed", "person only")


def inside_neighbours() -> str:
    """A Markdown table of ``make inside``: neighbours of a person and of an outfit as multiples of chance."""
    found = _inside("30_embedding_map", "purity", "row", "feature", "kind")
    differences = _json("inside/30_embedding_map-results.json")["person_over_outfit"]
    kinds, body = ("same person, other clothes", "other person, same outfit"), []
    for model, part in itertools.product(MODELS, SUBSPACES):
        times = [f"{found.loc[(model, part, kind), 'times']:.1f}" for kind in kinds]
        gap = pd.Series(differences[f"{model}, {part}"]).rename({"value": "mean"})
        body.append([f"{model}, {part}", *times, _interval(gap)])
    return _table(["", *kinds, "difference"], body)


def inside_leakage() -> str:
    """A Markdown table of ``make inside``: what clothes cost, and what can be read of them, by part of f."""
    lost, wrong = (_inside("31_clothes_leakage", part, "row", "feature") for part in ("clothes_share", "first_answers"))
    read = _inside("31_clothes_leakage", "attributes_read", "about").loc["clothes"].groupby(["row", "feature"])
    accuracy, body = read[["value", "shuffled"]].mean() * 100, []
    for model, part in itertools.product(MODELS, SUBSPACES):
        label = (model, _label("joint embedding", part))
        cells = [_percent(lost.loc[label]), _percent(wrong.loc[label], "same_")]
        cells.append(f"{accuracy.loc[label, 'value']:.0f} ({accuracy.loc[label, 'shuffled']:.0f})")
        body.append([f"{model}, {part}", *cells])
    return _table(["%", "lost", "same outfit", "read"], body)


def inside_chance() -> str:
    """By chance, how many wrong first answers of ``make inside`` show the query's outfit."""
    return f"{100 * _inside('31_clothes_leakage', 'first_answers', 'row')['same_chance'].mean():.0f} %"


def inside_attention() -> str:
    """A Markdown table of ``make inside``: percent of relevance on garments and body by model, and the tilt."""
    found = _inside("32_attention", "shares", "row", "method", "weights", "part")
    rows = {"area": ("uniform map", "area", "none"), "uniform over the person": ("uniform person", "rollout", "none")}
    rows |= {f"{m}, {method}": (m, method, "own") for m, method in itertools.product(MODELS, ["occlusion", "rollout"])}
    body = []
    for shown, label in rows.items():
        shares = [f"{100 * found.loc[(*label, part), 'value']:.0f}" for part in ("garments", "body")]
        tilt = found.loc[(*label, "tilt to the body")].rename({"value": "mean"})
        body.append([shown, *shares, _interval(tilt, 2) if label[1] != "area" else ""])
    return _table(["%", "garments", "body", "tilt to the body"], body)


def inside_people() -> int:
    """Number of people whose relevance maps ``make inside`` measures."""
    return _inside("32_attention", "pairs", "row")["person"].nunique()


def inside_sensitivity(encoder: str, part: str = "") -> str:
    """Colour sensitivity of f in ``make inside``; ``part``: how the name of a subspace's row begins."""
    found = _json("inside/10_colour_bias-results.json")["colour_sensitivity"]
    whole = f"{encoder}, joint embedding"
    (value,) = (v for name, v in found.items() if (name.startswith(f"{whole}, {part}") if part else name == whole))
    return f"{value:.2f}"


def inside_descriptions(of: str, subspace: str, value: str = "value") -> str:
    """Share of variance of the learned descriptions in a subspace in ``make inside``."""
    return f"{100 * _inside('10_colour_bias', 'descriptions', 'of', 'subspace').loc[(of, subspace), value]:.0f} %"


def _inside(notebook: str, part: str, *index: str) -> pd.DataFrame:
    return pd.DataFrame(_json(f"inside/{notebook}-results.json")[part]).set_index(list(index)).sort_index()


def _percent(values: pd.Series, prefix: str = "") -> str:
    value, low, high = (100 * values[prefix + name] for name in ("value", "low", "high"))
    return f"{value:.0f} [{low:.0f}, {high:.0f}]"


def sweep_time(*records: str) -> str:
    """Time of sweeps on two cores: half the recorded seconds of their runs, since two run at a time."""
    return _about(sum(_csv(f"{record}/costs-records.csv")["seconds"].sum() for record in records) / 2)


@cache
def _sweep(record: str) -> SweepRecords:
    return load_sweep_records(HOME / "reports" / record, descriptors=["plain", "clothing removed", "person only"])


def _label(row: str, descriptor: str) -> str:
    return row if descriptor == "plain" else f"{row}, {descriptor}"


def _digits(measure: str) -> int:
    return 2 if measure in SENSITIVITIES else 1


def bench(record: str, what: str) -> float:
    """The value of the one line of a benchmark whose name ends so."""
    found = _csv(record)
    (value,) = found["value"][found["what"].str.endswith(what)]
    return value


def notebook_list() -> str:
    """A Markdown list of the notebooks and their titles, which are questions."""
    lines = []
    for path in sorted((HOME / "notebooks").glob("*.ipynb")):
        first = json.loads(path.read_text(encoding="utf-8"))["cells"][0]["source"]
        title = "".join(first).partition("\n")[0].removeprefix("# ").strip()
        lines.append(f"- `{path.stem}`: {title}")
    return "\n".join(lines)


def _draws(protocol: str, *rows: str) -> np.ndarray:
    """mAP and rank-1 in percent of rows of ``make world-rows``, in the draws that have all: (draws, rows, 2)."""
    draws = [draw["rows"] for draw in world_record()["draws"]]
    found = [[draw[row][protocol] for row in rows] for draw in draws if set(rows) <= set(draw)]
    if not found:
        raise KeyError(f"reports/world/rows.json has no draw with {', '.join(map(repr, rows))}")
    return 100 * np.array(found)


def _ranged(values: np.ndarray) -> str:
    return f"{values.mean():.1f} ({values.min():.1f}–{values.max():.1f})"


def _spread(over: pd.Series, digits: int = 1) -> str:
    return f"{over['mean']:.{digits}f}\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}{over['sd']:.{digits}f}"


def _interval(over: pd.Series, digits: int = 1) -> str:
    mean, low, high = (_signed(over[name], digits) for name in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}]"


def _signed(points: float, digits: int = 1) -> str:
    return f"{round(points, digits) + 0.0:+.{digits}f}"  # no minus before zero


def _about(seconds: float) -> str:
    """``5 minutes``, ``50 minutes``, ``2 hours``: to the nearest minute, five minutes from 10, half an hour from 90."""
    if seconds < 90 * 60:
        step = 5 if seconds >= 600 else 1
        return f"{step * round(seconds / 60 / step)} minutes"
    return f"{round(seconds / 1800) / 2:g} hours"


def _json(name: str) -> Any:
    return read_json(HOME / "reports" / name)


@cache
def _csv(name: str) -> pd.DataFrame:
    return pd.read_csv(HOME / "reports" / name)


def _table(head: list[str], body: list[list[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


FUNCTIONS = {
    function.__name__: function
    for function in (demo_table, demo_difference, demo_time, pretraining_time, world_record, world_table,
                     world_difference, recorded, mean_table, difference, difference_table, verdict, runs_of, text_study,
                     text_study_table, text_to_image, clips_table, vocabulary_table, settings_table, sweep_time, bench,
                     inside_neighbours, inside_leakage, inside_chance, inside_attention, inside_people,
                     inside_sensitivity, inside_descriptions, notebook_list)
}  # fmt: skip

if __name__ == "__main__":
    for target, text in outputs().items():
        write_text(target, text)
        print(target.relative_to(HOME))
