"""The demo's report: one HTML file with figures, the results table, curves, and links to the executed notebooks."""

from __future__ import annotations

import base64
import html
import io
import re
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from string import Template

import matplotlib.pyplot as plt
import pandas as pd

from csgn_lib.figures.plots import curves, loss_frame, metrics_frame
from csgn_lib.figures.tables import protocol_name, results_table
from csgn_lib.records import InputError, Run, read_json, write_text
from csgn_lib.runs import Outcome, clock, environment

_TEMPLATE = Path(__file__).with_name("page.html")
_HEADLINE, _EASY = "cloth_changing", "general"


def write_page(
    outcomes: Sequence[Outcome], results: pd.DataFrame, folder: str | Path, command: str, seconds: float
) -> Path:
    """Write ``folder/index.html``, ``results.csv`` and ``notebooks/*.html``; returns the page's path.

    The page is self-contained, except for the notebooks that it links to. It shows the figures that
    the runs saved: names with ``strip`` first, then the results, the training curves (drawn here from metrics.jsonl),
    then every other figure with its caption.

    Args:
        outcomes: what `runs.demo` returned.
        results: as for `results_table`; the first protocol reported is `cloth_changing`.
        folder: for example ``reports/demo``.
        command: the command that makes this page.
        seconds: its duration.
    """
    folder = Path(folder)
    links = {outcome.step.name: _notebook(outcome, folder) for outcome in outcomes}
    pictures = _pictures(outcomes)
    strips = [picture for picture in pictures if "strip" in picture.stem]
    others = [picture for picture in pictures if picture not in strips and "training" not in picture.stem]
    text = Template(_TEMPLATE.read_text(encoding="utf-8")).substitute(
        title="Person re-identification in other clothes",
        lead=_lead(results),
        strips="\n".join(_figure(picture, "wide strip") for picture in strips),
        chart=_chart(results),
        table=results_table(results).html,
        note=_note(results),
        curves=_curves(outcomes),
        figures=_section("More figures", [_figure(picture, "") for picture in others], "pair"),
        steps=_steps(outcomes, links),
        facts=_facts(outcomes, command, seconds),
    )
    write_text(folder / "results.csv", results.to_csv(index=False))
    write_text(folder / "index.html", text)
    return folder / "index.html"


def _lead(results: pd.DataFrame) -> str:
    hard = results[results["protocol"] == _HEADLINE]
    if hard.empty:
        return "Results of the demo on the embedded benchmark."
    last = hard.iloc[-1]  # the plan's last row, not the best one: choosing it would be selection on test people
    between = f" ({100 * last['low']:.1f} to {100 * last['high']:.1f})" if {"low", "high"} <= set(hard) else ""
    return (
        "The test people are not in the training set, and every correct match wears other clothes than the query. "
        f"Of {last['counted']:.0f} queries, <b>{html.escape(str(last['row']))}</b> ranks the right person first in "
        f"<b>{100 * last['rank1']:.0f}&thinsp;%</b>, with an mAP of <b>{100 * last['mean_ap']:.1f}</b>{between}. "
        "Rendered people, one seed."
    )


def _note(results: pd.DataFrame) -> str:
    if not {"low", "high"} <= set(results):
        return ""
    note = "Small numbers: 95&thinsp;% interval of the mAP over people, for these trained models."
    return f'<p class="soft"><small>{note}</small></p>'


