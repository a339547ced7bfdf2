"""The experiment: one flat, frozen, validated set of parameters, its presets and its digest.

The same names are used by notebooks, ``csgn train --set``, sweep grids and result tables. Origin
marks: [A] abstract, [P] the paper's opening pages, [C] convention of CLIP-ReID (Li, Sun, Li, AAAI
2023), [O] our choice. The paper's own hyper-parameters are not public.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from csgn_lib.records import InputError

ADDED_LATER = {  # at these values, an experiment keeps the digest that it had before
    "vit_stride": None,
    "gradient_checkpointing": None,
    "ema": None,
    "consistency_weight": 1.0,
    "penalty_weight": 1.0,
    "colour_jitter": 0.0,
    "batch_parts": 1,
    "compile": None,
}


class Experiment(BaseModel):
    """Everything that decides a run's outcome. Build it with ``from_parameters``."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    preset: str = Field("demo", description="the preset that the other values started from")
    benchmark: str = Field("synthetic", description="a name in datasets.NAMES, or csv")
    root: str | None = Field(None, description="folder of the benchmark; none: the embedded one is rendered")
    world: int = Field(0, ge=0, lt=10**6, description="which draw of the embedded benchmark (only if root is none)")
    seed: int = Field(0, ge=0, description="seed of initialisation, sampling and augmentation")
    validation_people: int = Field(0, ge=0, description="training people held out; the embedded world brings its own")

    mdg: Literal["separate", "cross", "mutual", "second_rgb", "random"] = Field(
        "mutual", description="stage 1 [A, form O]; second_rgb and random are controls in place of gray and of text"
    )
    mdg_modality: Literal["word", "same", "token"] = Field("word", description="how a prompt says gray [O]")
    mdg_cross_weight: float = Field(0.5, ge=0, description="lx of the cross terms, used by mdg=cross [O]")
    mdg_mutual_weight: float = Field(1.0, ge=0, description="lm of the mutual term, used by mdg=mutual [O]")
    prompt_tokens: int = Field(4, ge=1, le=16, description="learned tokens per identity and set [C]")
    vss: Literal["steer", "concat", "cross_attention", "two_vits", "none", "resnet"] = Field(
        "steer",
        description="how ViT and ResNet join [A, form O]; two_vits: a control, steered by a second ViT; none: ViT "
        "alone, resnet: alone",
    )
    hsf: Literal["convex", "sum", "text", "logit", "consistent", "orthogonal", "none"] = Field(
        "convex", description="the text loss of stage 2 [A, form O]; none: identity + triplet only"
    )
    beta: float = Field(0.5, ge=0, le=1, description="weight of the gray description [O]; 0 is CLIP-ReID")
    hsf_weight: float = Field(1.0, ge=0, description="weight of the text loss [C]")
    orthogonal_weight: float = Field(0.5, ge=0, description="weight of the colour penalty, hsf=orthogonal [O]")
    consistency_weight: float = Field(1.0, ge=0, description="lc, weight of agreement, hsf=consistent [O]")
    similarity: Literal["dot", "cosine"] = Field("dot", description="dot: raw [C]; cosine: x 100 [P]")
    vocabulary_train: Literal["none", "head", "targets", "penalty"] = Field(
        "none", description="clothing phrases out of the head, text read through person phrases, or a penalty [O]"
    )
    penalty_weight: float = Field(1.0, ge=0, description="weight of vocabulary_train=penalty [O]")
    clothing_rank: int = Field(16, ge=0, description="directions that clothing phrases span, K [O]")
    person_rank: int = Field(8, ge=1, description="directions that person phrases span, K [O]")

    stage1_epochs: int = Field(120, ge=0, description="[C]")
    stage1_batch: int = Field(64, ge=2, description="images [C]")
    stage1_lr: float = Field(3.5e-4, gt=0, description="[C]")
    stage1_warmup: int = Field(5, ge=0, description="epochs [C]")
    stage2_epochs: int = Field(60, ge=0, description="[C]")
    stage2_warmup: int = Field(10, ge=0, description="epochs, from 0.1 of the rate [C]")
    stage2_milestones: tuple[int, ...] = Field((30, 50), description="epochs at which the rate falls to a tenth [C]")
    lr_vit: float = Field(5e-6, ge=0, description="[C]")
    lr_resnet: float = Field(3.5e-4, ge=0, description="[O]")
    lr_heads: float = Field(3.5e-4, ge=0, description="BNNecks, classifiers, steering [O]; CLIP-ReID: lr_vit")
    ema: float | None = Field(
        None, gt=0, lt=1, description="decay a step of the averaged weights that are kept; none: the last weights"
    )
    weight_decay: float = Field(1e-4, ge=0, description="[C]")
    batch_persons: int = Field(16, ge=2, description="identities in a batch [C]")
    batch_images: int = Field(4, ge=2, description="images of each identity in a batch [C]")
    batch_parts: int = Field(
        1,
        ge=1,
        description="parts that a batch is embedded in, losses over all of it: less memory, more time",
    )
    sampler: Literal["identity", "clothes"] = Field("identity", description="clothes: two outfits a person [O]")
    id_weight_vit: float = Field(0.25, ge=0, description="weight of the identity loss on the ViT's heads [C]")
    id_weight_resnet: float = Field(1.0, ge=0, description="the same on the ResNet's head [C]")
    triplet_weight: float = Field(1.0, ge=0, description="[C]")
    triplet_margin: float = Field(0.3, ge=0, description="Euclidean [C]")
    label_smoothing: float = Field(0.1, ge=0, lt=1, description="identity and text losses [C]")
    clothes_adversarial_weight: float = Field(0.0, ge=0, description="CAL, Gu et al., CVPR 2022")

    image_height: int = Field(256, ge=16, description="pixels")
    image_width: int = Field(128, ge=16, description="pixels")
    flip: float = Field(0.5, ge=0, le=1, description="probability [C]")
    padding: int = Field(10, ge=0, description="pixels, then a random crop [C]")
    erasing: float = Field(0.5, ge=0, le=1, description="probability [C]")
    gray_probability: float = Field(0.0, ge=0, le=1, description="share of gray training images in stage 2")
    colour_jitter: float = Field(0.0, ge=0, le=1, description="share of colour-jittered training images in stage 2 [O]")

    clip_model: str = Field("ViT-B-16-quickgelu", description="an open_clip name")
    clip_checkpoint: str | None = Field("openai", description="embedded, embedded-1, an open_clip tag, or a file")
    vit_stride: int | None = Field(
        None,
        ge=8,
        description="pixels from one patch to the next; less than a patch: they overlap [C: 12]; none: a patch",
    )
    resnet_model: str = Field("resnet50", description="a timm name; resnet50_clip is CLIP's RN50")
    resnet_checkpoint: str | None = Field(
        "timm", description="embedded, embedded-1, timm (its own), a file; none: from scratch"
    )
    precision: Literal["fp32", "bf16"] = Field("bf16", description="autocast")
    compile: bool | None = Field(
        None,
        description="torch.compile of the encoder's blocks in stage 2: a minute once, faster steps on a GPU; none: off",
    )
    gradient_checkpointing: bool | None = Field(
        None, description="the ViT's blocks are computed again backward: less memory, a third more time; none: off"
    )

    @classmethod
    def from_parameters(cls, **parameters: Any) -> Experiment:
        """A preset's values with ``parameters`` over them; ``prcc-paper+cal`` is a setting with a method over it.

        Raises InputError naming an unknown parameter or preset (with the nearest names), or the
        value that has the wrong type or is out of range.
        """
        preset = parameters.get("preset", "demo")
        values = preset_values(preset)
        for name in parameters:
            if name not in cls.model_fields:
                raise InputError(f"unknown parameter {name!r}{_nearest(name, cls.model_fields)}")
        values |= parameters | {"preset": preset}
        if isinstance(values.get("stage2_milestones"), list):  # JSON and papermill know no tuples
            values["stage2_milestones"] = tuple(values["stage2_milestones"])
        try:
            return cls(**values)
        except ValidationError as error:
            first = error.errors()[0]
            name, value = ".".join(map(str, first["loc"])), first["input"]
            raise InputError(f"parameter {name} = {value!r}: {first['msg']}") from None

    def digest(self) -> str:
        """Eight hexadecimal digits that name everything but the seed."""
        left_out = {"seed"} | {name for name, value in ADDED_LATER.items() if getattr(self, name) == value}
        text = json.dumps(self.model_dump(mode="json", exclude=left_out), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:8]

    def table(self) -> str:
        """One line a parameter, aligned; a star where it is not the preset's, and what the preset has."""
        changed, base = self.difference(), type(self).from_parameters(preset=self.preset)
        texts = {name: _written(value) for name, value in self}
        wide = max(map(len, texts)), max((len(texts[name]) for name in changed), default=0)
        lines = []
        for name, text in texts.items():
            if name in changed:
                text = f"{text:{wide[1]}s}   {self.preset}: {_written(getattr(base, name))}"
            lines.append(f"{'*' if name in changed else ' '} {name:{wide[0]}s}  {text}")
        return "\n".join(lines)

    def difference(self) -> dict[str, Any]:
        """The parameters that differ from this experiment's preset."""
        base = type(self).from_parameters(preset=self.preset)
        return {name: value for name, value in self if value != getattr(base, name)}


