"""The experiment: one flat, frozen, validated set of parameters, its presets, and the plugins that extend it.

Notebooks, ``csgn train --set``, sweep grids and result tables use the same names. Origin marks: [A] the paper's
abstract, [P] its opening pages, [C] convention of CLIP-ReID (Li, Sun, Li, AAAI 2023), [O] our choice. The paper's own
hyper-parameters are not public.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model, field_validator

from csgn_lib import plugins as plugin_files
from csgn_lib import registry
from csgn_lib.records import InputError, cached_sha256, did_you_mean, locate, nearest
from csgn_lib.registry import Form, Plugin

FORMS = ("mdg", "vss", "hsf")  # parameters whose values are names of the registry
# in no digest by their values: seed and tracker; what plugin, init and vocabulary_file name counts by its content
RECORDED = ("seed", "plugin", "tracker", "init", "vocabulary_file")
BY_CONTENT = ("init", "vocabulary_file")
WEIGHTS, DESCRIPTIONS = "model.safetensors", "text.safetensors"  # of a run's folder
Mdg, Vss, Hsf = (Literal[registry.names(kind)] for kind in FORMS)
Tracker = Literal["tensorboard", "wandb", "mlflow", "trackio"]


class Experiment(BaseModel):
    """All parameters of a run. Build it with ``from_parameters``, which also loads its plugins."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    loaded: ClassVar[tuple[Plugin, ...]] = ()

    preset: str = Field("demo", description="the preset that supplies the other values")
    benchmark: str = Field("synthetic", description="a name in datasets.NAMES, or csv")
    root: str | None = Field(None, description="folder of the benchmark; none: the embedded benchmark is rendered")
    world: int = Field(0, ge=0, lt=10**6, description="random draw of the embedded benchmark; for root=none")
    seed: int = Field(0, ge=0, lt=2**63, description="seed of initialisation, sampling and augmentation")
    validation_people: int = Field(
        0, ge=0, description="training people held out for validation; the embedded benchmark has its own"
    )

    mdg: Mdg = Field("mutual", description="form of stage 1 [A, form O]; second_rgb and random are controls")
    mdg_modality: Literal["word", "same", "token"] = Field("word", description="how the second prompt says gray [O]")
    mdg_cross_weight: float = Field(0.5, ge=0, description="weight of the cross terms, mdg=cross [O]")
    mdg_mutual_weight: float = Field(1.0, ge=0, description="weight of the mutual term, mdg=mutual [O]")
    prompt_tokens: int = Field(4, ge=1, le=16, description="learned tokens per identity and prompt, M [C]")
    vss: Vss = Field("steer", description="how ViT and ResNet join [A, form O]; two_vits: a control; none: ViT alone")
    hsf: Hsf = Field("convex", description="text loss of stage 2 [A, form O]; none: identity + triplet only")
    beta: float = Field(0.5, ge=0, le=1, description="weight of the grayscale description [O]; 0 is CLIP-ReID")
    hsf_weight: float = Field(1.0, ge=0, description="weight of the text loss [C]")
    orthogonal_weight: float = Field(0.5, ge=0, description="weight of the colour penalty, hsf=orthogonal [O]")
    consistency_weight: float = Field(1.0, ge=0, description="weight of the agreement term, hsf=consistent [O]")
    similarity: Literal["dot", "cosine"] = Field("dot", description="dot: raw [C]; cosine: x 100 [P]")
    vocabulary_train: Literal["none", "head", "targets", "penalty"] = Field(
        "none",
        description="heads without the clothing subspace, text in the person subspace, or a penalty [O]",
    )
    penalty_weight: float = Field(1.0, ge=0, description="weight of vocabulary_train=penalty [O]")
    vocabulary_file: str | None = Field(
        None, description="a YAML file of clothing and person phrases; none: English, csgn_lib.vocabulary.ENGLISH [O]"
    )
    clothing_rank: int = Field(16, ge=0, description="rank K of the clothing subspace [O]")
    person_rank: int = Field(8, ge=1, description="rank K of the person subspace [O]")

    stage1_epochs: int = Field(120, ge=0, description="epochs of stage 1 [C]")
    stage1_batch: int = Field(64, ge=2, description="images in a batch of stage 1 [C]")
    stage1_lr: float = Field(3.5e-4, gt=0, description="learning rate of the prompts [C]")
    stage1_warmup: int = Field(5, ge=0, description="warm-up epochs of stage 1 [C]")
    stage2_epochs: int = Field(60, ge=0, description="epochs of stage 2 [C]")
    stage2_warmup: int = Field(10, ge=0, description="epochs, from 0.1 of the learning rate [C]")
    stage2_milestones: tuple[int, ...] = Field((30, 50), description="epochs that divide the learning rate by 10 [C]")
    lr_vit: float = Field(5e-6, ge=0, description="learning rate of the ViT [C]")
    lr_resnet: float = Field(3.5e-4, ge=0, description="learning rate of the ResNet [O]")
    lr_heads: float = Field(3.5e-4, ge=0, description="BNNecks, classifiers, steering [O]; CLIP-ReID: lr_vit")
    ema: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="decay per step of an average of the weights, which is saved; none: last weights",
    )
    weight_decay: float = Field(1e-4, ge=0, description="weight decay [C]")
    batch_persons: int = Field(16, ge=2, description="identities in a batch [C]")
    batch_images: int = Field(4, ge=2, description="images of each identity in a batch [C]")
    batch_parts: int = Field(
        1,
        ge=1,
        description="parts in which a batch is embedded, with losses over all of it: less memory, more time",
    )
    sampler: Literal["identity", "clothes"] = Field(
        "identity", description="clothes: two outfits per person in a batch [O]"
    )
    id_weight_vit: float = Field(0.25, ge=0, description="weight of the identity loss on z12 and f [C]")
    id_weight_resnet: float = Field(1.0, ge=0, description="weight of the identity loss on the ResNet's c [C]")
    triplet_weight: float = Field(1.0, ge=0, description="weight of the triplet loss [C]")
    triplet_margin: float = Field(0.3, ge=0, description="margin of the triplet loss, Euclidean [C]")
    label_smoothing: float = Field(0.1, ge=0, lt=1, description="identity and text losses [C]")
    clothes_adversarial_weight: float = Field(0.0, ge=0, description="weight of CAL, Gu et al., CVPR 2022")

    image_height: int = Field(256, ge=16, description="height of the images in pixels")
    image_width: int = Field(128, ge=16, description="width of the images in pixels")
    flip: float = Field(0.5, ge=0, le=1, description="probability of a horizontal flip [C]")
    padding: int = Field(10, ge=0, description="pixels of padding before a random crop [C]")
    erasing: float = Field(0.5, ge=0, le=1, description="probability of random erasing [C]")
    gray_probability: float = Field(0.0, ge=0, le=1, description="share of grayscale training images in stage 2")
    colour_jitter: float = Field(0.0, ge=0, le=1, description="share of colour-jittered training images in stage 2 [O]")

    clip_model: str = Field("ViT-B-16-quickgelu", description="an open_clip name")
    clip_checkpoint: str | None = Field("openai", description="embedded, embedded-1, an open_clip tag, or a file")
    vit_stride: int | None = Field(
        None,
        ge=8,
        description="pixels from one patch to the next, overlapping if below the patch size [C: 12]; none: patch size",
    )
    resnet_model: str = Field("resnet50", description="a timm name, or a plugin's tower; resnet50_clip: CLIP's RN50")
    resnet_checkpoint: str | None = Field(
        "timm", description="embedded, embedded-1, timm (its default), a file; none: from scratch"
    )
    init: str | None = Field(
        None, description="a trained run, or a folder of csgn export, whose encoder stage 2 starts from; none: none [O]"
    )
    precision: Literal["fp32", "bf16"] = Field(
        "bf16", description="precision of autocast; fp32 in any case on a CPU without bfloat16 instructions"
    )
    compile: bool | None = Field(
        None,
        description="torch.compile of the encoder's blocks in stage 2: a minute once, faster steps on a GPU; none: no",
    )
    gradient_checkpointing: bool | None = Field(
        None, description="recompute the ViT's blocks in the backward pass: less memory, a third more time; none: no"
    )

    tracker: Tracker | None = Field(
        None, description="also report metrics to tensorboard, wandb, mlflow or trackio, offline; none: metrics.jsonl"
    )
    plugin: str | tuple[str, ...] = Field(
        (), description="Python files, or names of installed plugins, that add variants and parameters"
    )

    @field_validator("root")
    @classmethod
    def _normalised(cls, value: str | None) -> str | None:
        return os.path.normpath(value) if value else value

    @field_validator("plugin", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        return tuple(filter(None, [value])) if isinstance(value, str) else tuple(value or ())

    @classmethod
    def from_parameters(cls, **parameters: Any) -> Experiment:
        """A preset's values, updated with ``parameters``; ``prcc-paper+cal`` is a setting with a method.

        Raises InputError naming an unknown parameter or preset (with the nearest names), the value that has the wrong
        type or is out of range, or a plugin that cannot be loaded.
        """
        model = with_plugins(parameters.get("plugin"))
        preset = parameters.get("preset", "demo")
        values = preset_values(preset)
        for name in parameters:
            if name not in model.model_fields:
                cure = did_you_mean(name, model.model_fields)
                raise InputError(f"unknown parameter {name!r}" + (f" ({cure})" if cure else ""))
        values |= parameters | {"preset": preset}
        if isinstance(values.get("stage2_milestones"), list):  # JSON and papermill have no tuples
            values["stage2_milestones"] = tuple(values["stage2_milestones"])
        try:
            return model(**values)
        except ValidationError as error:
            first = error.errors()[0]
            name, value = str(first["loc"][0]), values[str(first["loc"][0])]
            raise InputError(f"parameter {name} = {value!r}: {first['msg']}") from None

    def form(self, kind: str) -> Form:
        """The variant that a parameter of FORMS names, with this experiment's values of its parameters."""
        return registry.form(kind, getattr(self, kind), self, self.loaded)

    def added(self, kind: str) -> dict[str, Form]:
        """The variants of a kind that the experiment's plugins add, with this experiment's values, by name."""
        return {name: entry.bind(self) for name, entry in registry.entries(kind, self.loaded).items() if entry.plugin}

    @property
    def plugins(self) -> dict[str, str]:
        """SHA-256 of each plugin's content, by the plugin's name."""
        return {plugin.name: plugin.digest for plugin in self.loaded}

    def digest(self) -> str:
        """Eight hexadecimal digits of all parameters that decide the result except the seed.

        Plugins, the vocabulary and the weights that ``init`` names count by their content. Raises InputError if one of
        them is missing.
        """
        values = self.model_dump(mode="json", exclude=set(RECORDED)) | {"plugins": sorted(self.plugins.values())}
        values |= content_digests(self.model_dump(include=set(BY_CONTENT)))
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:8]

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuilt, (self.model_dump(),)  # a class with plugins cannot be pickled by name

    def table(self) -> str:
        """One aligned line per parameter; a star and the preset's value where the two differ."""
        changed, base = self.difference(), self._preset()
        texts = {name: written(value) for name, value in self}
        wide = max(map(len, texts)), max((len(texts[name]) for name in changed), default=0)
        lines = []
        for name, text in texts.items():
            if name in changed:
                text = f"{text:{wide[1]}s}   {self.preset}: {written(getattr(base, name))}"
            lines.append(f"{'*' if name in changed else ' '} {name:{wide[0]}s}  {text}")
        return "\n".join(lines)

    def difference(self) -> dict[str, Any]:
        """The parameters that differ from this experiment's preset."""
        base = self._preset()
        return {name: value for name, value in self if value != getattr(base, name)}

    def _preset(self) -> Experiment:
        """The preset's own values, in the same class, without a plugin."""
        base = type(self).from_parameters(preset=self.preset, plugin=self.plugin)
        return base.model_copy(update={"plugin": ()})