def _chart(results: pd.DataFrame) -> str:
    """Each row's mAP under both protocols as two dots on a common scale, in HTML that fits small screens."""
    values = results.pivot(index="row", columns="protocol", values="mean_ap").mul(100)
    values = values.reindex(results["row"].unique())
    top = max(10.0, 10 * -(-values.max(axis=None) // 10))
    bars = "".join(_bar(str(row), values.loc[row], results, top) for row in values.index)
    ticks = "".join(f'<span style="left:{100 * tick / top:.2f}%">{tick}</span>' for tick in range(0, int(top) + 1, 10))
    keys = {"cloth": (_HEADLINE, "var(--cloth)"), "general": (_EASY, "var(--general)")}
    key = "".join(
        f'<span><b style="background:{colour if name == "cloth" else "none"};border:2px solid {colour}"></b>'
        f"{protocol_name(protocol)}</span>"
        for name, (protocol, colour) in keys.items()
        if protocol in values
    )
    axis = f'<div class="bar axis"><span></span><div class="track">{ticks}</div></div>'
    return f'<div class="chart">{bars}{axis}</div><div class="key">{key}</div>'


def _bar(row: str, values: pd.Series, results: pd.DataFrame, top: float) -> str:
    hard, easy = values.get(_HEADLINE), values.get(_EASY)
    marks = ""
    if pd.notna(hard) and pd.notna(easy):
        marks += _segment("span", min(hard, easy), max(hard, easy), top)
    record = results[(results["row"] == row) & (results["protocol"] == _HEADLINE)]
    if {"low", "high"} <= set(results) and len(record) and record[["low", "high"]].notna().all(axis=None):
        marks += _segment("interval", 100 * record["low"].iloc[0], 100 * record["high"].iloc[0], top)
    for name, value in (("general", easy), ("cloth", hard)):
        if pd.notna(value):
            marks += f'<i class="{name}" style="left:{100 * value / top:.2f}%" title="{value:.1f}"></i>'
    return f'<div class="bar"><span>{html.escape(row)}</span><div class="track">{marks}</div></div>'


def _segment(name: str, low: float, high: float, top: float) -> str:
    return f'<i class="{name}" style="left:{100 * low / top:.2f}%;width:{100 * (high - low) / top:.2f}%"></i>'


def _pictures(outcomes: Iterable[Outcome]) -> list[Path]:
    """The figures that the runs saved, those of the last steps first."""
    runs = {outcome.run.dir: outcome.run for outcome in outcomes if outcome.run and outcome.state == "done"}
    return [path for run in reversed(runs.values()) for path in sorted(run.path("figures").glob("*.png"))]


def _figure(picture: Path, style: str) -> str:
    try:
        caption = str(read_json(picture.with_suffix(".json")).get("caption", ""))
    except InputError:
        caption = ""
    data = base64.b64encode(picture.read_bytes()).decode()
    image = f'<img alt="{html.escape(caption or picture.stem)}" src="data:image/png;base64,{data}">'
    return f'<figure><div class="{style}">{image}</div><figcaption>{html.escape(caption)}</figcaption></figure>'


def _curves(outcomes: Iterable[Outcome]) -> str:
    runs = {outcome.step.name: outcome.run for outcome in outcomes if outcome.run and outcome.state == "done"}
    metrics = metrics_frame(runs)
    if metrics.empty:  # no run of this plan trained anything
        return ""
    figure = curves(loss_frame(metrics))
    svg = io.StringIO()
    figure.set_facecolor("none")
    with plt.rc_context({"svg.fonttype": "none", "svg.hashsalt": "csgn"}):
        figure.savefig(svg, format="svg", transparent=True, metadata={"Date": None})
    plt.close(figure)
    drawn = svg.getvalue()[svg.getvalue().index("<svg") :]
    for ink, paint in {"#262626": "currentColor", "#d9d9d9": "var(--line)"}.items():  # legible in dark mode
        drawn = drawn.replace(ink, paint)
    caption = "<figcaption>Mean of each group of loss terms by epoch.</figcaption>"
    body = f'<figure><div class="wide plot">{drawn}</div>{caption}</figure>'
    return _section("Training", [body], "")


def _section(title: str, parts: Sequence[str], style: str) -> str:
    return f'<h2>{title}</h2><div class="{style}">{"".join(parts)}</div>' if parts else ""


def _notebook(outcome: Outcome, folder: Path) -> str | None:
    """Export the executed notebook; the link to it, relative to the page, or None if there is none."""
    if outcome.run is None or not outcome.run.path("executed.ipynb").exists():
        return None
    target = f"notebooks/{re.sub(r'[^a-z0-9]+', '-', outcome.step.name.lower()).strip('-')}.html"
    write_text(folder / target, notebook_page(outcome.run))
    return target


def notebook_page(run: Run) -> str:
    """The run's executed notebook as one HTML file without network resources."""
    from nbconvert import HTMLExporter  # its import takes a second

    exporter = HTMLExporter(embed_images=True, mathjax_url="", require_js_url="", jquery_url="")
    text, _ = exporter.from_filename(str(run.path("executed.ipynb")))
    return re.sub(r'<script src="">\s*</script>', "", text)


def _steps(outcomes: Iterable[Outcome], links: dict[str, str | None]) -> str:
    rows = ""
    for outcome in outcomes:
        name, link = html.escape(outcome.step.name), links[outcome.step.name]
        title = f'<a href="{link}">{name}</a>' if link else name
        state = "already done" if outcome.reused else outcome.state
        style = "" if outcome.state == "done" else ' class="bad"'
        reason = f": {html.escape(outcome.error)}" if outcome.error else ""
        given = ", ".join(f"{key}={value}" for key, value in outcome.step.parameters.items())
        cells = [title, f"<code>{outcome.step.notebook}</code> {html.escape(given)}", clock(outcome.seconds)]
        rows += "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + f"<td{style}>{state}{reason}</td></tr>"
    head = "".join(f"<th>{name}</th>" for name in ("", "notebook", "time", "state"))
    return f'<div class="wide"><table class="steps"><tr>{head}</tr>{rows}</table></div>'


def _facts(outcomes: Sequence[Outcome], command: str, seconds: float) -> str:
    machine = environment()
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items() if version)
    ran = [outcome for outcome in outcomes if not outcome.reused]
    facts = {
        "command": f"<code>{html.escape(command)}</code>",
        "made": time.strftime("%Y-%m-%d %H:%M"),
        "time": f"{clock(seconds)}; {len(ran)} notebooks run, {len(outcomes) - len(ran)} already done",
        "machine": html.escape(", ".join(filter(None, [machine["cpu"], f"{machine['cores']} cores", machine["gpu"]]))),
        "software": html.escape(f"Python {machine['python']}; {packages}"),
        "code": html.escape(f"library {machine['library']}" + _commit(machine["git"])),
    }
    return "".join(f"<dt>{name}</dt><dd>{text}</dd>" for name, text in facts.items())


def _commit(git: dict[str, object] | None) -> str:
    return f", commit {str(git['commit'])[:10]}{' and changes' if git['dirty'] else ''}" if git else ""
