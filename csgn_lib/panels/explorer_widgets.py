"""An `Explorer` in a browser: controls beside the strips that they change. No logic but showing.

What is shown are values of widgets (HTML), never text printed into an Output, which a static reader would not see.
What goes wrong is said above the strips, and what was shown stays.
"""

from __future__ import annotations

import html
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import ipywidgets as w
import pandas as pd
from PIL import Image

from csgn_lib.panels.explorer import Explorer
from csgn_lib.panels.looks import ALL, PICTURES, RIGHT, TEXT_USES, WRONG, Answer, Filter, Look, painted
from csgn_lib.panels.thumbnails import Thumbnails, data_url, decode_upload, jpeg, overlaid
from csgn_lib.records import InputError
from csgn_lib.retrieval import PLAIN

NOBODY = "no other"
LISTED = 200  # queries in the list: a browser's list of thousands is slow
FRAMES = {"query": "#262626 solid", "right": "#009E73 solid", "wrong": "#D55E00 dashed", "unknown": "#808080 solid"}
WIDE = {"description_width": "80px"}
SHORT, LONG = WIDE | {"button_width": "90px"}, WIDE | {"button_width": "105px"}
FITTING = {"width": "max-content"}  # else the words of a button are cut


def panel(explorer: Explorer, top: int = 10) -> ExplorerPanel:
    """Widgets over an explorer; display its ``box``. Raises InputError if not even the first model can be opened."""
    return ExplorerPanel(explorer, top)