def with_plugins(references: str | Sequence[str] | None) -> type[Experiment]:
    """The Experiment class that has the parameters and variants of these plugins too; for none, Experiment.

    Raises:
        InputError: a plugin that cannot be loaded; two that register one name; a parameter without type, description or
            default, or that exists already.
    """
    references = [references] if isinstance(references, str) else references or ()
    plugins = tuple(dict.fromkeys(plugin_files.load(reference) for reference in references if reference))
    return _extended(plugins) if plugins else Experiment


def content_digests(parameters: Mapping[str, Any]) -> dict[str, str]:
    """SHA-256 of what ``init`` and ``vocabulary_file`` name, for those that are set, whatever the path.

    A notebook's parameters will do: their own, or those of ``more``. For ``init``, of model.safetensors, and of
    text.safetensors where there is one: its descriptions may be used again.

    Raises:
        InputError: a folder without weights, or a file that does not exist.
    """
    more = parameters.get("more")
    given = {**(more if isinstance(more, Mapping) else {}), **{k: v for k, v in parameters.items() if v}}
    found = {}
    if given.get("init"):
        folder = locate(given["init"])
        if not (folder / WEIGHTS).is_file():
            what = f"holds no {WEIGHTS}" if folder.is_dir() else "is not a folder"
            raise InputError(f"init={folder}: it {what}; give a finished run's folder, or one that csgn export made")
        files = [folder / name for name in (WEIGHTS, DESCRIPTIONS)]
        found["init"] = "-".join(cached_sha256(file) for file in files if file.exists())
    if given.get("vocabulary_file"):
        file = locate(given["vocabulary_file"])
        if not file.is_file():
            raise InputError(f"vocabulary_file={file} does not exist; give a YAML file's path, or none for English")
        found["vocabulary_file"] = cached_sha256(file)
    return found


