"""An `Explorer` as notebook widgets: controls, a list of queries, and strips of ranked images.

Results are values of HTML widgets, because text in an Output widget is not visible in a saved notebook. An error is
shown above the strips, which do not change then.
"""

from __future__ import annotations

import html
import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ipywidgets as w
import pandas as pd
from PIL import Image

from csgn_lib.figures import protocol_name
from csgn_lib.panels.controls import CONTROLS, NOBODY, Controls
from csgn_lib.panels.explorer import Explorer
from csgn_lib.panels.looks import ALONE, DIRECTIONS, FEATURES, UNUSED, Answer, Look, painted
from csgn_lib.panels.strips import (
    CLOSE,
    ENLARGED,
    LARGE,
    QUERY,
    SEARCH,
    SMALL,
    enlarged_html,
    scale_html,
    strip_cells,
    strip_html,
)  # fmt: skip
from csgn_lib.panels.thumbnails import decode_upload, jpeg, overlaid
from csgn_lib.panels.views import View, alert
from csgn_lib.records import InputError, home

if TYPE_CHECKING:
    from csgn_lib.panels.maps import LinkedMaps

LISTED = 200  # queries in the list; a browser is slow with thousands


def panel(
    explorer: Explorer, top: int = 10, folder: str | Path | None = None, maps: LinkedMaps | None = None
) -> ExplorerPanel:
    """Widgets over an explorer; display its ``box``. Raises InputError if not even the first model can be opened."""
    return ExplorerPanel(explorer, top, folder, maps)