class ExplorerPanel:
    """The widgets, by name, so that a test can set their values as a browser would.

    Attributes:
        box: everything, to display.
        says: what went wrong, or how long the answer took (HTML); strip, other_strip: the rankings (HTML).
        seconds: what the last answer took, drawing included.
    """

    def __init__(self, explorer: Explorer, top: int = 10) -> None:
        self.explorer, self.top, self.seconds = explorer, top, 0.0
        self.picture: Image.Image | None = None
        self._quiet = False
        name = explorer.names[0]
        self.model = w.Dropdown(options=explorer.names, value=name, description="model", style=WIDE)
        self.other = w.Dropdown(options=[NOBODY, *explorer.names], description="compare", style=WIDE)
        self.protocol = w.Dropdown(options=explorer.protocols(name), description="protocol", style=WIDE)
        self.camera = w.Dropdown(description="camera", style=WIDE)
        self.clothes = w.Dropdown(description="clothes", style=WIDE)
        self.first = w.ToggleButtons(
            options=[ALL, RIGHT, WRONG], description="first is", style={"button_width": "72px"}
        )
        self.ap = w.FloatRangeSlider(value=(0, 1), min=0, max=1, step=0.01, description="AP", style=WIDE)
        self.query = w.Select(rows=9, description="query", layout={"width": "470px"}, style=WIDE)
        self.vocabulary = w.ToggleButtons(description="compared", style=LONG, layout=FITTING)
        self.rank = w.IntSlider(value=1, min=1, max=1, description="K", disabled=True, style=WIDE)
        self.paint = w.ToggleButtons(options=PICTURES, description="picture", style=LONG, layout=FITTING)
        self.hue = w.IntSlider(value=0, min=-180, max=180, step=10, description="hue, °", style=WIDE)
        self.text = w.Text(placeholder="a photo of a person wearing a red shirt", description="text", style=WIDE)
        self.use = w.ToggleButtons(options=TEXT_USES, description="text is", style=LONG, layout=FITTING)
        self.weight = w.FloatSlider(value=0.5, min=0, max=2, step=0.05, description="weight", style=WIDE)
        self.attention = w.Checkbox(description="attention over each image", indent=False)
        self.upload = w.FileUpload(
            accept="image/*", multiple=False, description="search with your image", layout={"width": "220px"}
        )
        self.back = w.Button(description="back to the benchmark's query", layout={"width": "240px"})
        self.file = w.Text(value="explore", description="figure", style=WIDE)
        self.save = w.Button(description="save as a paper's figure", layout={"width": "200px"})
        self.says, self.listed, self.strip, self.other_strip = (w.HTML() for _ in range(4))
        self.box = self._arranged()
        self._fill(name)
        self._observe()
        self._list()

    def _arranged(self) -> w.VBox:
        left = [self.model, self.other, self.protocol, self.camera, self.clothes, self.first, self.ap]
        right = [self.vocabulary, self.rank, self.paint, self.hue, self.text, self.use, self.weight, self.attention]
        columns = [w.VBox(left), w.VBox([self.query, self.listed]), w.VBox(right)]
        below = [w.HBox([self.upload, self.back]), w.HBox([self.file, self.save])]
        return w.VBox(
            [w.HBox(columns, layout={"flex_flow": "row wrap"}), *below, self.says, self.strip, self.other_strip]
        )

    def _observe(self) -> None:
        def on(widgets: list[w.Widget], call: Callable[[Any], None], name: str = "value") -> None:
            for widget in widgets:
                widget.observe(lambda change: None if self._quiet else call(change), names=name)

        on([self.model], self._choose)
        on([self.protocol, self.camera, self.clothes, self.first, self.ap], lambda _: self._list())
        on([self.vocabulary], lambda _: self._vocabulary())
        looks = [self.other, self.query, self.rank, self.paint, self.hue, self.text, self.use, self.weight]
        on([*looks, self.attention], lambda _: self.draw())
        on([self.upload], self._take)
        self.back.on_click(lambda _: self._forget())
        self.save.on_click(lambda _: self._save())

    @contextmanager
    def _telling(self) -> Iterator[None]:
        """What was given wrongly is said, and everything that was shown stays."""
        try:
            yield
        except InputError as error:
            self.says.value = f'<b role="alert" style="color:#B33C00">{html.escape(str(error))}</b>'

    @contextmanager
    def _silent(self) -> Iterator[None]:
        """Values change without an answer for each."""
        before, self._quiet = self._quiet, True
        try:
            yield
        finally:
            self._quiet = before

    def _choose(self, change: dict[str, Any]) -> None:
        with self._telling():
            try:
                self._fill(change["new"])
            except InputError:
                with self._silent():
                    self.model.value = change["old"]
                raise
            self._list()

    def _fill(self, name: str) -> None:
        """The choices that a model's benchmark offers; what is still possible stays chosen."""
        source, protocols = self.explorer.source(name), self.explorer.protocols(name)
        found = self.explorer.scored(name, self.protocol.value if self.protocol.value in protocols else protocols[0])
        outfits = found.drop_duplicates("clothes")[["clothes", "person"]].sort_values(["person", "clothes"])
        cameras = [("all", -1), *((str(n), int(n)) for n in sorted(found["camera"].unique()))]
        clothes = [("all", -1), *((f"person {p}, outfit {c}", int(c)) for c, p in outfits.to_numpy())]
        choices = ((self.protocol, protocols), (self.camera, cameras), (self.clothes, clothes))
        with self._silent():
            for widget, options in (*choices, (self.vocabulary, tuple(source.descriptors))):
                before = widget.value
                widget.options = options
                values = [option[1] if isinstance(option, tuple) else option for option in options]
                widget.value = before if before in values else values[0]

    def _list(self) -> None:
        where = Filter(self.camera.value, self.clothes.value, self.first.value, self.ap.value)
        with self._telling():
            found = self.explorer.queries(self.model.value, self.protocol.value, where)
            shown, before = found.head(LISTED), self.query.value
            options = [
                (f"{q.path}   AP {q.ap:.2f}, first right {q.first_hit}", (int(q.row), int(q.draw)))
                for q in shown.itertuples()
            ]
            with self._silent():
                self.query.options = options
                self.query.value = before if before in [value for _, value in options] else next(
                    (value for _, value in options), None
                )  # fmt: skip
            more = f", the hardest {LISTED} are listed" if len(found) > LISTED else ""
            self.listed.value = (
                f"{len(found)} of {len(self.explorer.scored(self.model.value, self.protocol.value))} queries{more}"
            )
            if not options:
                raise InputError("no query is left by these filters; widen them")
            self.draw()

    def _vocabulary(self) -> None:
        with self._telling():
            source, kind = self.explorer.source(self.model.value), self.vocabulary.value
            with self._silent():
                self.rank.disabled = kind == PLAIN
                if kind != PLAIN:
                    self.rank.max = source.largest_rank(kind)
                    self.rank.value = source.descriptors[kind].rank
            self.draw()

    def look(self) -> Look:
        """What the controls ask for."""
        rank = 0 if self.vocabulary.value == PLAIN else self.rank.value
        asked = self.text.value, self.use.value, self.weight.value
        return Look(self.vocabulary.value, rank, self.paint.value, float(self.hue.value), *asked)

    def draw(self) -> None:
        """Answer and show; on an error what was shown stays."""
        start = time.perf_counter()
        with self._telling():
            name, other = self.model.value, self.other.value
            if other != NOBODY:
                self.explorer.compare(name, other)
            shown = [self._strip(one) for one in (name, *([other] if other != NOBODY else []))]
            self.strip.value, self.other_strip.value = shown[0], "".join(shown[1:])
            self.seconds = time.perf_counter() - start
            note = self.explorer.source(name).note
            self.says.value = html.escape(f"answered in {1000 * self.seconds:.0f} ms. {note}")

    def _strip(self, name: str) -> str:
        look, thumbnails = self.look(), self.explorer.thumbnails(name)
        if self.picture is not None:
            answer = self.explorer.search(name, self.picture, look)
            before, picture = self.explorer.search(name, self.picture), self.picture
            title = f"{name}, your image, {look}"
        elif self.query.value is None:
            raise InputError("no query is chosen; widen the filters")
        else:
            row, draw = self.query.value
            answer = self.explorer.ranks(name, self.protocol.value, row, look, draw)
            before = self.explorer.ranks(name, self.protocol.value, row, draw=draw)
            picture = thumbnails.image(answer.query["path"]) if look.repaints or self.attention.value else None
            title = (
                f"{name}, {look}: AP {answer.ap:.2f} (as it is {before.ap:.2f}), "
                f"first right answer at rank {answer.first_hit} ({before.first_hit})"
            )
        top = answer.top(self.top, before)
        first = jpeg(painted(picture, look)) if picture is not None else None
        images = self._attended(name, answer.query["path"], picture, look, top) if self.attention.value else None
        return strip_html(title, answer, top, thumbnails, images or ([first] if first else None))

    def _attended(self, name: str, asked: str, picture: Image.Image, look: Look, top: pd.DataFrame) -> list[bytes]:
        """JPEGs of the query, shown as ``picture``, and of its answers, with maps of what the model sees."""
        images = self.explorer.thumbnails(name)
        seen = self.picture or images.image(asked, blocked=False)
        pictures = [painted(seen, look), *(images.image(path, blocked=False) for path in top["path"])]
        shown = [painted(picture, look), *(images.image(path) for path in top["path"])]
        heats = self.explorer.attention(name, pictures)
        return [jpeg(overlaid(one, heat)) for one, heat in zip(shown, heats, strict=True)]

    def _take(self, change: dict[str, Any]) -> None:
        if not change["new"]:
            return
        with self._telling():
            given = change["new"][0]
            self.picture = decode_upload(bytes(given["content"]), given["name"])
            self.draw()

    def _forget(self) -> None:
        self.picture = None
        with self._silent():
            self.upload.value = ()
        self.draw()

    def _save(self) -> None:
        with self._telling():
            if self.picture is not None:
                raise InputError("your own image is no part of the benchmark: nobody could make the figure again")
            names = [self.model.value, *([self.other.value] if self.other.value != NOBODY else [])]
            looks = [(name, look) for name in names for look in dict.fromkeys((Look(), self.look()))]
            row, draw = self.query.value
            path = self.explorer.save(self.protocol.value, row, looks, self.file.value, self.top, draw)
            self.says.value = f"saved: {html.escape(str(path))}.pdf, .png, .csv, .json"


