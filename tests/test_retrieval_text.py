"""Text queries against an implementation that ranks one image at a time."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from csgn_lib import retrieval
from csgn_lib.backbones import load_clip
from csgn_lib.records import InputError
from csgn_lib.retrieval import text_search
from csgn_lib.synthetic import attribute_prompts
from csgn_lib.vss import VisualEncoder


@pytest.fixture(scope="module")
def clip():
    return load_clip("csgn-tiny", "embedded", (96, 48)).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def truth(tiny_benchmark) -> pd.DataFrame:
    """The gallery with its true attributes and captions."""
    table = pd.read_csv(tiny_benchmark.root / "attributes.csv", dtype=str, keep_default_na=False)
    own = [name for name in table if name == "path" or name not in tiny_benchmark.gallery]
    return tiny_benchmark.gallery.merge(table[own], on="path", validate="one_to_one")


@pytest.fixture(scope="module")
def joint(clip, tiny_benchmark):
    encoder = VisualEncoder(clip, None, "none", torch.Generator()).eval()
    return retrieval.embed(encoder, tiny_benchmark.gallery, tiny_benchmark.root, (96, 48)).f


def test_captions_and_attributes_equal_loop(clip, truth, joint):
    prompts = {name: attribute_prompts()[name] for name in ("hair_style", "pattern")}
    table = text_search.evaluate_words(clip, joint, truth, truth, prompts).set_index("name")
    images = torch.nn.functional.normalize(joint).numpy()

    def slow(sentence: str, right: np.ndarray) -> tuple[float, float]:
        with torch.inference_mode():
            text = torch.nn.functional.normalize(clip.text_features([sentence]))[0].numpy()
        hits = right[np.argsort(-(images @ text), kind="stable")]
        return float(hits[0]), float(np.mean([(h + 1) / (r + 1) for h, r in enumerate(np.flatnonzero(hits))]))

    by_caption = [slow(row.caption, (truth.person == row.person).to_numpy()) for row in truth.itertuples()]
    found = table.loc["captions"]
    assert (found.rank1, found.mean_ap) == pytest.approx(tuple(np.mean(by_caption, axis=0)), abs=1e-6)
    assert found.queries == len(truth) and found.low <= found.mean_ap <= found.high
    value = truth["pattern"]
    there = {v: s for v, s in prompts["pattern"].items() if (value == v).any()}
    by_attribute = [slow(sentence, (value == v).to_numpy()) for v, sentence in there.items()]
    found = table.loc["pattern"]
    assert (found.rank1, found.mean_ap) == pytest.approx(tuple(np.mean(by_attribute, axis=0)), abs=1e-6)
    assert found.queries == len(there) and np.isnan(found.low)
    assert found.chance == pytest.approx(np.mean([(value == v).mean() for v in there]))


def test_embedded_clip_retrieves_people_by_captions(clip, truth, joint):
    row = text_search.evaluate_words(clip, joint, truth, truth).iloc[0]
    assert row.mean_ap > 1.5 * row.chance


def test_sentences_without_match_are_not_counted(clip, truth, joint):
    scores = text_search.text_to_image(np.eye(2), np.eye(2), ["a", "z"], ["a", "b"])
    assert (scores.counted, scores.dropped, scores.rank1) == (1, 1, 1.0)
    with pytest.raises(InputError, match="does not know 'zebra'"):
        text_search.evaluate_words(clip, joint, truth, truth.assign(caption="a zebra"))
    with pytest.raises(InputError, match="captions lacks the column 'caption'"):
        text_search.evaluate_words(clip, joint, truth, truth.drop(columns="caption"))
    with pytest.raises(InputError, match="images lacks the column 'shape'"):
        text_search.evaluate_words(clip, joint, truth, truth, {"shape": {"round": "a person"}})
    with pytest.raises(InputError, match="none of the 1 queries has a match"):
        text_search.text_to_image(np.ones((1, 2)), np.ones((3, 2)), ["z"], ["a", "b", "a"])
