"""Training, followed from its folders: curves, rate, memory, time left; several runs over each other.

Nothing is kept here that the folders do not hold, so a panel that is opened again shows what the last one showed.
"""

from __future__ import annotations

import asyncio
import html
import io
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import ipywidgets
import matplotlib.pyplot as plt
import pandas as pd
from IPython.display import HTML
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from csgn_lib import figures, runs
from csgn_lib.panels import background
from csgn_lib.panels.board import ago, badge
from csgn_lib.panels.reading import Reading, read, readings
from csgn_lib.records import InputError, Run
from csgn_lib.runs.folders import flat
from csgn_lib.runs.words import clock

_HEADS = ("run", "state", "came to", "images/s", "memory", "left of the stage", "validation mAP", "mAP", "heartbeat")
_GOES_ON = ("failed", "died", "timed_out", "interrupted")


def epochs(seen: Sequence[Reading]) -> pd.DataFrame:
    """What the runs recorded: columns run, stage, epoch, the loss groups of `figures.loss_frame`, images_per_second."""
    frame = pd.DataFrame([{"run": one.name, **flat(record)} for one in seen for record in one.records])
    if frame.empty:
        return pd.DataFrame(columns=["run", "stage", "epoch"])
    terms = [name for name in frame if name not in ("run", "stage", "epoch")]
    frame[terms] = frame[terms].apply(pd.to_numeric, errors="coerce")  # an older version's word is no number
    losses = figures.loss_frame(frame)
    rate = frame.get("images_per_second", pd.Series(index=frame.index, dtype=float))
    return losses.assign(**{"images a second": rate})


def drawn(seen: Sequence[Reading]) -> Figure | None:
    """The loss terms of all runs, group by group, epoch by epoch; None where no epoch is recorded."""
    frame = epochs(seen)
    terms = [name for name in frame.columns[3:] if frame[name].notna().any()]
    if not terms:
        return None
    figure = figures.curves(frame, terms)
    for axes in filter(lambda axes: axes.get_visible(), figure.axes):
        low, high = axes.get_xlim()
        axes.set_xlim(min(low, (low + high - 1) / 2), max(high, (low + high + 1) / 2))  # one epoch has no width
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6, min_n_ticks=1))
        if axes.get_title(loc="left").endswith("images a second"):
            axes.set_ylim(0, 1.08 * axes.get_ylim()[1])  # else every wobble looks like a collapse
        for line in axes.get_lines():
            if pd.notna(line.get_ydata()).sum() == 1:  # a line needs two epochs
                line.set_marker("o")
    return figure


def summary(seen: Sequence[Reading]) -> pd.DataFrame:
    """One row a run: what `Reading` tells of it, fractions and seconds as they are; empty where nothing tells."""
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
    """The same as a table, with what is wrong with a folder in words below its run."""
    return HTML(summary_html(seen))


def summary_html(seen: Sequence[Reading]) -> str:
    """The same as text."""
    if not seen:
        return "<p>No run is chosen.</p>"
    head = "".join(f'<th scope="col" style="text-align:left;padding:2px 8px">{name}</th>' for name in _HEADS)
    body = "".join(_line(one) for one in seen)
    return f'<table style="font-size:90%;border-collapse:collapse"><thead><tr>{head}</tr></thead>{body}</table>'


def _line(one: Reading) -> str:
    rate, left, memory = one.images_per_second, one.seconds_left, one.memory_mib
    cells = [
        html.escape(one.name), badge(one.state), html.escape(one.where), f"{rate:.0f}" if rate else "",
        html.escape(f"{memory} MiB") if memory else "", clock(left) if left is not None else "",
        f"{one.validation:.1%}" if isinstance(one.validation, float) else "",
        f"{one.mean_ap:.1%} <small>{html.escape(one.protocol)}</small>" if one.mean_ap is not None else "",
        f"{ago(one.age)} ago" if one.age is not None else "",
    ]  # fmt: skip
    row = "".join(f'<td style="text-align:left;padding:2px 8px">{cell}</td>' for cell in cells)
    said = "".join(
        f'<tr><td colspan="{len(_HEADS)}" style="text-align:left;padding:0 8px 4px 24px">'
        f"⚠ {html.escape(text)}</td></tr>"
        for text in one.remarks
    )
    return f"<tr>{row}</tr>{said}"


