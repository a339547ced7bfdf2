"""`make method-figure`: docs/images/method.svg, a diagram of MDG, VSS and HSF."""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Ellipse, FancyBboxPatch, Polygon, Rectangle

OUT = Path(__file__).resolve().parents[1] / "images" / "method.svg"
FROZEN, LEARNED, LOSS, FEATURE = "#dbe7f3", "#fde3c1", "#f7cfcf", "#e4f0dc"
INK, MUTED = "#202830", "#66707a"


def box(axes: Axes, x: float, y: float, width: float, height: float, text: str, colour: str, size: float = 10) -> None:
    """A rounded box centred at (x, y)."""
    corner = (x - width / 2, y - height / 2)
    axes.add_patch(FancyBboxPatch(corner, width, height, "round,pad=0,rounding_size=0.9", fc=colour, ec=INK, lw=0.9))
    axes.text(x, y, text, ha="center", va="center", size=size, color=INK, linespacing=1.35)


def arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], label: str = "", bend: float = 0) -> None:
    style = {"arrowstyle": "-|>", "lw": 1.1, "color": INK, "shrinkA": 0, "shrinkB": 0, "mutation_scale": 10,
             "connectionstyle": f"arc3,rad={bend}"}  # fmt: skip
    axes.annotate("", xy=end, xytext=start, arrowprops=style)
    if label:
        axes.text((start[0] + end[0]) / 2, (start[1] + end[1]) / 2 + 1.6, label, ha="center", size=9.5, color=INK)


def person(axes: Axes, x: float, y: float, gray: bool = False) -> None:
    """An image crop of a person, in RGB or in gray."""
    skin, shirt, legs, back = (
        ("#bdbdbd", "#8a8a8a", "#5c5c5c", "#ececec") if gray else ("#e0ac8a", "#d1495b", "#2e5e8c", "#eef3ea")
    )
    axes.add_patch(Rectangle((x - 3.1, y - 10), 6.2, 20, fc=back, ec=INK, lw=0.9))
    axes.add_patch(Polygon([(x - 1.7, y - 1), (x + 1.7, y - 1), (x + 1.4, y - 9), (x + 0.3, y - 9), (x, y - 3),
                            (x - 0.3, y - 9), (x - 1.4, y - 9)], fc=legs))  # fmt: skip
    axes.add_patch(Polygon([(x - 2.1, y + 4), (x + 2.1, y + 4), (x + 1.7, y - 1.5), (x - 1.7, y - 1.5)], fc=shirt))
    axes.add_patch(Ellipse((x, y + 6.4), 1.9, 4, fc=skin))


def stage1(axes: Axes) -> None:
    """MDG: two learned prompts for each identity."""
    axes.text(1, 97, "Stage 1: MDG", size=14, weight="bold", color=INK)
    axes.text(1, 92.5, "two prompts are learned for each identity", size=10.5, color=MUTED)
    for x, gray, name in ((5, False, "RGB"), (13, True, "gray")):
        person(axes, x, 75, gray)
        axes.text(x, 61, name, ha="center", size=10, color=INK)
    arrow(axes, (16.6, 75), (21.4, 75))
    box(axes, 27, 75, 11, 17, "CLIP\nimage\nencoder", FROZEN)
    box(axes, 12, 44, 22.5, 10, "“A photo of a\n[$U_1$] [$U_2$] [$U_3$] [$U_4$] person.”", LEARNED, 9.5)
    box(axes, 12, 28, 22.5, 10, "“A grayscale photo of a\n[$V_1$] [$V_2$] [$V_3$] [$V_4$] person.”", LEARNED, 9.5)
    axes.text(12, 14.5, "$U$, $V$: learned tokens,\nboth sets per identity", ha="center", size=9.5, color=MUTED)
    box(axes, 32, 36, 9.5, 17, "CLIP\ntext\nencoder", FROZEN)
    arrow(axes, (23.4, 44), (27.1, 40))
    arrow(axes, (23.4, 28), (27.1, 32))
    box(
        axes,
        43.5,
        55,
        13,
        31,
        "$L_{MDG}$\n\nmatch images\nand prompts of\nan identity;\nRGB and gray\nagree",
        LOSS,
        9.5,
    )
    arrow(axes, (32.6, 75), (38, 71))
    axes.text(37.6, 74.5, "$v^r, v^g$", ha="center", size=12, color=INK)
    arrow(axes, (36.9, 36), (39.3, 39))
    axes.text(41.8, 34.5, "$t^r, t^g$", ha="center", size=12, color=INK)


