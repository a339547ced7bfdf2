"""Vocabularies of one's own: read, checked against a tokenizer, counted in captions, kept with a run."""

from __future__ import annotations

import json
from pathlib import Path

import open_clip
import pytest
import torch
from test_models import call, make_run
from test_vocabulary import small_clip

from csgn_lib import models, retrieval, training, vocabulary
from csgn_lib.config import Experiment
from csgn_lib.records import InputError, Run
from csgn_lib.vocabulary_files import count_words, missing_words, read_captions, read_vocabulary, vocabulary_for

GOOD = """
caption: a photo of {person} wearing {clothing}
clothing:
  upper: [a red shirt, a blue shirt]
  lower: [black trousers]
person:
  stature: [a tall person, a short person]
  hair: [a person with long black hair]
wearers: [a person, a tall person]
outfits: [a red shirt, a blue shirt and black trousers]
"""
GERMAN = """
caption: ein Foto von {person} mit {clothing}
clothing: {oben: [rotem Hemd, blauem Hemd], unten: [weisser Hose]}
person: {Statur: [einem kleinen Mann, einer alten Frau], Haar: [einem Mann mit langem Haar]}
wearers: [einem Mann, einer Frau]
outfits: [rotem Hemd]
"""


@pytest.fixture
def file(tmp_path) -> Path:
    path = tmp_path / "words.yaml"
    path.write_text(GOOD, encoding="utf-8")
    return path


def test_each_phrase_has_a_caption_for_each_of_the_other_side(file):
    words = read_vocabulary(file).words
    assert [(p.factor, p.text) for p in words.clothing] == [
        ("upper", "a red shirt"), ("upper", "a blue shirt"), ("lower", "black trousers"),
    ]  # fmt: skip
    assert words.clothing[0].captions == (
        "a photo of a person wearing a red shirt",
        "a photo of a tall person wearing a red shirt",
    )
    assert words.person[2].captions == (
        "a photo of a person with long black hair wearing a red shirt",
        "a photo of a person with long black hair wearing a blue shirt and black trousers",
    )


def test_another_language_gives_the_subspaces_of_its_own_captions(tmp_path):
    (tmp_path / "words.yaml").write_text(GERMAN, encoding="utf-8")
    clip = small_clip()
    words = retrieval.Vocabularies(clip, str(tmp_path / "words.yaml"))
    features = []
    for what in ("rotem Hemd", "blauem Hemd", "weisser Hose"):
        with torch.no_grad():
            said = clip.text_features([f"ein Foto von {who} mit {what}" for who in ("einem Mann", "einer Frau")])
        features.append(torch.nn.functional.normalize(said, dim=1).mean(0))
    torch.testing.assert_close(words.basis("clothing removed", 2), vocabulary.subspace(torch.stack(features), 2))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("wearers:", "weavers:", "lacks wearers; it needs caption"),
        ("person:\n", "extra: 1\nperson:\n", "unknown key 'extra'"),
        ("{person}", "{who}", r"caption = .*; it needs \{person\} and \{clothing\}"),
        ("[black trousers]", "black trousers", "lower = 'black trousers'; write a list of texts"),
        ("[a red shirt, a blue shirt]", "[a red shirt, 7]", "upper = .*write a list of texts"),
        ("a blue shirt]\n  lower", "a red shirt]\n  lower", "clothing has 'a red shirt' twice"),
        (GOOD, "- 1", "holds no keys"),
        (GOOD, "a: [", "is not valid YAML in UTF-8"),
        (GOOD, GOOD + "\nwearers: [a person]", "'wearers' stands twice"),
    ],
)
def test_a_file_of_another_form_is_refused_by_name(file, old, new, message):
    assert old in GOOD
    file.write_text(GOOD.replace(old, new), encoding="utf-8")
    with pytest.raises(InputError, match=f"words.yaml.*{message}"):
        read_vocabulary(file)


def test_words_that_a_tokenizer_cannot_say_are_all_named(file, tmp_path):
    file.write_text(GOOD.replace("a red shirt", "a turquoise blouse"), encoding="utf-8")
    with pytest.raises(InputError, match="words.yaml: the CLIP's tokenizer cannot say 'blouse', 'turquoise'; use"):
        vocabulary_for(small_clip("a photo of person wearing tall short with long black hair blue shirt and trousers"),
                       file)  # fmt: skip
    file.write_text(GOOD.replace("a red shirt", "衬衫"), encoding="utf-8")
    full = open_clip.SimpleTokenizer()
    with pytest.raises(InputError, match="cannot say '衬衫'"):
        read_vocabulary(file).refuse_unreadable(full)
    file.write_text(GOOD.replace("a red shirt", "a red " + "very " * 80 + "shirt"), encoding="utf-8")
    with pytest.raises(InputError, match="has more tokens than the 77"):
        read_vocabulary(file).refuse_unreadable(full)
    with pytest.raises(InputError, match="none.yaml cannot be read"):
        read_vocabulary(tmp_path / "none.yaml")


