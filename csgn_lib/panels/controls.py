"""The explorer's controls: widgets that select a query and a change to it, and their values."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import ipywidgets as w

from csgn_lib.panels.looks import (
    ALL,
    ALONE,
    DIRECTIONS,
    ORDERS,
    PICTURES,
    RIGHT,
    TEXT_USES,
    TYPICAL,
    UNUSED,
    WRONG,
    Filter,
    Look,
)  # fmt: skip
from csgn_lib.panels.views import Upload, View

NOBODY = "none"
WIDE = {"description_width": "90px"}
SHORT, LONG = {"button_width": "64px"}, {"button_width": "max-content"}
COLUMN, FITTING = {"width": "330px"}, {"width": "max-content"}
BUTTONS = FITTING | {"max_width": "480px"}
CONTROLS = ("search", "order", "camera", "clothes", "first", "ap", "vocabulary", "rank", "paint", "hue", "text", "use",
             "weight", "attention", "other")  # fmt: skip
_NOTES = {  # by whether a text is given, and its use
    (True, UNUSED): "The text is not in use. Choose <i>alone</i>, <i>added</i> or <i>subtracted</i>.",
    (True, ALONE): "The query image is not in use: the gallery is ranked by the text alone, without right or wrong.",
}
_NO_TEXT = "Type a text to use it."


class Controls:
    """Widgets by name, so that a test can set their values as a browser would.

    Args:
        names: of the models. protocols: of the first one's benchmark.
    """

    def __init__(self, names: list[str], protocols: tuple[str, ...]) -> None:
        self._quiet = False
        self.model = w.Dropdown(options=names, value=names[0], description="model", style=WIDE, layout=COLUMN)
        self.other = w.Dropdown(options=[NOBODY, *names], description="compare to", style=WIDE, layout=COLUMN)
        self.protocol = w.Dropdown(options=protocols, description="protocol", style=WIDE, layout=COLUMN)
        self.search = w.Text(placeholder="part of a file name: 0042", description="find", style=WIDE)
        self.order = w.Dropdown(options=ORDERS, value=TYPICAL, description="order", style=WIDE)
        self.camera = w.Dropdown(description="camera", style=WIDE, layout={"width": "330px"})
        self.clothes = w.Dropdown(description="outfit", style=WIDE, layout={"width": "330px"})
        self.first = w.ToggleButtons(options=[ALL, RIGHT, WRONG], style=SHORT, layout=BUTTONS)
        self.ap = w.FloatRangeSlider(value=(0, 1), min=0, max=1, step=0.01, description="AP", style=WIDE, layout=COLUMN)
        self.query = w.Select(rows=11, layout={"width": "520px"})
        self.vocabulary = w.ToggleButtons(style=LONG, layout=BUTTONS)
        self.rank = w.IntSlider(value=1, min=1, max=1, description="directions", disabled=True, style=WIDE)
        self.paint = w.ToggleButtons(options=PICTURES, style=LONG, layout=BUTTONS)
        self.hue = w.IntSlider(value=0, min=-180, max=180, step=10, description="hue, °", style=WIDE)
        self.text = w.Text(placeholder="a photo of a person wearing a red shirt", description="text", style=WIDE,
                           continuous_update=False)  # fmt: skip
        self.use = w.ToggleButtons(options=TEXT_USES, style=LONG, layout=BUTTONS)
        self.weight = w.FloatSlider(value=0.5, min=0, max=2, step=0.05, description="weight", style=WIDE)
        self.attention = w.Checkbox(description="show attention maps", indent=False)
        self.upload = Upload(description="Search with your image", accept="image/*")
        self.back = w.Button(description="Back to the selected query", icon="arrow-left", disabled=True, layout=FITTING)
        self.reset = w.Button(description="Reset", icon="undo", tooltip="all controls to their first values")
        self.file = w.Text(description="figure", style=WIDE, layout={"width": "380px"})
        self.save = w.Button(description="Save figure", icon="save")

        self.says, self.listed, self.text_note = (w.HTML() for _ in range(3))
        self.scale, self.strip, self.other_strip, self.enlarged = w.HTML(), View(), View(), View()

    def _arranged(self) -> w.VBox:
        first = _labelled("rank 1 is", self.first)
        chosen = w.VBox([self.model, self.other, self.protocol, self.camera, self.clothes, first, self.ap])
        listed = w.VBox([w.HBox([self.search, self.order]), self.query, self.listed])
        features, paint = _labelled("features", self.vocabulary), _labelled("image", self.paint)
        image = w.VBox([features, self.rank, paint, self.hue])
        text = w.VBox([self.text, _labelled("text is", self.use), self.weight, self.text_note])
        self.search.layout.width, self.order.layout.width, self.text.layout.width = "300px", "220px", "470px"
        actions = [self.reset, self.upload, self.back, self.attention]
        rows = [[chosen, listed], [image, text], actions, [self.file, self.save]]
        boxes = [w.HBox(row, layout={"flex_flow": "row wrap", "grid_gap": "4px 16px"}) for row in rows]
        return w.VBox([*boxes, self.says, self.scale, self.strip, self.other_strip, self.enlarged])

    @contextmanager
    def _silent(self) -> Iterator[None]:
        """Change several values without an update after each."""
        before, self._quiet = self._quiet, True
        try:
            yield
        finally:
            self._quiet = before

    def filter(self) -> Filter:
        """The filter of queries that the controls describe."""
        return Filter(self.camera.value, self.clothes.value, self.first.value, self.ap.value, self.search.value,
                      self.order.value)  # fmt: skip

    def look(self) -> Look:
        """The change to the query that the controls describe."""
        rank = self.rank.value if self.vocabulary.value in DIRECTIONS else 0
        text = self.text.value, self.use.value, self.weight.value
        return Look(self.vocabulary.value, rank, self.paint.value, float(self.hue.value), *text)

    def _enable(self) -> None:
        """Disable controls that have no effect now, and show why a text has none."""
        typed, use = bool(self.text.value.strip()), self.use.value
        self.text_note.value = _NOTES.get((typed, use), "" if typed or use == UNUSED else _NO_TEXT)
        self.rank.disabled = self.vocabulary.value not in DIRECTIONS
        self.weight.disabled = not typed or use in (UNUSED, ALONE)
        self.paint.disabled = self.hue.disabled = typed and use == ALONE


def _labelled(text: str, buttons: w.ToggleButtons) -> w.HBox:
    """Buttons beside their label; their own description would be above them."""
    label = w.Label(text, layout={"width": "90px", "display": "flex", "justify_content": "flex-end"})
    buttons.layout.margin = "0 0 0 5px"
    return w.HBox([label, buttons])
