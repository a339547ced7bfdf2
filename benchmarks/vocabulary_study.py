"""Measure what text subspaces add if their phrases, their text encoder or the pictures are not the right ones.

``python -m benchmarks.vocabulary_study`` scores trained models again with other subspaces; no model is trained. The
CSGN runs are those of ``make ablation-clips``, the CLIP-ReID runs those of ``make text-study``. Two parts:

- phrases: `VOCABULARIES` and `RANDOM` in place of the default phrases, for CSGN and the frozen CLIP, on pictures of the
  setting that the CLIP was trained on;
- pictures: the default phrases for CLIP-ReID and the frozen CLIP, on pictures of each of `SETTINGS`.

Ranks are chosen on validation people for each vocabulary, as for a run's own scores; the scores are of test people.
Finished models are kept in build/vocabulary-study, and an interrupted call resumes.
Writes reports/vocabulary-study/rows.csv, one line per model, draw, seed, vocabulary, descriptor and protocol, and
differences.csv: what each descriptor adds to the plain one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pandas as pd
import torch
from torch import Tensor

from benchmarks import text_study
from benchmarks.text_study import CONDITIONS, PRESET
from benchmarks.world_rows import PROTOCOLS, SIZE, frozen
from csgn_lib import datasets, retrieval, training, vocabulary
from csgn_lib.backbones import ClipTower
from csgn_lib.batches import random_stream
from csgn_lib.config import Experiment
from csgn_lib.datasets import Benchmark
from csgn_lib.progress import track
from csgn_lib.records import InputError, Run, home, read_json, write_json, write_text
from csgn_lib.retrieval.descriptors import (
    CLOTHING_REMOVED,
    PERSON_ONLY,
    PLAIN,
    Vocabularies,
    descriptors_with,
    features_of,
)
from csgn_lib.runs.grids import read_grid
from csgn_lib.runs.sweeps import planned_cells
from csgn_lib.statistics import spread
from csgn_lib.vocabulary import ENGLISH, Phrase, Vocabulary
from csgn_lib.vss import VisualEncoder

FOLDER, RECORD = Path("build/vocabulary-study"), home() / "reports" / "vocabulary-study"
GRIDS = [home() / "reports/ablation/clips" / name / "grid.yaml" for name in ("first", "second")]
CLIPS = ("embedded", "embedded-1")
FROZEN, CLIP_REID, CSGN = "frozen CLIP", "CLIP-ReID", "CSGN"
SETTINGS = {"middle": PRESET, "calm": "calm pictures", "street": "street pictures"}  # to a condition of text_study
DEFAULT = "default phrases"
OTHER_CLIP, RANDOM = "text encoder of another CLIP", "random directions"
KEYS = ["part", "model", "setting", "vocabulary", "descriptor", "protocol"]


def few(clip: ClipTower) -> Vocabulary:
    """Six clothing and eight person phrases, as one may write them first."""
    clothing = vocabulary.clothing_phrases(
        {"upper": ("shirt",), "lower": ("trousers",)}, ("red", "blue", "black"), ("plain",)
    )
    bodies = {"stature": ("short {}", "tall {}"), "sex": ("woman", "man")}
    hair = {"short": "with short {} hair", "long": "with long {} hair"}
    person = vocabulary.person_phrases(bodies, hair, ("black", "blond"))
    haired = tuple(phrase for phrase in person if phrase.text != vocabulary.BALD)
    return Vocabulary(clothing, haired).understood_by(clip)


def incomplete(clip: ClipTower) -> Vocabulary:
    """Clothing phrases of shoes, bags and hats alone; person phrases without hair."""
    known = ENGLISH.understood_by(clip)
    small = tuple(phrase for phrase in known.clothing if phrase.factor in ("shoes", "bag", "hat"))
    return Vocabulary(small, tuple(phrase for phrase in known.person if not phrase.factor.startswith("hair")))


def exchanged(clip: ClipTower) -> Vocabulary:
    """Clothing phrases as person phrases, and person phrases as clothing phrases."""
    known = ENGLISH.understood_by(clip)
    return Vocabulary(known.person, known.clothing)


def random_words(clip: ClipTower) -> Vocabulary:
    """As many phrases with as many captions of as many words, each word drawn at random from all captions' words."""
    known, generator = ENGLISH.understood_by(clip), random_stream(0)
    texts = [text for phrase in known.clothing + known.person for text in phrase.captions]
    words = sorted({word for text in texts for word in text.split() if "-" not in word})  # words of a single token

    def drawn(text: str) -> str:
        return " ".join(words[i] for i in torch.randint(len(words), (len(text.split()),), generator=generator))

    def meaningless(phrases: Sequence[Phrase]) -> tuple[Phrase, ...]:
        return tuple(replace(phrase, captions=tuple(map(drawn, phrase.captions))) for phrase in phrases)

    return Vocabulary(meaningless(known.clothing), meaningless(known.person))


