"""The registry: every variant of the method, built-in or from a plugin, with its implementation and its parameters.

A plugin is a Python file, or the installed package behind an entry point of the group ``csgn.plugins``. It registers
what it adds::

    @registry.register("stage2_term", "pull")
    def pull(step, *, pull_weight: Annotated[float, Field(ge=0, description="weight of the term")] = 0.01):
        \"\"\"Mean squared distance of each joint embedding to the mean of its identity.\"\"\"
        ...

Keyword-only parameters are parameters of the experiment: one with ``Field`` is added to it, one without is read from
it. The built-in variants are registered by the same function at the end of this file, by the name of their code, so
that listing them imports neither torch nor pandas.
"""

from __future__ import annotations

import importlib
import inspect
import traceback
import typing
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

from csgn_lib.records import InputError, nearest

TRAITS: dict[str, dict[str, Any]] = {  # the kinds of variants, with their traits and defaults
    "stage2_term": {},  # (Stage2Step) -> scalar, or dict of named scalars, already weighted
    "mdg": {"learned": True, "gray": True},  # (MdgBatch) -> dict of named scalars
    "vss": {"vit": True, "branch": "resnet", "tokens": False},  # (widths, generator) -> module: Branches -> f (B, D)
    "hsf": {},  # (HsfBatch) -> dict of named scalars
    "tower": {},  # (checkpoint, size) -> module in place of the ResNet, or a ClipTower
    "benchmark": {"folder": None},  # (root, name) -> datasets.Benchmark; the release's folder, by default its name
    "protocol": {"benchmarks": None},  # a datasets.Protocol; of all benchmarks, or of those named
    "descriptor": {},  # (Embeddings) -> features (B, width)
}
LAZY = {"benchmark": "csgn_lib.datasets", "protocol": "csgn_lib.datasets"}  # modules that register their own variants


@dataclass(frozen=True)
class Entry:
    """A registered variant.

    Attributes:
        kind, name: one of TRAITS, and the value of the parameter of that kind.
        implementation: the code or data, or for built-ins its location as ``module:attribute``.
        meaning: one-line description.
        traits: see TRAITS.
        plugin: name of the plugin that registered it; empty for a built-in.
    """

    kind: str
    name: str
    implementation: Any
    meaning: str = ""
    traits: Mapping[str, Any] = field(default_factory=dict)
    plugin: str = ""

    @cached_property
    def code(self) -> Any:
        """The implementation, imported if it was registered by its location."""
        if not isinstance(self.implementation, str):
            return self.implementation
        module, _, attribute = self.implementation.partition(":")
        return getattr(importlib.import_module(module), attribute)

    @cached_property
    def parameters(self) -> dict[str, inspect.Parameter]:
        """Its keyword-only parameters by name, annotations evaluated."""
        if not callable(self.code):
            return {}
        target = self.code.__init__ if inspect.isclass(self.code) else self.code
        try:
            hints = typing.get_type_hints(target, include_extras=True)
        except (NameError, TypeError) as error:
            raise InputError(f"{self}: its annotations cannot be read ({error}); import the names they use") from None
        signature = inspect.signature(target)
        return {
            name: parameter.replace(annotation=hints.get(name, parameter.empty))
            for name, parameter in signature.parameters.items()
            if parameter.kind is parameter.KEYWORD_ONLY
        }

    def bind(self, values: Any) -> Form:
        """The variant with the values of its parameters, read from an experiment's attributes or a mapping."""
        read = values.__getitem__ if isinstance(values, Mapping) else lambda name: getattr(values, name)
        given = {}
        for name, parameter in self.parameters.items():
            try:
                given[name] = read(name)
            except (KeyError, AttributeError):
                if parameter.default is parameter.empty:
                    raise InputError(f"{self} needs a value of {name}, and none is given") from None
        return Form(self, given)

    def __str__(self) -> str:
        return f"{self.kind} {self.name!r}" + (f" of plugin {self.plugin}" if self.plugin else "")