class ExplorerPanel(Controls):
    """The controls and the rankings.

    Args:
        top: gallery images in a strip. folder: for saved figures; by default ``reports/figures``.
        maps: maps in which query and answers are marked.

    Attributes:
        box: everything, to display.
        says: an error, or the time of the last ranking (HTML). strip, other_strip, enlarged: Views of the rankings and
            of the image that was clicked.
        seconds: time of the last answer with its strips.
    """

    def __init__(
        self, explorer: Explorer, top: int = 10, folder: str | Path | None = None, maps: LinkedMaps | None = None
    ) -> None:
        super().__init__(explorer.names, explorer.protocols(explorer.names[0]))
        self.explorer, self.top, self.maps, self.seconds = explorer, top, maps, 0.0
        self.folder = Path(folder) if folder else home() / "reports" / "figures"
        self.picture: Image.Image | None = None  # an uploaded image that replaces the query
        self.gallery_row: int | None = None  # a gallery image that replaces the query
        self._shown: dict[str, tuple[Answer, pd.DataFrame]] = {}  # by model
        self._enlarged: int | None = None  # gallery row
        self._fill(explorer.names[0])
        self._initial = {name: getattr(self, name).value for name in CONTROLS}
        self.box = w.VBox([self._arranged(), *([maps.box] if maps else [])])
        self._observe()
        self._suggest()
        self._list()

    def _observe(self) -> None:
        def on(widgets: list[w.Widget], call: Callable[[], None]) -> None:
            for widget in widgets:
                widget.observe(lambda change: None if self._quiet else call(), names="value")

        self.model.observe(lambda change: None if self._quiet else self._choose(change), names="value")
        on([self.protocol, self.camera, self.clothes, self.first, self.ap, self.search, self.order], self._list)
        on([self.vocabulary], self._set_rank)
        on([self.query], self._forget)
        on([self.other, self.rank, self.paint, self.hue, self.text, self.use, self.weight, self.attention], self.draw)
        self.upload.on_file(self._take)
        self.back.on_click(lambda _: self._forget())
        self.reset.on_click(lambda _: self._reset())
        self.save.on_click(lambda _: self._save())
        for view in (self.strip, self.other_strip, self.enlarged):
            view.on_choice(lambda choice, view=view: self._clicked(view, choice))

    @contextmanager
    def _telling(self) -> Iterator[None]:
        """Show an InputError, and keep the strips."""
        try:
            yield
        except InputError as error:
            self.says.value = alert(str(error))

    # ---------------------------------------------------------------- which query

    def _choose(self, change: dict[str, Any]) -> None:
        with self._telling():
            try:
                self._fill(change["new"])
            except InputError:
                with self._silent():
                    self.model.value = change["old"]
                raise
            self.gallery_row = None  # the row is of the other model's benchmark
            self._suggest()
            self._list()

    def _fill(self, name: str) -> None:
        """Set the choices of a model's benchmark; a selection that is still valid is kept."""
        source, protocols = self.explorer.source(name), self.explorer.protocols(name)
        scores = self.explorer.scored(name, self.protocol.value if self.protocol.value in protocols else protocols[0])
        known = scores[scores["clothes"] != -1].drop_duplicates("clothes").sort_values(["person", "clothes"])
        people, cams, outfits = (source.benchmark.names(column) for column in ("person", "camera", "clothes"))
        cameras = [(cams[n], cams[n]) for n in sorted(scores["camera"].unique()) if n != -1]
        clothes = [
            (f"person {people[q.person]}, outfit {outfits[q.clothes]}", outfits[q.clothes]) for q in known.itertuples()
        ]
        features = [(FEATURES.get(kind, kind), kind) for kind in source.descriptors]
        named = [(protocol_name(protocol), protocol) for protocol in protocols]
        choices = ((self.protocol, named), (self.camera, [("all", ""), *cameras]),
                   (self.clothes, [("all", ""), *clothes]), (self.vocabulary, features))  # fmt: skip
        with self._silent():
            for widget, options in choices:
                before = widget.value
                widget.options = options
                values = [option[1] if isinstance(option, tuple) else option for option in options]
                widget.value = before if before in values else values[0]
        for widget, labels in ((self.camera, cameras), (self.clothes, clothes)):
            widget.layout.display = None if len(labels) > 1 else "none"
        with suppress(InputError):  # shown when such features are chosen
            for kind in DIRECTIONS.keys() & source.descriptors:
                source.words.basis(kind)  # now: encoding the phrases takes seconds

    def _list(self) -> None:
        with self._telling():
            queries = self.explorer.queries(self.model.value, self.protocol.value, self.filter())
            shown, before = queries.head(LISTED), self.query.value
            every = self.explorer.scored(self.model.value, self.protocol.value)
            several = every.draw.nunique() > 1  # single-shot galleries
            options = [
                (
                    f"{q.path}{f', gallery {q.draw + 1}' * several}  AP {q.ap:.2f}, first match at rank {q.first_hit}",
                    (int(q.row), int(q.draw)),
                )
                for q in shown.itertuples()
            ]
            values = [value for _, value in options]
            with self._silent():
                self.query.options = options
                self.query.value = before if before in values else next(iter(values), None)
            more = f"; the first {LISTED} are listed" if len(queries) > LISTED else ""
            what = "pairs of query and random gallery" if several else "queries"
            self.listed.value = f"{len(queries):,} of {len(every):,} {what}{more}"
            if not options:
                raise InputError("no query passes these filters; widen them, or press Reset")
            self.draw()

    # ---------------------------------------------------------------- its answers

    def _set_rank(self) -> None:
        with self._telling():
            source, kind = self.explorer.source(self.model.value), self.vocabulary.value
            with self._silent():
                if kind in DIRECTIONS:
                    self.rank.max = source.largest_rank(kind)
                    self.rank.value = source.descriptors[kind].rank
            self.draw()

    def draw(self) -> None:
        """Rank and display; on an error the strips do not change."""
        start = time.perf_counter()
        self._enable()
        self.back.disabled = self.picture is None and self.gallery_row is None
        with self._telling():
            names = [self.model.value, *([self.other.value] if self.other.value != NOBODY else [])]
            self.explorer.compare(names[0], names[-1])
            strips = {name: self._strip(name) for name in names}
            self._enlarged, self.enlarged.value = None, ""
            shown = [strip for strip, _ in strips.values()]
            self.strip.value, self.other_strip.value = shown[0], "".join(shown[1:])
            highest = [highest for _, highest in strips.values()]
            self.scale.value = scale_html(max(highest)) if self.attention.value else ""
            if self.maps is not None:
                self.maps.mark(*self._shown[names[0]])
            self.seconds = time.perf_counter() - start
            note = self.explorer.source(names[0]).note
            answered = f"Answered in {1000 * self.seconds:.0f} ms. Click an image to enlarge it. {note}"
            self.says.value = html.escape(answered)

    def _strip(self, name: str) -> tuple[str, float]:
        """A model's strip as HTML, and the highest value of its attention maps (0 without them)."""
        look, before, what = self.look(), None, ""
        if look.text_alone:
            answer = self.explorer.search(name, None, look)
        elif self.picture is not None or self.gallery_row is not None:
            what = "your image, " if self.gallery_row is None else "gallery image, "
            seen = self.picture or self._gallery_image(name)
            answer = self.explorer.search(name, seen, look, self.gallery_row)
            before = self.explorer.search(name, seen, row=self.gallery_row)
        elif self.query.value is None:
            raise InputError("no query is chosen; widen the filters, or press Reset")
        else:
            row, draw = self.query.value
            answer = self.explorer.ranks(name, self.protocol.value, row, look, draw)
            before = self.explorer.ranks(name, self.protocol.value, row, draw=draw)
        top = answer.top(self.top, before)
        height = LARGE if self.attention.value else SMALL
        images, highest = self._images(name, answer, top["path"], height)
        self._shown[name] = answer, top
        cells = strip_cells(answer, top, self.explorer.thumbnails(name), images, look.text_alone)
        return strip_html(f"{name}, {what}{look}{answer.score(before)}", cells, height), highest

    def _gallery_image(self, name: str) -> Image.Image:
        """The gallery image that replaces the query, as a model embeds it."""
        path = self.explorer.source(name).benchmark.gallery["path"].iloc[self.gallery_row]
        return self.explorer.thumbnails(name).image(path, blocked=False)

    def _images(self, name: str, answer: Answer, paths: Iterable[str], height: int) -> tuple[dict[str, bytes], float]:
        """JPEGs, by path or QUERY, of images that are not shown as small copies of their files; highest attention."""
        look, thumbnails = self.look(), self.explorer.thumbnails(name)

        def pictures(blocked: bool) -> dict[str, Image.Image]:
            images = {path: thumbnails.image(path, blocked) for path in paths}
            if look.text_alone:
                return images
            query = self.picture or thumbnails.image(answer.query["path"], blocked)
            return {QUERY: painted(query, look)} | images

        if height == SMALL:
            paths = []
            if not look.repaints and self.picture is None:
                return {}, 0.0
        shown, highest = pictures(blocked=True), 0.0
        if self.attention.value:
            heats = self.explorer.attention(name, list(pictures(blocked=False).values()))
            highest = float(heats.max())
            shown = {key: overlaid(shown[key], heat, highest) for key, heat in zip(shown, heats, strict=True)}
        return {key: jpeg(image, height) for key, image in shown.items()}, highest

    # ---------------------------------------------------------------- clicks, uploads, figures

    def _clicked(self, view: View, choice: str) -> None:
        with self._telling():
            if choice == CLOSE:
                self._enlarged, self.enlarged.value = None, ""
            elif choice == SEARCH and self._enlarged is not None:
                self.picture, self.gallery_row = None, self._enlarged
                with self._silent():  # a text alone would ignore the image that was just chosen
                    self.use.value = UNUSED if self.use.value == ALONE else self.use.value
                self.draw()
            elif choice.isdigit() or choice == QUERY:
                self._enlarge(self.other.value if view is self.other_strip else self.model.value, choice)

    def _enlarge(self, name: str, choice: str) -> None:
        """Show the query, or an answer beside it, large."""
        answer, top = self._shown[name]
        entry = top.head(0) if choice == QUERY else top[top["row"] == int(choice)]
        if choice != QUERY and entry.empty:
            raise InputError("this image is no longer in the ranking; click another one")
        images, _ = self._images(name, answer, entry["path"], ENLARGED)
        cells = strip_cells(answer, entry, self.explorer.thumbnails(name), images, self.look().text_alone)
        row = answer.query if entry.empty else entry.iloc[0]
        facts = [f"file: {html.escape(row['path'])}"]
        for column, what in (("person", "person"), ("camera", "camera"), ("clothes", "outfit")):
            if (number := row[column]) != -1:
                label = self.explorer.source(name).benchmark.names(column).get(number, str(number))
                facts.append(f"{what}: {html.escape(label)}")
        self._enlarged = None if entry.empty else int(row["row"])
        self.enlarged.value = enlarged_html(cells, "<br>".join(facts), searchable=not entry.empty)

    def _take(self, name: str, content: bytes) -> None:
        with self._telling():
            self.picture, self.gallery_row = decode_upload(content, name), None
            self.draw()

    def _forget(self) -> None:
        """Return from an uploaded or a gallery image to the selected query."""
        self.picture = self.gallery_row = None
        self.draw()

    def _reset(self) -> None:
        with self._silent():
            for name, value in self._initial.items():
                getattr(self, name).value = value
            self.query.value = None
        self.picture = self.gallery_row = None
        self._list()

    def _suggest(self) -> None:
        """A file name that is not taken: ``explore-<model>-1``, ``-2``, ..."""
        stem = "explore-" + re.sub(r"[^\w.]+", "-", self.model.value).strip("-")
        number = next(n for n in range(1, 10**6) if not (self.folder / f"{stem}-{n}.pdf").exists())
        self.file.value = f"{stem}-{number}"

    def _save(self) -> None:
        self.save.disabled, self.save.description = True, "Saving ..."
        self.says.value = "Saving the figure ..."
        start = time.perf_counter()
        try:
            with self._telling():
                path = self._save_figure()
                self._suggest()
                seconds = time.perf_counter() - start
                self.says.value = f"✔ saved in {seconds:.1f} s: {html.escape(str(path))}.pdf, .png, .csv, .json"
        finally:
            self.save.disabled, self.save.description = False, "Save figure"

    def _save_figure(self) -> Path:
        look = self.look()
        if not look.text_alone and (self.picture is not None or self.gallery_row is not None):
            raise InputError("only a query of the benchmark can be saved; press Back to the selected query")
        if not self.file.value.strip():
            raise InputError("the figure has no name; type one, such as explore-1")
        target = self.folder / self.file.value.strip()
        if target.with_name(f"{target.name}.pdf").exists():
            raise InputError(f"{target}.pdf exists; choose another name")
        names = [self.model.value, *([self.other.value] if self.other.value != NOBODY else [])]
        looks = [look] if look.text_alone else list(dict.fromkeys((Look(), look)))
        if self.query.value is None:
            raise InputError("no query is chosen; widen the filters, or press Reset")
        row, draw = self.query.value
        pairs = [(name, one) for name in names for one in looks]
        return self.explorer.save(self.protocol.value, row, pairs, target, self.top, draw, show=False)