VOCABULARIES: dict[str, Callable[[ClipTower], Vocabulary]] = {
    DEFAULT: ENGLISH.understood_by,
    "a few phrases": few,
    "incomplete phrases": incomplete,
    "clothing and person phrases exchanged": exchanged,
    "sentences of random words": random_words,
}


def phrase_features(clip: ClipTower, words: Vocabulary) -> dict[str, Tensor]:
    """Text features (J, P) of the phrases for each descriptor."""
    sides = {CLOTHING_REMOVED: words.clothing, PERSON_ONLY: words.person}
    return {kind: vocabulary.phrase_features(clip, phrases) for kind, phrases in sides.items()}


def subspaces(clip: ClipTower, other: ClipTower) -> dict[str, dict[str, Tensor]]:
    """Features (J, P) whose subspaces are compared, by vocabulary and descriptor.

    Args:
        clip: the CLIP that the models started from.
        other: another CLIP of the same width, trained from another seed.
    """
    features = {name: phrase_features(clip, words(clip)) for name, words in VOCABULARIES.items()}
    features[OTHER_CLIP] = phrase_features(other, ENGLISH.understood_by(other))
    noise = random_stream(1)
    features[RANDOM] = {
        kind: torch.randn(rows.shape, generator=noise) for kind, rows in features[DEFAULT].items()
    }  # their singular vectors are uniformly random directions
    return features


@dataclass(frozen=True)
class Model:
    """An encoder and what identifies its lines of the record."""

    part: str
    name: str
    clip: str
    setting: str
    draw: int
    seed: int
    run: Run | None = None

    def encoder(self) -> VisualEncoder:
        """The trained encoder, or for a frozen CLIP the initial one."""
        return frozen(_initial(self.clip)) if self.run is None else training.load_encoder(self.run)

    @property
    def file(self) -> Path:
        """The file that keeps its scores; remove it if the model was trained again in the same folder."""
        source = "frozen" if self.run is None else self.run.dir.name
        return FOLDER / f"{self.part}-{self.clip}-{self.setting}-{self.draw}-{source}.json"

    def keys(self) -> dict[str, Any]:
        """The columns of the record that identify the model."""
        names = ("part", "clip", "setting", "draw", "seed")
        return {name: getattr(self, name) for name in names} | {"model": self.name}


def _finished(run: Run, command: str) -> Run:
    if not run.path("model.safetensors").exists():
        raise InputError(f"{run.dir} is not a finished run; `{command}` trains it")
    return run


def models(draws: int = 3) -> Iterator[Model]:
    """The models of both parts, CLIP by CLIP. Raises InputError for a run that is not finished."""
    for clip, grid in zip(CLIPS, GRIDS, strict=True):
        for cell in planned_cells(read_grid(grid)):
            if cell.name == CSGN:
                run = _finished(cell.run, "make ablation-clips")
                yield Model("phrases", CSGN, clip, "middle", run.config["world"], run.config["seed"], run)
        for draw in range(draws):
            yield Model("phrases", FROZEN, clip, "middle", draw, 0)
    for setting, condition in SETTINGS.items():
        for draw in range(draws):
            run = _finished(Run(text_study.folder_of(condition, CLIP_REID, draw)), "make text-study")
            yield Model("pictures", CLIP_REID, CLIPS[0], setting, draw, draw, run)
            yield Model("pictures", FROZEN, CLIPS[0], setting, draw, 0)


