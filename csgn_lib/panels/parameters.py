"""An experiment as a form, made from its JSON schema: a widget a field, its limits, its errors in words, a start.

A field that is added to `config.Experiment` gets its widget by its type; one of a type that is not known here
becomes a text that is read as on a command line.
"""

from __future__ import annotations

import html
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ipywidgets
from IPython.display import HTML
from pydantic import ValidationError

from csgn_lib import datasets, runs
from csgn_lib.config import METHODS, PRESETS, Experiment, with_plugins
from csgn_lib.panels import background
from csgn_lib.records import InputError, Run

_GROUPS = {
    "preset": "What",
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
_WIDE = 100  # whole numbers from which on a slider is too coarse


@dataclass(frozen=True)
class Field:
    """A field as its schema describes it. kind: choice, flag, number or text; low, high: inclusive ends or None.

    limits: the range in words. group: the part of the form that it stands in.
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
    found, group = [], "What"
    for name, schema in model.model_json_schema()["properties"].items():
        group = _GROUPS.get(name, group)
        found.append(_field(name, schema, group))
    return found


def _field(name: str, schema: dict[str, Any], group: str) -> Field:
    parts = schema.get("anyOf", [schema])
    nullable = any(part.get("type") == "null" for part in parts)
    kept = [part for part in parts if part.get("type") != "null"]
    part = kept[0] if len(kept) == 1 else {}  # of several types: a text
    choices = tuple(part.get("enum", [part["const"]] if "const" in part else []))
    type_ = part.get("type", "")
    kind = "choice" if choices else {"boolean": "flag", "integer": "number", "number": "number"}.get(type_, "text")
    bounds = {sign: part.get(key) for sign, key in _BOUNDS.items()}
    limits = ", ".join(f"{sign} {value:,}" for sign, value in bounds.items() if value is not None)
    low = bounds["≥"] if bounds["≥"] is not None else bounds[">"]
    high = bounds["≤"] if bounds["≤"] is not None else bounds["<"]
    meaning = schema.get("description", "")
    return Field(name, kind, type_, nullable, choices, low, high, limits, meaning, group)


_BOUNDS = {"≥": "minimum", ">": "exclusiveMinimum", "≤": "maximum", "<": "exclusiveMaximum"}


class Alike:
    """Makes widgets that share a layout and, of a kind, a style.

    One of their own for each would make nearly a thousand of a form, a message each, which a browser on a busy machine
    takes seconds to read.
    """

    def __init__(self) -> None:
        self.layout, self.styles = ipywidgets.Layout(), {}

    def __call__(self, kind: type[ipywidgets.Widget], *given: Any, **options: Any) -> Any:
        """A widget of a kind; ``layout`` of its own if it is given one."""
        if (style := kind.class_traits().get("style")) is not None:
            if style.klass not in self.styles:
                self.styles[style.klass] = style.klass()
            options["style"] = self.styles[style.klass]
        return kind(*given, **{"layout": self.layout} | options)


def widget_for(field: Field, alike: Alike, layout: ipywidgets.Layout) -> ipywidgets.ValueWidget:
    """Dropdown for choices and for flags that may be none, checkbox, slider between two ends, number box, or text."""
    if field.name == "benchmark":
        return alike(ipywidgets.Combobox, options=[*datasets.NAMES, "csv"], layout=layout)
    if field.kind == "choice" or (field.kind == "flag" and field.nullable):
        values = field.choices or (True, False)
        options = [(_shown(value), value) for value in (None,) * field.nullable + tuple(values)]
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


def experiment_table(experiment: Experiment) -> HTML:
    """The experiment as a table: value, the preset's where it differs, limits, meaning; changed values are marked."""
    return HTML(experiment_html(experiment))


def experiment_html(experiment: Experiment, changed_only: bool = False) -> str:
    """The same as text; ``changed_only``: only what differs from the preset."""
    changed = experiment.difference()
    base = Experiment.from_parameters(preset=experiment.preset, plugin=experiment.plugin)
    head = "".join(
        _cell(name, "th") for name in ("parameter", "value", f"{experiment.preset} has", "limits", "meaning")
    )
    body = ""
    for field in fields(type(experiment)):
        if changed_only and field.name not in changed:
            continue
        value, mark = getattr(experiment, field.name), field.name in changed
        limits = ", ".join(map(str, field.choices)) or field.limits
        cells = [
            f'<b style="white-space:nowrap">≠ {field.name}</b>' if mark else field.name, html.escape(_shown(value)),
            html.escape(_shown(getattr(base, field.name))) if mark else "", html.escape(limits),
            html.escape(field.meaning),
        ]  # fmt: skip
        body += f"<tr>{''.join(map(_cell, cells))}</tr>"
    return f'<table style="font-size:90%;border-collapse:collapse"><thead><tr>{head}</tr></thead>{body}</table>'


class ParameterPanel:
    """The form. Show ``.widget``; ``values()`` is what it says, ``experiment`` that as an experiment, or None.

    Choosing another preset keeps what was changed from the last one. An error stands beside its field, and as
    long as there is one, nothing can be started.

    Args:
        experiment: what to begin with; default: the preset demo.
        started: called with the run that the button has started, e.g. a dashboard's ``choose``.
    """

    def __init__(self, experiment: Experiment | None = None, started: Callable[[Run], Any] | None = None) -> None:
        self.started, self.experiment, self._quiet = started, None, False
        self.plugin = experiment.plugin if experiment is not None else ()
        self.model = with_plugins(self.plugin)
        self.fields = [field for field in fields(self.model) if field.name not in ("preset", "plugin")]
        self.setting = ipywidgets.Dropdown(options=list(PRESETS), description="setting")
        self.method = ipywidgets.Dropdown(options=list(METHODS), description="method")
        alike, wide = Alike(), ipywidgets.Layout(width="230px")
        self.widgets = {field.name: widget_for(field, alike, wide) for field in self.fields}
        self.help = {field.name: alike(ipywidgets.HTML) for field in self.fields}
        self.errors = {field.name: alike(ipywidgets.HTML) for field in self.fields}
        self.start = ipywidgets.Button(description="Start training", button_style="primary", icon="play")
        narrow = ipywidgets.Layout(width="190px")
        self.estimate = ipywidgets.Button(description="What does it need?", icon="clock-o", layout=narrow)
        self.difference, self.needs, self.said, self.line = (alike(ipywidgets.HTML) for _ in range(4))
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
        """What the widgets say, by field, and what is wrong with those that cannot be read."""
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
        """Put an experiment's values into the form."""
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
        except ValidationError:  # a change that was wrong before is not carried along
            self.show(base)

    def _changed(self) -> None:
        """Check everything, say what is wrong beside its field, what differs from the preset, and the command."""
        if self._quiet:
            return
        values, wrong = self.values()
        self.experiment = None
        try:  # with the preset's values for those that cannot be read, so that all errors are told at once
            checked = self.model(**self._base.model_dump() | values)
            self.experiment = None if wrong else checked
        except ValidationError as error:
            for one in error.errors():
                wrong[str(one["loc"][0]) if one["loc"] else "benchmark"] = one["msg"]
        for field in self.fields:
            value, base = values.get(field.name), getattr(self._base, field.name)
            same = field.name in values and value == base
            mark = "" if same else f" <b>≠ preset: {html.escape(_shown(base))}</b>"
            limits = f" ({html.escape(field.limits)})" if field.limits else ""
            self.help[field.name].value = f"<small>{html.escape(field.meaning)}{limits}{mark}</small>"
            said = html.escape(wrong.get(field.name, ""))
            self.errors[field.name].value = f'<b style="color:#b34700">✖ {said}</b>' if said else ""
        self._say(wrong)

    def _say(self, wrong: dict[str, str]) -> None:
        self.start.disabled = self.estimate.disabled = self.experiment is None
        self.needs.value = self.said.value = ""
        if self.experiment is None:
            named = ", ".join(wrong)
            self.difference.value = (
                f'<p style="color:#b34700">✖ Not a possible experiment yet: {html.escape(named)}.</p>'
            )
            self.line.value = ""
            return
        count = len(self.experiment.difference())
        table = experiment_html(self.experiment, changed_only=True) if count else ""
        what = f"{count} parameter{'s' * (count > 1)} differ{'s' * (count == 1)} from" if count else "Exactly"
        self.difference.value = f"<p>{what} the preset {self.preset}.</p>{table}"
        self.line.value = f"<code>{html.escape(background.command(self.experiment))}</code>"

    def _needs(self) -> str:
        """What training needs at least, as ``csgn train --dry-run`` says it. Raises InputError if it cannot be done."""
        from csgn_lib import synthetic, training  # torch, seconds: only for who asks
        from csgn_lib.training.estimate import estimate

        benchmark = synthetic.planned_for(self.experiment)
        training.check(self.experiment, benchmark)
        return str(estimate(self.experiment, benchmark.train))

    def _estimate(self) -> bool:
        try:
            self.needs.value = f"<pre>{html.escape(self._needs())}</pre>"
            return True
        except InputError as error:
            self.needs.value = f'<p style="color:#b34700">✖ {html.escape(str(error))}</p>'
            self.start.disabled = True  # until a parameter is another
            return False

    def _start(self) -> None:
        if self.experiment is None or not self._estimate():
            return
        try:
            run = background.start(self.experiment)
        except InputError as error:
            self.said.value = f'<p style="color:#b34700">✖ {html.escape(str(error))}</p>'
            return
        self.said.value = f"<p>✔ {html.escape(run.dir.name)} was started in a process of its own.</p>"
        if self.started is not None:
            self.started(run)

    def _laid_out(self, alike: Alike, narrow: ipywidgets.Layout) -> ipywidgets.Widget:
        parts: dict[str, list[ipywidgets.Widget]] = {}
        for field in self.fields:
            label = alike(ipywidgets.Label, field.name, layout=narrow)
            beside = alike(ipywidgets.VBox, [self.help[field.name], self.errors[field.name]])
            row = alike(ipywidgets.HBox, [label, self.widgets[field.name], beside])
            parts.setdefault(field.group, []).append(row)
        tabs = ipywidgets.Tab([alike(ipywidgets.VBox, rows) for rows in parts.values()], titles=list(parts))
        marks = "[A] the paper's abstract, [P] its opening pages, [C] convention of CLIP-ReID, [O] our choice"
        marks = ipywidgets.HTML(f"<small>{marks}; ≠: not the preset's.</small>")
        top, bottom = ipywidgets.HBox([self.setting, self.method]), ipywidgets.HBox([self.estimate, self.start])
        return ipywidgets.VBox([top, tabs, marks, self.difference, bottom, self.said, self.needs, self.line])


def _shown(value: Any) -> str:
    return "none" if value is None else str(list(value)) if isinstance(value, tuple) else str(value)


def _cell(text: str, tag: str = "td") -> str:
    return f'<{tag} style="text-align:left;padding:2px 8px">{text}</{tag}>'
