"""What a trained small CLIP knows: zero-shot answers about people never seen, and what moves its features."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from csgn_lib.backbones import TOWERS, ClipTower, load_clip
from csgn_lib.batches import to_gray
from csgn_lib.records import write_json
from csgn_lib.synthetic import people, scenes
from csgn_lib.synthetic.pretraining.pairs import IGNORED, PRETRAINING_SEED, SIZE, Pairs, render_chunk
from csgn_lib.synthetic.pretraining.recipe import Questions


def score(out: Path = TOWERS, suffix: str = "") -> None:
    """Score the files as written: zero-shot accuracy and what moves the features; to csgn-tiny.scores.json."""
    clip = load_clip("csgn-tiny", str(out / f"csgn-tiny{suffix}.safetensors"), SIZE)
    unseen = render_chunk(10**8, 2400)
    report = {"images": len(unseen.images), "zero_shot": zero_shot(clip, unseen), "moves": colour_sensitivity(clip)}
    write_json(out / f"csgn-tiny{suffix}.scores.json", report)
    for name, value in report["zero_shot"].items():
        print(f"{name:22s} {value['accuracy']:.3f}  (majority {value['majority']:.3f})")
    print(report["moves"])


@torch.inference_mode()
def zero_shot(clip: ClipTower, pairs: Pairs) -> dict[str, dict[str, float]]:
    """Accuracy per attribute on people never seen, beside what always guessing the commonest value gives."""
    features = image_features(clip, pairs.images)
    report = {}
    questions = Questions(clip)
    for i, name in enumerate(questions.names):
        known = pairs.labels[:, i] != IGNORED
        answer = (features[known] @ questions.features(clip, [i])[0].t()).argmax(dim=1).numpy()
        truth = pairs.labels[known, i]
        majority = np.bincount(truth).max() / len(truth)
        report[name] = {"accuracy": round(float((answer == truth).mean()), 4), "majority": round(float(majority), 4)}
    return report


@torch.inference_mode()
def image_features(clip: ClipTower, images: NDArray[np.uint8], gray: bool = False) -> Tensor:
    """Unit joint features (N, P) of uint8 images (N, H, W, 3)."""
    parts = []
    for rows in np.array_split(np.arange(len(images)), max(1, len(images) // 256)):
        batch = torch.from_numpy(images[rows]).permute(0, 3, 1, 2).float() / 255
        parts.append(F.normalize(clip.visual_features(to_gray(batch) if gray else batch).zp, dim=-1))
    return torch.cat(parts)


@torch.inference_mode()
def colour_sensitivity(clip: ClipTower, people_count: int = 300) -> dict[str, float]:
    """Mean cosine distance that one change makes: clothes' colours only, gray only, the person only,
    noise only (the same scene drawn again), and one colour word in a sentence against one body word."""
    rng = np.random.default_rng((PRETRAINING_SEED, 999_983))
    shots: dict[str, list[NDArray[np.uint8]]] = {"plain": [], "recoloured": [], "person": [], "again": []}
    for _ in range(people_count):
        person, other, outfit = people.draw_person(rng), people.draw_person(rng), people.draw_outfit(rng)
        camera, seed = scenes.draw_camera(rng), int(rng.integers(1 << 31))
        changed = people.recoloured(outfit, rng)
        for name, who, wears, s in (("plain", person, outfit, seed), ("recoloured", person, changed, seed),
                                    ("person", other, outfit, seed), ("again", person, outfit, seed + 1)):  # fmt: skip
            shots[name].append(scenes.picture(who, wears, camera, np.random.default_rng(s))[0])
    features = {name: image_features(clip, np.stack(images)) for name, images in shots.items()}
    features["gray"] = image_features(clip, np.stack(shots["plain"]), gray=True)
    moved = {
        f"image_{n}": 1 - float((features["plain"] * f).sum(1).mean()) for n, f in features.items() if n != "plain"
    }
    sentences = ("a photo of a tall person wearing a red coat.", "a photo of a tall person wearing a blue coat.",
                 "a photo of a very short person wearing a red coat.")  # fmt: skip
    text = F.normalize(clip.text_features(sentences), dim=-1)
    moved |= {"text_colour_word": 1 - float(text[0] @ text[1]), "text_body_word": 1 - float(text[0] @ text[2])}
    return {name: round(value, 4) for name, value in moved.items()}