@dataclass(frozen=True)
class Form:
    """A variant whose parameters have values; calling it calls its code."""

    entry: Entry
    values: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The variant's name."""
        return self.entry.name

    def trait(self, name: str) -> Any:
        """The value of a trait, see TRAITS."""
        return self.entry.traits.get(name, TRAITS[self.entry.kind][name])

    def __call__(self, *inputs: Any) -> Any:
        """Call the code. Raises InputError naming the plugin if a plugin's code raises."""
        if not self.entry.plugin:
            return self.entry.code(*inputs, **self.values)
        try:
            return self.entry.code(*inputs, **self.values)
        except (InputError, KeyboardInterrupt, MemoryError):
            raise
        except Exception as error:
            raise InputError(f"{self.entry} raised {last_line(error)}; correct it") from error


@dataclass(frozen=True)
class Plugin:
    """A loaded plugin: name of its file or package, its path, SHA-256 of its content, and its entries."""

    name: str
    source: Path
    digest: str
    entries: dict[tuple[str, str], Entry] = field(default_factory=dict, repr=False, hash=False, compare=False)


_BUILT_IN: dict[tuple[str, str], Entry] = {}
LOADED: dict[tuple[str, str], Plugin] = {}  # by name and digest; the last one loaded stands last
LOADING: ContextVar[Plugin | None] = ContextVar("loading", default=None)


def register(kind: str, name: str, implementation: Any = None, *, meaning: str = "", **traits: Any) -> Any:
    """Register a variant; without an implementation, a decorator. For plugins, while they are loaded.

    Args:
        kind: one of TRAITS, which lists the signature of each kind.
        name: of the variant; it must differ from built-in variants and those of other plugins.
        implementation: a callable, or a Protocol.
        meaning: one line; by default the first one of the docstring.
        traits: those of the kind, such as ``tokens=True`` of a ``vss`` form that reads patch tokens.

    Raises:
        InputError: an unknown kind or trait, a name that is taken, or no plugin is being loaded.
    """
    if implementation is None:
        return lambda code: register(kind, name, code, meaning=meaning, **traits) or code
    plugin = LOADING.get()
    if plugin is None:
        raise InputError(
            f"register({kind!r}, {name!r}) outside of a plugin; put it into a file and pass the file as plugin"
        )
    _add(plugin.entries, kind, name, implementation, meaning, traits, plugin.name)
    if name in entries(kind, ()):
        raise InputError(f"plugin {plugin.name} registers {kind} {name!r}, which is built in; give it another name")
    return None


def built_in(kind: str, name: str, implementation: Any, meaning: str = "", **traits: Any) -> None:
    """Register one of the library's own variants. ``implementation``: the code, or ``module:attribute``."""
    _add(_BUILT_IN, kind, name, implementation, meaning, traits, "")


def _add(
    table: dict[tuple[str, str], Entry], kind: str, name: str, code: Any, meaning: str, traits: dict, plugin: str
) -> None:
    if kind not in TRAITS:
        raise InputError(f"plugin {plugin} registers a {kind!r}; the kinds are: {', '.join(TRAITS)}")
    if unknown := sorted(traits.keys() - TRAITS[kind].keys()):
        known = ", ".join(TRAITS[kind]) or "none"
        raise InputError(f"plugin {plugin}: {kind} {name!r} has no trait {unknown[0]!r}; its traits: {known}")
    if (kind, name) in table:
        raise InputError(f"plugin {plugin} registers {kind} {name!r} twice; give one of them another name")
    described = "" if isinstance(code, str) else getattr(code, "description", None) or inspect.getdoc(code) or ""
    text = meaning or described.partition("\n")[0]
    table[kind, name] = Entry(kind, name, code, text, MappingProxyType(traits), plugin)


