"""A form for an experiment, generated from its JSON schema: one widget per field, limits, errors, a start button.

The widget of a field of `config.Experiment` depends on its type; other types have a text field that is parsed as on the
command line.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ipywidgets
from pydantic import ValidationError

from csgn_lib import registry, runs
from csgn_lib.config import METHODS, PRESETS, Experiment, with_plugins, written
from csgn_lib.panels import background
from csgn_lib.panels.views import alert, table_html
from csgn_lib.records import InputError, Run

_GROUPS = {
    "preset": "Data",
    "mdg": "Method",
    "stage1_epochs": "Training",
    "image_height": "Images",
    "clip_model": "Towers",
    "tracker": "Plugins",
}
_NUMBERS = {
    "integer": (ipywidgets.IntSlider, ipywidgets.IntText),
    "number": (ipywidgets.FloatSlider, ipywidgets.FloatText),
}
_WIDE = 100  # range of integers above which a slider is too coarse


@dataclass(frozen=True)
class Field:
    """A field of the schema. kind: choice, flag, number or text; low, high: inclusive bounds or None.

    limits: the range in words. meaning: the description, its origin marks in words. group: the tab of the form.
    """

    name: str
    kind: str
    type: str
    nullable: bool
    choices: tuple[Any, ...]
    low: float | None
    high: float | None
    limits: str
    meaning: str
    group: str


def fields(model: type[Experiment] = Experiment) -> list[Field]:
    """All fields of the experiment, in order."""
    listed, group = [], "Data"
    for name, schema in model.model_json_schema()["properties"].items():
        group = _GROUPS.get(name, group)
        listed.append(_field(name, schema, group))
    return listed


def _field(name: str, schema: dict[str, Any], group: str) -> Field:
    parts = schema.get("anyOf", [schema])
    nullable = any(part.get("type") == "null" for part in parts)
    kept = [part for part in parts if part.get("type") != "null"]
    part = kept[0] if len(kept) == 1 else {}  # of several types: a text
    choices = tuple(part.get("enum", [part["const"]] if "const" in part else []))
    type_ = part.get("type", "")
    kind = "choice" if choices else {"boolean": "flag", "integer": "number", "number": "number"}.get(type_, "text")
    bounds = {sign: part.get(key) for sign, key in _BOUNDS.items()}
    limits = " and ".join(f"{words} {value:,}" for words, value in bounds.items() if value is not None)
    low = bounds["at least"] if bounds["at least"] is not None else bounds["more than"]
    high = bounds["at most"] if bounds["at most"] is not None else bounds["less than"]
    meaning = in_words(schema.get("description", ""))
    return Field(name, kind, type_, nullable, choices, low, high, limits, meaning, group)


_BOUNDS = {
    "at least": "minimum",
    "more than": "exclusiveMinimum",
    "at most": "maximum",
    "less than": "exclusiveMaximum",
}
_ORIGINS = {"A": "the paper's abstract", "P": "the paper", "C": "CLIP-ReID's convention", "O": "our choice"}
_MARK = re.compile(r"\s*\[([APCO])(?:: ([^\],]+))?(?:, form ([APCO]))?\]")


def in_words(description: str) -> str:
    """A description with its origin marks in words: ``pixels [C: 12]`` as ``pixels (CLIP-ReID's convention: 12)``."""

    def words(mark: re.Match[str]) -> str:
        value = f": {mark[2]}" if mark[2] else ""
        form = f", in a form of {_ORIGINS[mark[3]]}" if mark[3] else ""
        return f" ({_ORIGINS[mark[1]]}{value}{form})"

    return _MARK.sub(words, description).strip()


class Alike:
    """Makes widgets that share one layout, and one style per class.

    With separate layouts and styles, a form has nearly a thousand widgets and messages, which takes a browser seconds.
    """

    def __init__(self) -> None:
        self.layout, self.styles = ipywidgets.Layout(), {}

    def __call__(self, kind: type[ipywidgets.Widget], *given: Any, **options: Any) -> Any:
        """A widget of a class; with its own ``layout`` if one is given."""
        if (style := kind.class_traits().get("style")) is not None:
            if style.klass not in self.styles:
                self.styles[style.klass] = style.klass()
            options["style"] = self.styles[style.klass]
        return kind(*given, **{"layout": self.layout} | options)


def widget_for(field: Field, alike: Alike, layout: ipywidgets.Layout) -> ipywidgets.ValueWidget:
    """A dropdown for choices and nullable flags, a checkbox, a slider between two bounds, a number box, or a text."""
    if field.name == "benchmark":
        return alike(ipywidgets.Combobox, options=[*registry.entries("benchmark")], layout=layout)
    if field.kind == "choice" or (field.kind == "flag" and field.nullable):
        values = field.choices or (True, False)
        options = [(written(value), value) for value in (None,) * field.nullable + tuple(values)]
        return alike(ipywidgets.Dropdown, options=options, layout=layout)
    if field.kind == "flag":
        return alike(ipywidgets.Checkbox, indent=False, layout=layout)
    if field.kind == "number" and not field.nullable:
        slider, box = _NUMBERS[field.type]
        if field.low is None or field.high is None or field.high - field.low > _WIDE:
            return alike(box, layout=layout)
        step = {} if field.type == "integer" else {"step": (field.high - field.low) / 100, "readout_format": ".2f"}
        return alike(slider, min=field.low, max=field.high, continuous_update=False, layout=layout, **step)
    placeholder = "none" if field.nullable else ""
    return alike(ipywidgets.Text, continuous_update=False, placeholder=placeholder, layout=layout)


class ParameterPanel:
    """The form. Display ``.widget``; ``values()`` are its values, ``experiment`` the experiment of them, or None.

    Selecting another preset keeps the values that differ from the previous one. An error is shown beside its field and
    above the start button, which is disabled as long as there is one.

    Args:
        experiment: the first values; default: the preset demo.
        started: called with the run that the button has started, such as a dashboard's ``choose``.
    """

    def __init__(self, experiment: Experiment | None = None, started: Callable[[Run], Any] | None = None) -> None:
        self.started, self.experiment, self._quiet = started, None, False
        self.plugin = experiment.plugin if experiment is not None else ()
        self.model = with_plugins(self.plugin)
        self.fields = [field for field in fields(self.model) if field.name not in ("preset", "plugin")]
        self.setting = ipywidgets.Dropdown(options=list(PRESETS), description="setting")
        self.method = ipywidgets.Dropdown(options=list(METHODS), description="method")
        alike, wide = Alike(), ipywidgets.Layout(width="230px", flex="0 0 auto")
        self.widgets = {field.name: widget_for(field, alike, wide) for field in self.fields}
        self.help = {field.name: alike(ipywidgets.HTML) for field in self.fields}
        self.start = ipywidgets.Button(description="Start training", button_style="primary", icon="play")
        narrow = ipywidgets.Layout(width="210px", flex="0 0 auto")
        self.estimate = ipywidgets.Button(
            description="Estimate time and memory", icon="clock-o", layout={"width": "max-content"}
        )
        self.difference, self.needs, self.message, self.line = (alike(ipywidgets.HTML) for _ in range(4))
        self.widget = self._laid_out(alike, narrow)
        for chooser in (self.setting, self.method):
            chooser.observe(lambda change: self._preset_chosen(), "value")
        for widget in self.widgets.values():
            widget.observe(lambda change: self._changed(), "value")
        self.start.on_click(lambda button: self._start())
        self.estimate.on_click(lambda button: self._estimate())
        self._base = self._preset("demo")
        self.show(experiment or self._base)

    @property
    def preset(self) -> str:
        """``demo``, or ``demo+cal`` with a method."""
        return self.setting.value + (f"+{self.method.value}" if self.method.value != "csgn" else "")

    def values(self) -> tuple[dict[str, Any], dict[str, str]]:
        """The widgets' values by field, and the errors of invalid ones."""
        values, wrong = {"preset": self.preset, "plugin": self.plugin}, {}
        for field in self.fields:
            given = self.widgets[field.name].value
            try:
                values[field.name] = self._value(field, given)
            except InputError as error:
                wrong[field.name] = str(error).split(": ", 1)[-1]
        return values, wrong

    def _preset(self, name: str) -> Experiment:
        return Experiment.from_parameters(preset=name, plugin=self.plugin)

    def show(self, experiment: Experiment) -> None:
        """Set the form to an experiment's values."""
        self._quiet = True
        try:
            setting, _, method = experiment.preset.partition("+")
            self.setting.value, self.method.value = setting, method or "csgn"
            self._base = self._preset(experiment.preset)
            for field in self.fields:
                self._put(field, getattr(experiment, field.name))
        finally:
            self._quiet = False
        self._changed()

    def _put(self, field: Field, value: Any) -> None:
        widget = self.widgets[field.name]
        if isinstance(widget, ipywidgets.Text):  # also a Combobox
            widget.value = "" if value is None else str(list(value)) if isinstance(value, tuple) else str(value)
        else:
            widget.value = value

    def _value(self, field: Field, given: Any) -> Any:
        if not isinstance(given, str) or field.kind == "choice":
            return given
        if field.nullable and given.strip().lower() in ("", "none"):
            return None
        value = runs.from_text(self.model.model_fields[field.name].annotation, given, field.name)
        return tuple(value) if isinstance(value, list) else value

    def _preset_chosen(self) -> None:
        if self._quiet:
            return
        values, wrong = self.values()
        kept = {
            name: value for name, value in values.items()
            if name not in ("preset", "plugin") and name not in wrong and value != getattr(self._base, name)
        }  # fmt: skip
        base = self._preset(self.preset)
        try:
            self.show(base.model_validate(base.model_dump() | kept))
        except ValidationError:  # an invalid value is dropped
            self.show(base)

    def _changed(self) -> None:
        """Check all values; show errors, differences from the preset, and the command."""
        if self._quiet:
            return
        values, wrong = self.values()
        self.experiment = None
        try:  # with the preset's values for invalid ones, so that all errors are shown together
            checked = self.model(**self._base.model_dump() | values)
            self.experiment = None if wrong else checked
        except ValidationError as error:
            for one in error.errors():
                wrong[str(one["loc"][0]) if one["loc"] else "benchmark"] = one["msg"]
        for field in self.fields:
            value, base = values.get(field.name), getattr(self._base, field.name)
            same = field.name in values and value == base
            mark = "" if same else f" <b>Preset: {html.escape(written(base))}.</b>"
            meaning = "; ".join(filter(None, [field.meaning, field.limits]))
            text = f"<small>{html.escape(meaning[:1].upper() + meaning[1:])}.{mark}</small>"
            self.help[field.name].value = alert(wrong[field.name]) if field.name in wrong else text
        self._say(wrong)

    def _say(self, wrong: dict[str, str]) -> None:
        self.start.disabled = self.estimate.disabled = self.experiment is None
        self.needs.value = self.message.value = ""
        if self.experiment is None:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in wrong.items())
            self.difference.value, self.line.value = alert(f"These values cannot be trained: {reasons}"), ""
            return
        changed = self.experiment.difference()
        rows = [[name, html.escape(written(value)), html.escape(written(getattr(self._base, name)))]
                for name, value in changed.items()]  # fmt: skip
        table = table_html(("parameter", "value", f"preset {self.preset}"), rows) if rows else ""
        self.difference.value = f"<p>Parameters that differ from the preset {self.preset}: {len(rows)}.</p>{table}"
        self.line.value = f"<code>{html.escape(background.command(self.experiment))}</code>"

    def _needs(self) -> str:
        """Lower bounds of time and memory, as from ``csgn train --dry-run``. Raises InputError as training would."""
        from csgn_lib import synthetic, training  # imports torch, which takes seconds
        from csgn_lib.training.estimate import estimate

        benchmark = synthetic.planned_for(self.experiment)
        training.check(self.experiment, benchmark)
        return str(estimate(self.experiment, benchmark.train))

    def _estimate(self) -> bool:
        try:
            self.needs.value = f"<pre>{html.escape(self._needs())}</pre>"
            return True
        except InputError as error:
            self.needs.value = alert(str(error))
            self.start.disabled = True  # until a value changes
            return False

    def _start(self) -> None:
        if self.experiment is None or not self._estimate():
            return
        try:
            run = background.start(self.experiment)
        except InputError as error:
            self.message.value = alert(str(error))
            return
        self.message.value = f"✔ {html.escape(run.dir.name)} was started in a separate process."
        if self.started is not None:
            self.started(run)

    def _laid_out(self, alike: Alike, narrow: ipywidgets.Layout) -> ipywidgets.Widget:
        parts: dict[str, list[ipywidgets.Widget]] = {}
        for field in self.fields:
            label = alike(ipywidgets.Label, field.name, layout=narrow)
            row = alike(ipywidgets.HBox, [label, self.widgets[field.name], self.help[field.name]])
            parts.setdefault(field.group, []).append(row)
        tabs = ipywidgets.Tab([alike(ipywidgets.VBox, rows) for rows in parts.values()], titles=list(parts))
        top, bottom = ipywidgets.HBox([self.setting, self.method]), ipywidgets.HBox([self.estimate, self.start])
        return ipywidgets.VBox([top, tabs, bottom, self.message, self.difference, self.needs, self.line])
