"""Dashboard of training runs, read from their folders: curves, rate, memory, time left; several runs in one figure.

All state is in the folders, so a panel that is opened again shows the same.
"""

from __future__ import annotations

import asyncio
import base64
import html
import io
import itertools
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import ipywidgets
import matplotlib.pyplot as plt
import pandas as pd
from IPython.display import HTML
from matplotlib.figure import Figure

from csgn_lib import figures, runs
from csgn_lib.panels import background
from csgn_lib.panels.board import ENDED, ago, badge
from csgn_lib.panels.reading import Reading, read, readings
from csgn_lib.panels.views import View, alert, table_html
from csgn_lib.records import InputError, Run
from csgn_lib.runs.folders import flat
from csgn_lib.runs.words import clock

_HEADS = ("run", "state", "progress", "images/s", "memory", "time left of the stage", "validation mAP", "mAP",
          "last heartbeat")  # fmt: skip
WIDTH, HEIGHT = 900, 430  # CSS pixels of the curves: the width before a browser reports its own, and the height
_BESIDE = 5  # updates of the dashboard for one of what is beside it
DPI = 100  # CSS pixels of a figure's inch


def epochs(seen: Sequence[Reading]) -> pd.DataFrame:
    """The runs' records: columns run, stage, epoch, the loss groups of `figures.loss_frame`, images per second."""
    frame = pd.DataFrame([{"run": one.name, **flat(record)} for one in seen for record in one.records])
    if frame.empty:
        return pd.DataFrame(columns=["run", "stage", "epoch"])
    terms = [name for name in frame if name not in ("run", "stage", "epoch")]
    frame[terms] = frame[terms].apply(pd.to_numeric, errors="coerce")  # an older version wrote text
    losses = figures.loss_frame(frame)
    rate = frame.get("images_per_second", pd.Series(index=frame.index, dtype=float))
    return losses.assign(**{"images per second": rate})


def training_curves(seen: Sequence[Reading]) -> Figure | None:
    """The loss groups and images per second of all runs by epoch; None without a recorded epoch."""
    frame = epochs(seen)
    terms = [name for name in frame.columns[3:] if frame[name].notna().any()]
    if not terms:
        return None
    figure = figures.curves(frame, terms)
    for axes in filter(lambda axes: axes.get_visible(), figure.axes):
        low, high = axes.get_xlim()
        axes.set_xlim(min(low, (low + high - 1) / 2), max(high, (low + high + 1) / 2))  # one epoch has no width
        if axes.get_title(loc="left").endswith("images per second"):
            axes.set_ylim(0, 1.08 * axes.get_ylim()[1])  # otherwise small variations look large
    return figure


def summary(seen: Sequence[Reading]) -> pd.DataFrame:
    """One row per run with the values of its `Reading`; fractions and seconds, empty where unknown."""
    rows = [
        {
            "run": one.name, "state": one.state, "came_to": one.where, "images_per_second": one.images_per_second,
            "memory_mib": one.memory_mib, "seconds_left": one.seconds_left, "validation": one.validation,
            "mean_ap": one.mean_ap, "protocol": one.protocol, "age": one.age, "remarks": "; ".join(one.remarks),
        }
        for one in seen
    ]  # fmt: skip
    columns = ["run", "state", "came_to", "images_per_second", "memory_mib", "seconds_left", "validation", "mean_ap"]
    return pd.DataFrame(rows, columns=[*columns, "protocol", "age", "remarks"])


def summary_table(seen: Sequence[Reading]) -> HTML:
    """The same as an HTML table, with the problems of a folder below its run."""
    return HTML(_summary(seen))


def _summary(seen: Sequence[Reading]) -> str:
    if not seen:
        return "<p>No run is chosen.</p>"
    rows = [row for one in seen for row in (_line(one), *([f"⚠ {html.escape(text)}"] for text in one.remarks))]
    return table_html(_HEADS, rows)


def _line(one: Reading) -> list[str]:
    rate, left, memory = one.images_per_second, one.seconds_left, one.memory_mib
    protocol = html.escape(figures.protocol_name(one.protocol))
    return [
        html.escape(one.name), badge(one.state), html.escape(one.where), f"{rate:.0f}" if rate else "",
        html.escape(f"{memory} MiB") if memory else "", clock(left) if left is not None else "",
        f"{one.validation:.1%}" if isinstance(one.validation, float) else "",
        f"{one.mean_ap:.1%} <small>{protocol}</small>" if one.mean_ap is not None else "",
        f"{ago(one.age)} ago" if one.age is not None else "",
    ]  # fmt: skip


