"""Datasheet of an exported world (Gebru et al., Communications of the ACM 64, 2021)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from csgn_lib.synthetic.settings import setting_named
from csgn_lib.synthetic.worlds import SPLITS, World


def datasheet(world: World, pairs: Mapping[str, int]) -> str:
    """Datasheet of a world as Markdown.

    Args:
        pairs: number of counterfactual pictures of each kind.
    """
    setting = setting_named(world.setting)
    per_person = world.outfits * world.cameras_each * world.images
    spread = setting.spread if world.spread is None else world.spread
    sharing = setting.sharing if world.sharing is None else world.sharing
    counts = ", ".join(f"{count} of {split}" for split, count in zip(SPLITS, world.counts(), strict=True))
    text = Path(__file__).with_name("datasheet.md").read_text(encoding="utf-8")
    values = {
        "command": command(world),
        "people": world.people,
        "counts": counts,
        "pictures": world.people * per_person,
        "height": world.size,
        "width": world.size // 2,
        "setting": world.setting,
        "cameras": setting.cameras,
        "outfits": world.outfits,
        "seed": world.seed,
        "colour": f"{world.colour_identity:.0%}",
        "spread": f"{spread:g}",
        "stature": f"{setting.stature_sd * 100:g}",
        "sharing": f"{sharing:g}",
        "occluded": f"{setting.occluded:.0%}",
        "crop": f"{setting.crop:g} m at the person's depth: stature shows"
        if setting.crop
        else "drawn from the person's stature, as a detector crops: stature hardly shows",
        "pairs": ", ".join(f"{kind} {count}" for kind, count in pairs.items()),
    }
    for name, value in values.items():
        text = text.replace("{" + name + "}", str(value))
    return text


def command(world: World) -> str:
    """Command line that renders this world."""
    words = [f"csgn world --people {world.people} --setting {world.setting} --seed {world.seed} --size {world.size}",
             f"--images {world.images} --outfits {world.outfits} --cameras-each {world.cameras_each}",
             f"--colour-identity {world.colour_identity:g}"]  # fmt: skip
    words += [
        f"--{name} {value:g}"
        for name, value in (("spread", world.spread), ("sharing", world.sharing))
        if value is not None
    ]
    words += [] if world.extras else ["--no-extras"]
    return " ".join([*words, "--out DIR"])