def preset_values(preset: object) -> dict[str, Any]:
    """The values of ``demo`` or ``demo+cal``: a setting of PRESETS, and a method of METHODS over it, if one is named.

    Raises InputError naming what is unknown, with the nearest names.
    """
    setting, plus, method = preset.partition("+") if isinstance(preset, str) else (preset, "", "")
    if setting in METHODS:
        raise InputError(f"preset {preset!r} is a method; name the setting that it is run in: demo+{setting}")
    if setting not in PRESETS:
        raise InputError(f"unknown preset {setting!r}{_nearest(setting, PRESETS)}; one of {', '.join(PRESETS)}")
    if plus and method not in METHODS:
        raise InputError(f"unknown method {method!r}{_nearest(method, METHODS)}; one of {', '.join(METHODS)}")
    return PRESETS[setting] | METHODS.get(method, {})


def _written(value: object) -> str:
    """As ``--set name=value`` takes it."""
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _nearest(name: object, names: Any) -> str:
    begun = [one for one in names if name and one.startswith(str(name))]  # prcc: prcc-paper
    close = difflib.get_close_matches(str(name), list(names), n=1) or begun
    return f" (did you mean {close[0]!r}?)" if close else ""


PRESETS: dict[str, dict[str, Any]] = {
    # Chosen on validation people of the embedded world. Towers of a hundredth of the size and a few hundred
    # steps bear higher rates, need no erasing, and want the identity loss at full weight on the ViT too.
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
    "market-clipreid": {
        "benchmark": "market1501", "mdg": "separate", "vss": "none", "beta": 0.0, "lr_heads": 5e-6,
    },
}  # fmt: skip