def entries(kind: str, plugins: Sequence[Plugin] | None = None) -> dict[str, Entry]:
    """The variants of a kind by name: the built-in ones first, then the plugins'.

    Args:
        plugins: by default all that this process has loaded, the last one first.

    Raises:
        InputError: two plugins register the same name (only where ``plugins`` is given).
    """
    if kind in LAZY:
        importlib.import_module(LAZY[kind])
    by_name = {name: entry for (its, name), entry in _BUILT_IN.items() if its == kind}
    for plugin in reversed(LOADED.values()) if plugins is None else plugins:
        for (its, name), entry in plugin.entries.items():
            if its == kind and name in by_name and plugins is not None:
                raise InputError(
                    f"{entry} is registered twice, also by {by_name[name].plugin or 'the library'}; rename one"
                )
            if its == kind:
                by_name.setdefault(name, entry)
    return by_name


def names(kind: str, plugins: Sequence[Plugin] = ()) -> tuple[str, ...]:
    """The names of a kind's variants: built-in ones, then those of ``plugins``."""
    return tuple(entries(kind, plugins))


def form(kind: str, name: str, values: Any = MappingProxyType({}), plugins: Sequence[Plugin] = ()) -> Form:
    """A variant by name, its parameters bound to ``values``. Raises InputError for an unknown name."""
    known = entries(kind, plugins)
    if name not in known:
        raise InputError(f"unknown {kind} {name!r}{nearest(name, known)}")
    return known[name].bind(values)


def last_line(error: BaseException) -> str:
    """Type, message and line of an error in a plugin's code."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" (line {frames[-1].lineno} of {Path(frames[-1].filename).name})" if frames else ""
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}{where}"


# ---------------------------------------------------------------- the built-in variants

for _name, _attribute, _meaning, _traits in (
    ("separate", "separate", "i2t and t2i of each modality [C, twice]", {}),
    ("cross", "cross", "also image of one modality against text of the other [O]", {}),
    ("mutual", "mutual", "also mutual divergence of the two predictions [A, form O]", {}),
    ("second_rgb", "mutual", "control: a second RGB prompt in place of gray [O]", {"gray": False}),
    ("random", "random_text_features", "control: fixed random vectors in place of text [O]", {"learned": False}),
):
    built_in("mdg", _name, f"csgn_lib.mdg:{_attribute}", _meaning, **_traits)

for _name, _attribute, _meaning, _traits in (
    ("steer", "Steering", "f = zp + gamma A c [O]", {}),
    ("concat", "Unjoined", "f = zp; the branches meet in the descriptor [O]", {}),
    ("cross_attention", "CrossAttention", "ViT tokens attend to the ResNet map [O]", {"tokens": True}),
    ("two_vits", "Steering", "control: steered by a second ViT [O]", {"branch": "vit"}),
    ("none", "Unjoined", "the ViT alone [C]", {"branch": None}),
    ("resnet", "Unjoined", "the ResNet alone", {"vit": False}),
):
    built_in("vss", _name, f"csgn_lib.vss:{_attribute}", _meaning, **_traits)

for _name, _attribute, _meaning in (
    ("convex", "convex", "(1 - beta) RGB + beta gray [A, form O]"),
    ("sum", "unweighted_sum", "RGB + gray [O]"),
    ("text", "fused_text", "one cross entropy on the fused text [O]"),
    ("logit", "mixed_probabilities", "one cross entropy on mixed probabilities [O]"),
    ("consistent", "consistent", "convex, and agreement of the two predictions [O]"),
    ("orthogonal", "orthogonal", "convex, and a penalty on colour directions [O]"),
    ("none", "no_text", "no text loss: identity and triplet only"),
):
    built_in("hsf", _name, f"csgn_lib.hsf:{_attribute}", _meaning)

for _name, _meaning in (
    ("plain", "the parts of [z12; f; c] that there are [C]"),
    ("clothing removed", "f without clothing directions, joined by the rest [O]"),
    ("person only", "f along person directions alone, joined by the rest [O]"),
):
    built_in("descriptor", _name, "csgn_lib.retrieval.descriptors:Descriptor", _meaning)