def plugins_of(parameters: Mapping[str, Any]) -> tuple[Plugin, ...]:
    """The plugins of a notebook's parameters, ``plugin`` or that in ``more``. Raises InputError as ``with_plugins``."""
    more = parameters.get("more")
    named = parameters.get("plugin") or (more.get("plugin") if isinstance(more, Mapping) else None)
    return with_plugins(named).loaded


@lru_cache(maxsize=64)
def _extended(plugins: tuple[Plugin, ...]) -> type[Experiment]:
    plugin_files.refuse_namesakes(plugins)
    fields: dict[str, Any] = {}
    for kind in registry.TRAITS:
        entries = registry.entries(kind, plugins)  # raises an error for a name that is registered twice
        if kind in FORMS:
            fields[kind] = (Literal[tuple(entries)], Experiment.model_fields[kind])
        for entry in entries.values():
            if entry.plugin:
                fields |= plugin_files.own_fields(entry, Experiment.model_fields | fields)
    model = create_model("Experiment", __base__=Experiment, __doc__=Experiment.__doc__, **fields)
    model.loaded = plugins
    for kind in registry.TRAITS:
        for entry in registry.entries(kind, plugins).values():
            if entry.plugin:
                plugin_files.refuse_unknown_parameters(entry, model.model_fields)
    return model