# What CSGN is compared with, in the same harness: the same towers, batches, rates and epochs.
METHODS: dict[str, dict[str, Any]] = {
    "csgn": {},
    "identity-triplet": {"hsf": "none", "vss": "none"},  # the plain baseline: ViT alone, no text
    "clip-reid": {"mdg": "separate", "vss": "none", "beta": 0.0},  # Li, Sun, Li, AAAI 2023
    "cal": {"hsf": "none", "vss": "none", "clothes_adversarial_weight": 1.0},  # Gu et al., CVPR 2022, on the ViT
    "colour-jitter": {"hsf": "none", "vss": "none", "colour_jitter": 0.5},
    "gray-images": {"hsf": "none", "vss": "none", "gray_probability": 0.2},
    "vit": {"vss": "none"},  # CSGN without its ResNet
    "resnet": {"hsf": "none", "vss": "resnet"},  # the other branch alone, which meets no text
    # control: does the ResNet matter, or the parameters? A step takes 1.2 times the arithmetic of ViT + ResNet in the
    # demo, 1.5 times at full size; no other ViT is nearer
    "two-vits": {"vss": "two_vits"},
    "second-rgb": {"mdg": "second_rgb"},  # control: does gray matter, or two prompts?
    "random-text": {"mdg": "random"},  # control: does text matter, or fixed targets?
}