class TrainingDashboard:
    """Runs followed as they train; stop one, go on with one. Show ``.widget``, then call ``follow()``.

    The folders are read every few seconds by a task of the kernel's event loop, which rests while a cell runs and
    ends with ``close()``. Training is a process of its own: neither a closed tab nor a new kernel ends it.

    Args:
        chosen: folders of the runs to show first; default: those that run, else the newest that recorded an epoch.
        folder: of all runs to choose from; default ``reports/runs``.
        every: seconds between two looks.
    """

    def __init__(
        self, chosen: Iterable[Run | str | Path] = (), folder: str | Path | None = None, every: float = 2.0
    ) -> None:
        self.folder = Path(folder) if folder else runs.runs_folder()
        self.every, self.task = every, None
        self._known: dict[str, Path] = {}  # folders by name; one that is gone stays, to be told of
        self._shown: Any = None  # what the picture was drawn from
        self._targets: dict[str, str] = {}
        self.runs = ipywidgets.SelectMultiple(rows=6, layout=ipywidgets.Layout(width="420px"))
        self.stop = ipywidgets.Button(description="Stop", icon="stop", disabled=True)
        self.resume = ipywidgets.Button(description="Go on", icon="play", disabled=True)
        self.again = ipywidgets.Button(description="Read again", icon="refresh")
        self.following = ipywidgets.ToggleButton(description="Follow", icon="eye", value=False)
        self.said, self.table, self.note = ipywidgets.HTML(), ipywidgets.HTML(), ipywidgets.HTML()
        self.picture = ipywidgets.Image(format="png", layout=ipywidgets.Layout(max_width="100%", display="none"))
        self.stop.on_click(lambda button: self._act(button, runs.stop))
        self.resume.on_click(lambda button: self._act(button, lambda run: f"{background.go_on(run).dir.name} goes on."))
        self.again.on_click(lambda button: self.refresh())
        self.following.observe(lambda change: self.follow() if change["new"] else self.close(), "value")
        buttons = ipywidgets.VBox(
            [ipywidgets.HBox([self.stop, self.resume]), ipywidgets.HBox([self.following, self.again])]
        )
        hint = ipywidgets.HTML("<small>Ctrl or Shift and a click choose several runs.</small>")
        top = ipywidgets.HBox([ipywidgets.VBox([self.runs, hint]), buttons])
        self.widget = ipywidgets.VBox([top, self.said, self.table, self.picture, self.note])
        self._find()
        self.choose(*(chosen or self._first()))
        self.runs.observe(lambda change: self.refresh(), "value")

    @property
    def chosen(self) -> list[Run]:
        """The runs that are shown."""
        return [Run(self._known[name]) for name in self.runs.value]

    def choose(self, *given: Run | str | Path) -> None:
        """Show these runs."""
        folders = [run.dir if isinstance(run, Run) else Path(run) for run in given]
        self._known |= {folder.name: folder for folder in folders}
        self._offer()
        self.runs.value = [folder.name for folder in folders]
        self.refresh()

    def refresh(self) -> None:
        """Read the chosen folders again, and draw where something has changed."""
        self._find()
        seen = readings(self.chosen)
        self.table.value = summary_html(seen)
        self._offer_to(self.stop, [one.name for one in seen if one.state in ("running", "queued")])
        self._offer_to(self.resume, [one.name for one in seen if one.state in _GOES_ON])
        shown = [(one.name, len(one.records), str(one.records[-1:])) for one in seen]
        if shown != self._shown:
            self._shown = shown
            self._draw(seen)

    def follow(self) -> None:
        """Read again every few seconds until `close`; in a plain script, which has no event loop, not at all."""
        with suppress(RuntimeError):
            loop = asyncio.get_running_loop()
            if self.task is None or self.task.done():
                self.task = loop.create_task(self._poll())
        self.following.value = self.task is not None and not self.task.done()

    def close(self) -> None:
        """Stop following. What trains goes on."""
        if self.task is not None:
            self.task.cancel()
            self.task = None
        self.following.value = False

    async def _poll(self) -> None:
        while True:
            try:
                self.refresh()
            except Exception as error:  # a task's error would be silent, and the panel would stand still
                self.said.value = f"<p>⚠ the panel stopped following: {html.escape(repr(error))}</p>"
                self.following.value = False
                return
            await asyncio.sleep(self.every)

    def _act(self, button: ipywidgets.Button, action: Callable[[Run], str]) -> None:
        self.refresh()  # what it would act on may have ended meanwhile
        if button.disabled:
            self.said.value = "<p>⚠ Nothing that is chosen can be stopped, or go on, as it is now.</p>"
            return
        run = Run(self._known[self._targets[button.description]])
        try:
            text = action(run)
        except InputError as error:
            text = f"⚠ {error}"
        except OSError as error:  # it has ended in this moment
            text = f"⚠ {run.dir.name}: {error}"
        self.said.value = f"<p>{html.escape(text)}</p>"
        self.refresh()

    def _offer_to(self, button: ipywidgets.Button, names: list[str]) -> None:
        """Let the button act on the one run that it can act on; with several, one has to be chosen."""
        button.disabled = len(names) != 1
        self._targets[button.description] = names[0] if names else ""
        one = f"{button.description}: {names[0]}" if len(names) == 1 else ""
        button.tooltip = one or "choose one run that this can be done to"

    def _draw(self, seen: Sequence[Reading]) -> None:
        figure = drawn(seen)
        self.picture.layout.display = "none" if figure is None else ""
        self.note.value = "" if figure is not None else "<p>No epoch is recorded yet.</p>" if seen else ""
        if figure is not None:
            with io.BytesIO() as buffer:
                figure.savefig(buffer, format="png", dpi=130)
                self.picture.value = buffer.getvalue()
            plt.close(figure)

    def _find(self) -> None:
        found = [path.parent for path in self.folder.glob("*/status.json")]
        trained = [path for path in found if path.joinpath("metrics.jsonl").exists() or _starts(path)]
        if set(trained) - set(self._known.values()):
            self._known |= {path.name: path for path in trained}
            self._offer()

    def _offer(self) -> None:
        """The known runs as options, the newest first; what is chosen stays chosen."""
        names, value = sorted(self._known, key=lambda name: _written(self._known[name]), reverse=True), self.runs.value
        if tuple(names) != tuple(self.runs.options):
            self.runs.options = names
            self.runs.value = [name for name in value if name in names]

    def _first(self) -> list[Path]:
        folders = [self._known[name] for name in self.runs.options]
        running = [folder for folder in folders if read(Run(folder)).state == "running"]
        return running or folders[:1]


def _starts(folder: Path) -> bool:
    return read(Run(folder)).state in ("running", "queued")


def _written(folder: Path) -> float:
    for name in ("status.json", "metrics.jsonl"):
        with suppress(OSError):
            return folder.joinpath(name).stat().st_mtime
    return 0.0