class TrainingDashboard:
    """Shows running trainings, with buttons to stop and continue them. Display ``.widget``, then call ``follow()``.

    A task of the kernel's event loop reads the folders every few seconds, except during cells; ``close()`` ends it.
    Training is a separate process, which continues after a closed tab or a new kernel. Only runs of one benchmark are
    shown together; runs without curves come last in the list.

    Args:
        chosen: folders of the runs to show first; default: running ones, else the newest with an epoch.
        folder: of all runs to choose from; default ``reports/runs``.
        every: seconds between two updates.
        beside: also called by every fifth update and for a new run, such as the ``refresh`` of a `Board`.
    """

    def __init__(
        self,
        chosen: Iterable[Run | str | Path] = (),
        folder: str | Path | None = None,
        every: float = 2.0,
        beside: Callable[[], Any] = lambda: None,
    ) -> None:
        self.folder = Path(folder) if folder else runs.runs_folder()
        self.every, self.beside, self.task = every, beside, None
        self._known: dict[str, tuple[Path, str]] = {}  # folder and benchmark by name; removed folders are kept
        self._shown: Any = None  # the records of the current curves
        self._targets: dict[str, str] = {}
        self.benchmark = ipywidgets.Dropdown(description="benchmark", layout={"width": "420px"})
        self.runs = ipywidgets.SelectMultiple(rows=6, layout={"width": "420px"})
        self.stop = ipywidgets.Button(description="Stop", icon="stop", disabled=True)
        self.resume = ipywidgets.Button(description="Continue", icon="play", disabled=True)
        self.again = ipywidgets.Button(description="Update now", icon="refresh")
        self.following = ipywidgets.ToggleButton(description="Follow", icon="eye", value=False)
        self.message, self.table, self.curves = ipywidgets.HTML(layout={"min_height": "28px"}), View(), View()
        self.stop.on_click(lambda button: self._act(button, runs.stop))
        self.resume.on_click(lambda button: self._act(button, _resume))
        self.again.on_click(lambda button: self.refresh())
        self.following.observe(lambda change: self.follow() if change["new"] else self.close(), "value")
        buttons = ipywidgets.VBox(
            [ipywidgets.HBox([self.stop, self.resume]), ipywidgets.HBox([self.following, self.again]), self.message]
        )
        hint = ipywidgets.HTML("<small>Select several runs with Ctrl or Shift and a click.</small>")
        top = ipywidgets.HBox([ipywidgets.VBox([self.benchmark, self.runs, hint]), buttons])
        self.widget = ipywidgets.VBox([top, self.table, self.curves])
        self._find()
        self.choose(*(chosen or self._first()))
        self.runs.observe(lambda change: self.refresh(), "value")
        self.benchmark.observe(lambda change: self._offer(), "value")
        self.curves.observe(lambda change: self._draw(readings(self.chosen)), "width")

    @property
    def chosen(self) -> list[Run]:
        """The runs that are shown."""
        return [Run(self._known[name][0]) for name in self.runs.value]

    def choose(self, *given: Run | str | Path) -> None:
        """Show these runs; of runs of several benchmarks, those of the first one's."""
        folders = [run.dir if isinstance(run, Run) else Path(run) for run in given]
        self._known |= {folder.name: (folder, read(Run(folder)).benchmark) for folder in folders}
        self._list_benchmarks()
        if folders:
            self.benchmark.value = self._known[folders[0].name][1]
        self._offer()
        shown = [folder.name for folder in folders if self._known[folder.name][1] == self.benchmark.value]
        self.runs.value = shown
        left = len(folders) - len(shown)
        self.message.value = f"{left} run(s) of another benchmark are left out: choose it to see them." if left else ""
        self.refresh()

    def refresh(self) -> None:
        """Read the chosen folders, and draw the curves again if an epoch was added."""
        self._find()
        seen = readings(self.chosen)
        self.table.value = _summary(seen)
        self._offer()
        self._offer_to(self.stop, [one.name for one in seen if one.state in ("running", "queued")])
        self._offer_to(self.resume, [one.name for one in seen if one.state in ENDED])
        shown = [(one.name, len(one.records), str(one.records[-1:])) for one in seen]
        if shown != self._shown:
            self._shown = shown
            self._draw(seen)

    def follow(self) -> None:
        """Update every few seconds until `close`; without an event loop, as in a script, not at all."""
        with suppress(RuntimeError):
            loop = asyncio.get_running_loop()
            if self.task is None or self.task.done():
                self.task = loop.create_task(self._poll())
        self.following.value = self.task is not None and not self.task.done()

    def close(self) -> None:
        """Stop following. Training continues."""
        if self.task is not None:
            self.task.cancel()
            self.task = None
        self.following.value = False

    async def _poll(self) -> None:
        for number in itertools.count():
            try:
                known = len(self._known)
                self.refresh()
                if number % _BESIDE == 0 or len(self._known) > known:
                    self.beside()
            except Exception as error:  # an error of a task is not displayed
                self.message.value = alert(f"the panel stopped following: {error!r}")
                self.following.value = False
                return
            await asyncio.sleep(self.every)

    def _act(self, button: ipywidgets.Button, action: Callable[[Run], str]) -> None:
        self.refresh()  # the run may have ended in the meantime
        if button.disabled:
            self.message.value = alert("no chosen run can be stopped or continued now")
            return
        run = Run(self._known[self._targets[button.description]][0])
        try:
            self.message.value = html.escape(action(run))
        except InputError as error:
            self.message.value = alert(str(error))
        except OSError as error:  # the process has just ended
            self.message.value = alert(f"{run.dir.name}: {error}")
        self.refresh()

    def _offer_to(self, button: ipywidgets.Button, names: list[str]) -> None:
        """Enable the button if exactly one chosen run allows its action."""
        button.disabled = len(names) != 1
        self._targets[button.description] = names[0] if names else ""
        one = f"{button.description}: {names[0]}" if len(names) == 1 else ""
        button.tooltip = one or "choose one run that allows it"

    def _draw(self, seen: Sequence[Reading]) -> None:
        """The curves at the widget's width; the height is fixed, so that nothing below moves."""
        figure, width = training_curves(seen), self.curves.width or WIDTH
        shown = "The training curves appear here after the first epoch."
        if figure is not None:
            figure.set_size_inches(width / DPI, HEIGHT / DPI)
            with io.BytesIO() as buffer:
                figure.savefig(buffer, format="svg")
                url = f"data:image/svg+xml;base64,{base64.b64encode(buffer.getvalue()).decode()}"
            plt.close(figure)
            shown = f'<img src="{url}" width="{width}" height="{HEIGHT}" alt="training curves" style="max-width:none">'
        border = "" if figure else ";border:1px dashed #bbb;box-sizing:border-box;padding:12px"
        self.curves.value = f'<div style="min-height:{HEIGHT}px{border}">{shown}</div>'

    def _find(self) -> None:
        """Look for new runs; a run's benchmark is read once."""
        known, new = {folder for folder, _ in self._known.values()}, {}
        for path in (path.parent for path in self.folder.glob("*/status.json")):
            if path not in known and (_has_curves(path) or read(Run(path)).state in ("running", "queued")):
                new[path.name] = path, read(Run(path)).benchmark
        if new:
            self._known |= new
            self._list_benchmarks()
            self._offer()

    def _list_benchmarks(self) -> None:
        names = sorted({benchmark for _, benchmark in self._known.values()})
        if tuple(names) != tuple(self.benchmark.options):
            self.benchmark.options, value = names, self.benchmark.value
            if value in names:
                self.benchmark.value = value

    def _offer(self) -> None:
        """The benchmark's runs as options: newest first, those without curves last; chosen ones stay chosen."""
        own = {name: folder for name, (folder, benchmark) in self._known.items() if benchmark == self.benchmark.value}
        curves = {name: _has_curves(folder) for name, folder in own.items()}
        names = sorted(own, key=lambda name: (curves[name], _written(own[name])), reverse=True)
        options = tuple((name if curves[name] else f"{name} (no curves)", name) for name in names)
        if options != tuple(self.runs.options):
            value, self.runs.options = self.runs.value, options
            self.runs.value = [name for name in value if name in names]

    def _first(self) -> list[Path]:
        """The running runs, else the newest one, of the benchmark of the newest run."""
        folders = sorted((folder for folder, _ in self._known.values()), key=_written, reverse=True)
        running = [folder for folder in folders if read(Run(folder)).state == "running"]
        return running or [folder for folder in folders if _has_curves(folder)][:1] or folders[:1]


def _resume(run: Run) -> str:
    return f"{background.resume(run).dir.name} continues."


def _has_curves(folder: Path) -> bool:
    with suppress(OSError):
        return folder.joinpath("metrics.jsonl").stat().st_size > 0
    return False


def _written(folder: Path) -> float:
    for name in ("status.json", "metrics.jsonl"):
        with suppress(OSError):
            return folder.joinpath(name).stat().st_mtime
    return 0.0