CAPTIONS = {"a.jpg": ["A man in a RED shirt.", "He is tall"], "b.jpg": ["a blue shirt, black trousers"]}


@pytest.mark.parametrize("form", ["object", "list", "csv"])
def test_captions_are_read_as_public_data_sets_bring_them(tmp_path, form):
    path = tmp_path / f"captions.{'csv' if form == 'csv' else 'json'}"
    if form == "object":
        path.write_text(json.dumps(CAPTIONS))
    elif form == "list":
        path.write_text(json.dumps([{"id": 1, "file_path": name, "captions": said} for name, said in CAPTIONS.items()]))
    else:
        lines = [f'{name},"{text}"' for name, said in CAPTIONS.items() for text in said]
        path.write_text("\n".join(["img_path,caption", *lines]))
    assert read_captions(path) == CAPTIONS


def test_counts_are_of_sentences_and_images_that_use_a_phrase(file, tmp_path, capsys):
    counts = count_words(read_vocabulary(file).words, CAPTIONS)
    assert counts.set_index("phrase")["sentences"].to_dict() == {
        "a red shirt": 1, "a blue shirt": 1, "black trousers": 1, "a tall person": 1, "a short person": 0,
        "a person with long black hair": 0,
    }  # fmt: skip
    assert missing_words(read_vocabulary(file).words, CAPTIONS)["man"] == 1
    (tmp_path / "captions.json").write_text(json.dumps(CAPTIONS))
    status, out, _ = call(capsys, "words", file, tmp_path / "captions.json", "--out", tmp_path / "counts.csv")
    assert status == 0 and "in no sentence (2 of 6): a short person, a person with long black hair" in out
    assert (tmp_path / "counts.csv").read_text().splitlines()[1] == "clothing,upper,a red shirt,1,1"
    for wrong in ("[]", '{"a.jpg": []}', '[{"caption": "a coat"}]', "7"):
        (tmp_path / "captions.json").write_text(wrong)
        status, _, err = call(capsys, "words", file, tmp_path / "captions.json")
        assert status == 2 and "captions.json" in err


def test_a_vocabulary_counts_by_content_is_kept_with_the_run_and_exported(file, people, tmp_path, monkeypatch):
    from csgn_lib.models import exporting

    values = dict(
        clip_checkpoint=None, resnet_checkpoint=None, vss="none", hsf="none", stage2_epochs=0, precision="fp32",
        batch_persons=4, batch_images=2, clothing_rank=1, person_rank=1, vocabulary_train="head",
    )  # fmt: skip
    experiment = Experiment.from_parameters(**values, vocabulary_file=str(file))
    other = tmp_path / "moved.yaml"
    other.write_bytes(file.read_bytes())
    same = Experiment.from_parameters(**values, vocabulary_file=str(other))
    assert experiment.digest() == same.digest() != Experiment.from_parameters(**values).digest()
    run = training.fit(experiment, people, tmp_path / "run")
    assert run.path("vocabulary.yaml").read_bytes() == file.read_bytes()
    training.refuse_another(run, same, people)
    other.write_text(GOOD.replace("blue", "green"), encoding="utf-8")
    assert experiment.digest() != same.digest()
    with pytest.raises(InputError, match="begun with another vocabulary_file"):
        training.refuse_another(run, same, people)
    file.unlink()  # the run has its own
    monkeypatch.setattr(exporting, "missing_packages", lambda: ["onnx"])
    monkeypatch.setattr(exporting, "export_program", lambda model, path: 0.0)  # seconds, tested elsewhere
    folder = models.export(run.dir, tmp_path / "hub").folder
    read = Experiment.from_parameters(**Run(folder).config)
    assert read.vocabulary_file == str(folder / "vocabulary.yaml") and str(tmp_path / "run") not in (
        (folder / "config.json").read_text()
    )
    with pytest.raises(InputError, match="vocabulary_file=.*words.yaml does not exist"):
        experiment.digest()
    wide = Experiment.from_parameters(**values | {"person_rank": 3}, vocabulary_file=str(other))
    with pytest.raises(InputError, match="person_rank=3 needs more phrases than that, and .*moved.yaml has 3; set"):
        training.check(wide, people)


def test_a_run_is_scored_with_its_own_words(tmp_path, tiny_benchmark, file):
    run = make_run(tmp_path / "run", vss="none", vocabulary_file=str(file), clothing_rank=1, person_rank=1)
    clip, _ = training.load_towers(Experiment.from_parameters(**run.config))
    encoder = training.load_encoder(run)
    _, words, _ = retrieval.descriptors_for(encoder, clip, None, Experiment.from_parameters(**run.config))
    assert words.phrases == read_vocabulary(file).words
    assert (words.ranks("clothing removed"), words.ranks("person only")) == ([2], [2])  # three phrases each