def _initial(clip: str) -> Experiment:
    return Experiment.from_parameters(preset="demo+clip-reid", clip_checkpoint=clip)


class Subspaces(Vocabularies):
    """Text subspaces of given features (J, P) for each descriptor, instead of those of a CLIP's phrases."""

    def __init__(self, features: dict[str, Tensor]) -> None:
        self.features, self._bases = features, {}


def scored(encoder: VisualEncoder, benchmark: Benchmark, spaces: dict[str, Subspaces]) -> Iterator[dict[str, Any]]:
    """Vocabulary, descriptor, rank, protocol, mean_ap and rank1: of the plain descriptor and of each vocabulary."""
    if benchmark.validation is None:
        raise InputError(f"{benchmark.root} has no validation people; they are needed to choose the ranks")
    test, validation = (retrieval.embed_benchmark(encoder, one, SIZE) for one in (benchmark, benchmark.validation))
    for number, (name, words) in enumerate(spaces.items()):
        chosen, _ = descriptors_with(words, encoder, validation, {CLOTHING_REMOVED: 0, PERSON_ONLY: 0})
        if number:
            del chosen[PLAIN]  # the same for every vocabulary
        for kind, descriptor in chosen.items():
            about = {"vocabulary": name, "descriptor": kind, "rank": descriptor.rank}
            for protocol, scores in test.scores(features_of(descriptor, words), PROTOCOLS).items():
                yield about | {"protocol": protocol, "mean_ap": scores.mean_ap, "rank1": scores.rank1}


def study(todo: Sequence[Model]) -> pd.DataFrame:
    """Score every model: one row per model, vocabulary, descriptor and protocol. `FOLDER` keeps those of each model."""
    spaces = all_subspaces() if not all(model.file.exists() for model in todo) else {}
    rows = []
    for model in track(todo, len(todo), "models"):
        if not model.file.exists():
            chosen = spaces[model.clip] if model.part == "phrases" else {DEFAULT: spaces[model.clip][DEFAULT]}
            benchmark = datasets.load("synthetic", text_study.root_of(CONDITIONS[SETTINGS[model.setting]], model.draw))
            write_json(model.file, list(scored(model.encoder(), benchmark, chosen)))
        rows += [model.keys() | scores for scores in read_json(model.file)]
    return pd.DataFrame(rows)


def all_subspaces() -> dict[str, dict[str, Subspaces]]:
    """The subspaces of every vocabulary, by CLIP."""
    clips = [training.load_towers(_initial(clip))[0] for clip in CLIPS]
    return {
        name: {words: Subspaces(features) for words, features in subspaces(clip, other).items()}
        for name, clip, other in zip(CLIPS, clips, reversed(clips), strict=True)
    }


def differences(rows: pd.DataFrame) -> pd.DataFrame:
    """What a descriptor adds to the plain one, in points of mAP.

    Returns:
        `KEYS`, the columns of ``statistics.spread`` over draws, and ``plain``: the mean plain score in percent.
    """
    of_model = ["part", "model", "clip", "setting", "draw", "seed", "protocol"]
    plain = rows[rows["descriptor"] == PLAIN].set_index(of_model)["mean_ap"]
    worded = rows[rows["descriptor"] != PLAIN].join(plain.rename("plain"), on=of_model)
    made = []
    for keys, group in worded.groupby(KEYS, sort=False):
        over = spread(100 * (group["mean_ap"] - group["plain"]), group["draw"])
        plain_score = {"plain": 100 * group["plain"].mean()}
        made.append(dict(zip(KEYS, keys, strict=True)) | over.to_dict() | plain_score)
    return pd.DataFrame(made)


def main() -> None:
    """Score all models and write the records."""
    rows = study(list(models()))
    write_text(RECORD / "rows.csv", rows.to_csv(index=False, float_format="%.6f"))
    table = differences(rows)
    write_text(RECORD / "differences.csv", table.to_csv(index=False, float_format="%.4f"))
    shown = table[table["protocol"] == PROTOCOLS[0]]
    print(shown.to_string(index=False, float_format="{:.1f}".format))


if __name__ == "__main__":
    main()