def strip_html(
    title: str, answer: Answer, top: pd.DataFrame, thumbnails: Thumbnails, images: list[bytes] | None = None
) -> str:
    """A strip as HTML: frames solid and dashed as in `figures.rank_strip`, cosines, and how far each answer moved.

    Args:
        images: JPEG bytes of the query, and of the answers too where they are not the files themselves.
    """
    images = images or []
    kind = "unknown" if answer.query["person"] == -1 else "query"
    cells = [_cell(*_shown(thumbnails, answer.query["path"], images, 0), kind, "query", "")]
    for i, row in enumerate(top.itertuples(), start=1):
        kind = "unknown" if answer.query["person"] == -1 else "right" if row.right else "wrong"
        label = {"right": f"✓ {row.changed}", "wrong": "✗", "unknown": f"person {row.person}"}[kind]
        moved = "" if row.was in (0, row.rank) else f", was {row.was}"
        cells.append(
            _cell(*_shown(thumbnails, row.path, images, i), kind, label, f"{row.rank}{moved}<br>{row.similarity:.3f}")
        )
    return (
        f'<div style="line-height:1.25"><b>{html.escape(title)}</b><div style="display:flex;gap:6px;flex-wrap:wrap">'
        f"{''.join(cells)}</div></div>"
    )


def _shown(thumbnails: Thumbnails, path: str, images: list[bytes], place: int) -> tuple[str, str]:
    """The address of a picture, and what it is; without an address where the file cannot be read."""
    if place < len(images):
        return data_url(images[place]), path
    try:
        return data_url(thumbnails.jpeg(path)), path
    except InputError as error:
        return "", str(error)


def _cell(url: str, path: str, kind: str, label: str, below: str) -> str:
    colour, line = FRAMES[kind].split()
    name = html.escape(path, quote=True)
    image = f'<img src="{url}" alt="{name}" title="{name}" style="height:112px;display:block">'
    if not url:
        image = f'<div title="{name}" style="height:112px;width:56px;background:#ddd">no image</div>'
    return (
        f'<div style="text-align:center;font-size:11px"><div style="border:3px {line} {colour}">{image}</div>'
        f'<span style="color:{colour}">{html.escape(label)}</span><br>{below}</div>'
    )