def _rebuilt(values: dict[str, Any]) -> Experiment:
    return Experiment.from_parameters(**values)


def preset_values(preset: object) -> dict[str, Any]:
    """The values of ``demo`` or ``demo+cal``: a setting of PRESETS, updated with a method of METHODS if one is named.

    Raises InputError naming an unknown setting or method, with the nearest names.
    """
    setting, plus, method = preset.partition("+") if isinstance(preset, str) else (preset, "", "")
    if setting in METHODS:
        raise InputError(f"preset {preset!r} is a method; name the setting before it: demo+{setting}")
    if setting not in PRESETS:
        raise InputError(f"unknown preset {setting!r}{nearest(setting, PRESETS)}")
    if plus and method not in METHODS:
        raise InputError(f"unknown method {method!r}{nearest(method, METHODS)}")
    return PRESETS[setting] | METHODS.get(method, {})


def written(value: object) -> str:
    """A parameter's value as ``--set name=value`` takes it."""
    if isinstance(value, tuple):
        return str(list(value))
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


# Patches of 14 pixels: 252 x 126 is 18 x 9 of them. Blocks are recomputed, so that a batch of 64 fits into 16 GB. [O]
LARGE = {"image_height": 252, "image_width": 126, "gradient_checkpointing": True}
EVA_LARGE = LARGE | {"clip_model": "EVA02-L-14", "clip_checkpoint": "merged2b_s4b_b131k"}
VIT_LARGE = LARGE | {"clip_model": "ViT-L-14-quickgelu", "clip_checkpoint": "openai"}