def stage2(axes: Axes) -> None:
    """VSS: two visual branches; HSF: the loss that uses both text features."""
    axes.text(54, 97, "Stage 2: VSS and HSF", size=14, weight="bold", color=INK)
    axes.text(54, 92.5, "both visual branches are trained; the text features are fixed", size=10.5, color=MUTED)
    person(axes, 57, 65)
    axes.text(57, 51, "RGB", ha="center", size=10, color=INK)
    box(axes, 69, 78, 10, 12, "CLIP ViT", LEARNED, 10.5)
    box(axes, 69, 52, 10, 12, "ResNet", LEARNED, 10.5)
    arrow(axes, (60.6, 68), (63.7, 75.5))
    arrow(axes, (60.6, 62), (63.7, 55))
    box(axes, 85.5, 78, 15, 10, "$f = z_p + \\gamma\\, A c$", FEATURE, 12)
    arrow(axes, (74.2, 78), (77.8, 78))
    axes.text(76, 80.5, "$z_p$", ha="center", size=12, color=INK)
    arrow(axes, (74.2, 54), (80, 72.8))
    axes.text(75.2, 64.5, "$c$", ha="center", size=12, color=INK)
    axes.text(85.5, 85, "VSS: the ResNet feature $c$ steers $z_p$", ha="center", size=9.5, color=MUTED)
    losses = "identity losses:\n$z_{12}$, $f$, $c$\ntriplet losses:\n$z_{11}$, $z_{12}$, $f$, $c$"
    box(axes, 93, 53.5, 15.5, 17, losses, LOSS, 9.5)
    arrow(axes, (90.5, 72.8), (92, 62.2))
    box(axes, 86, 28, 29, 15, "HSF:   $L_{HSF}$ =\n$(1-\\beta)\\,CE(f, t^r) + \\beta\\,CE(f, t^g)$", LOSS, 10.5)
    arrow(axes, (83, 72.8), (81.6, 35.8))
    box(axes, 60, 28, 12.5, 15, "$t^r$, $t^g$ of all\nidentities,\nfrom stage 1", FEATURE)
    arrow(axes, (66.4, 28), (71.3, 28))
    text = "At test time: images only. Descriptor = [$z_{12}$; $f$; $c$]"
    axes.text(54, 14, text, size=10.5, color=INK, va="center")
    text = "$z_{11}$, $z_{12}$: the ViT's class tokens after its last two blocks"
    axes.text(54, 9, text, size=9.5, color=MUTED, va="center")


def legend(axes: Axes) -> None:
    names = ((FROZEN, "frozen"), (LEARNED, "trained"), (FEATURE, "features"), (LOSS, "loss"))
    for i, (colour, name) in enumerate(names):
        axes.add_patch(Rectangle((1 + 12 * i, 3), 2.2, 4, fc=colour, ec=INK, lw=0.7))
        axes.text(4.2 + 12 * i, 5, name, va="center", size=9.5, color=INK)


def draw(out: Path = OUT) -> None:
    """Write the diagram; the suffix decides the format."""
    style = {"svg.hashsalt": "csgn", "font.family": "DejaVu Sans", "mathtext.fontset": "dejavusans"}
    with plt.style.context(["default", style]):
        figure, axes = plt.subplots(figsize=(12, 6))
        axes.set(xlim=(0, 102), ylim=(0, 101))
        axes.axis("off")
        axes.plot([51.5, 51.5], [3, 98], color="#c5ccd3", lw=1)
        stage1(axes)
        stage2(axes)
        legend(axes)
        metadata = {"Date": None} if out.suffix == ".svg" else None
        figure.savefig(out, dpi=110, bbox_inches="tight", pad_inches=0.08, facecolor="white", metadata=metadata)
        plt.close(figure)


if __name__ == "__main__":
    draw(*map(Path, sys.argv[1:2]))