PRESETS: dict[str, dict[str, Any]] = {
    # Chosen on validation people of draws that no record uses. Towers of a hundredth of the size and a few hundred
    # steps need higher learning rates and no erasing; the identity loss has full weight on the ViT too.
    "demo": {
        "clip_model": "csgn-tiny", "clip_checkpoint": "embedded",
        "resnet_model": "csgn_tiny_resnet", "resnet_checkpoint": "embedded",
        "image_height": 96, "image_width": 48, "padding": 4, "erasing": 0.0,
        "stage1_epochs": 8, "stage1_batch": 256, "stage1_lr": 5e-3, "stage1_warmup": 1,
        "stage2_epochs": 5, "stage2_warmup": 1, "stage2_milestones": (4,),
        "lr_vit": 3e-4, "lr_resnet": 1e-3, "lr_heads": 3e-3, "id_weight_vit": 1.0,
    },
    "ltcc-paper": {"benchmark": "ltcc"},
    "prcc-paper": {"benchmark": "prcc"},
    "vcclothes-paper": {"benchmark": "vcclothes"},
    "celebreid-paper": {"benchmark": "celebreid"},
    "last-paper": {"benchmark": "last"},
    "ltcc-large": {"benchmark": "ltcc"} | EVA_LARGE,
    "prcc-large": {"benchmark": "prcc"} | EVA_LARGE,
    "ltcc-large-vit": {"benchmark": "ltcc"} | VIT_LARGE,
    "prcc-large-vit": {"benchmark": "prcc"} | VIT_LARGE,
    "market-clipreid": {
        "benchmark": "market1501", "mdg": "separate", "vss": "none", "beta": 0.0, "lr_heads": 5e-6,
    },
}  # fmt: skip

# Baselines and controls, trained with the same networks, batches, learning rates and epochs.
METHODS: dict[str, dict[str, Any]] = {
    "csgn": {},
    "identity-triplet": {"hsf": "none", "vss": "none"},  # the plain baseline: ViT alone, no text
    "clip-reid": {"mdg": "separate", "vss": "none", "beta": 0.0},  # Li, Sun, Li, AAAI 2023
    "cal": {"hsf": "none", "vss": "none", "clothes_adversarial_weight": 1.0},  # Gu et al., CVPR 2022, on the ViT
    "colour-jitter": {"hsf": "none", "vss": "none", "colour_jitter": 0.5},
    "gray-images": {"hsf": "none", "vss": "none", "gray_probability": 0.2},
    "vit": {"vss": "none"},  # CSGN without its ResNet
    "resnet": {"hsf": "none", "vss": "resnet"},  # the other branch alone, without text
    # control: does the ResNet matter, or the parameters? A step takes 1.2 times the FLOPs of ViT + ResNet in the demo,
    # 1.5 times at full size; no other ViT is closer
    "two-vits": {"vss": "two_vits"},
    "second-rgb": {"mdg": "second_rgb"},  # control: is it the gray images, or a second prompt?
    "random-text": {"mdg": "random"},  # control: is it the text, or any fixed target?
}
