"""Use of a trained model: embedding, search, export, model card, and errors."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from csgn_lib import models, retrieval, training
from csgn_lib.__main__ import main
from csgn_lib.config import Experiment
from csgn_lib.models import exporting, galleries, programs
from csgn_lib.records import InputError, Run, write_json
from csgn_lib.training.steps import save_tensors
from csgn_lib.vss import VisualEncoder

SCORE = {
    "rank1": 0.3325, "mean_ap": 0.36482, "minp": 0.227, "counted": 391, "dropped": 9,
    "rank1_interval": [0.2624, 0.3975], "mean_ap_interval": [0.3169, 0.4136], "minp_interval": [0.1834, 0.2728],
}  # fmt: skip
ALONE = SCORE | {f"{name}_interval": [None, None] for name in ("rank1", "mean_ap", "minp")} | {"counted": 2}
RESULTS = {"plain": {"protocols": {"cloth_changing": SCORE, "general": ALONE}}}
BENCHMARK = {"benchmark": "synthetic", "manifest": "ab" * 32, "images": {"train": 192, "query": 48}, "left_out": []}


def make_run(folder: Path, seed: int = 0, **changes: Any) -> Run:
    """A run's folder as training and scoring leave it, with random weights."""
    values = {"clip_checkpoint": None, "resnet_checkpoint": None, "vss": "steer"} | changes
    experiment = Experiment.from_parameters(**values)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        towers = training.load_towers(experiment.model_copy(update={"clip_checkpoint": None}))
    encoder = VisualEncoder(*towers, experiment.vss, torch.Generator().manual_seed(seed))
    for name in ("gamma", "gate"):  # 0 before training: the joined branch would not be seen
        if hasattr(getattr(encoder, "join", None), name):
            torch.nn.init.constant_(getattr(encoder.join, name), 0.5)
    run = Run(folder)
    write_json(run.path("config.json"), experiment.model_dump(mode="json"))
    save_tensors(encoder.state_dict(), run.path("model.safetensors"))
    write_json(run.path("results.json"), RESULTS)
    write_json(run.path("benchmark.json"), BENCHMARK)
    return run


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    """Not to be written to."""
    return make_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def model(run) -> models.Model:
    return models.open_model(run.dir, "cpu")


@pytest.fixture(scope="module")
def photos(tmp_path_factory, tiny_benchmark) -> Path:
    """Seven images in folders, and what is not to be embedded."""
    folder = tmp_path_factory.mktemp("photos")
    names = ["b.png", "B.JPG", "a/z.png", "a/deep/er/1.jpeg", "a/deep/2.bmp", "c d.webp", "é.tiff"]
    for name, path in zip(names, tiny_benchmark.query.path, strict=False):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.open(tiny_benchmark.root / path).save(folder / name)
    for name in ("notes.txt", ".hidden.png", "a/._1.jpg", ".git/x.png", "__MACOSX/b.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("no image")
    return folder


@pytest.fixture(scope="module")
def gallery_file(model, photos, tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("gallery") / "g.safetensors"
    models.embed_folder(model, photos, file)
    return file


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory) -> models.Exported:
    return models.export(run.dir, tmp_path_factory.mktemp("hub") / "new" / "model")


def call(capsys, *arguments: Any) -> tuple[int, str, str]:
    """(status, standard output, standard error) of one command."""
    with pytest.raises(SystemExit) as left:
        main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return left.value.code, captured.out, captured.err


def test_images_are_listed_recursively_in_order(photos):
    assert models.list_images(photos) == [
        "B.JPG", "a/deep/2.bmp", "a/deep/er/1.jpeg", "a/z.png", "b.png", "c d.webp", "é.tiff",
    ]  # fmt: skip


def test_descriptors_equal_scored_ones(model, tiny_benchmark):
    frame = tiny_benchmark.query[:5]
    found = models.describe(model, tiny_benchmark.root, list(frame.path), batch_size=2)
    scored = retrieval.embed(model.encoder, frame, tiny_benchmark.root, (96, 48))
    expected = retrieval.features_of(retrieval.Descriptor(("z12", "f", "c")))(scored)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert found.dtype == np.float32 and found.shape[1] == model.width


def test_gallery_file_names_images_and_model(gallery_file, model, photos):
    with safe_open(gallery_file, framework="numpy") as file:
        header, features = file.metadata(), file.get_tensor("features")
    assert json.loads(header["paths"]) == [f"{photos}/{name}" for name in models.list_images(photos)]
    assert (header["model"], header["descriptor"]) == (model.digest, "[z12; f; c]")
    assert json.loads(header["folders"]) == [str(photos)]
    alone = models.describe(model, photos, ["c d.webp"])
    np.testing.assert_allclose(features[[5]], alone, atol=1e-6)


@pytest.mark.parametrize("content", [b"no image", b""])
def test_unreadable_image_keeps_existing_index(model, photos, tmp_path, content):
    folder, out = tmp_path / "photos", tmp_path / "out" / "g.safetensors"
    shutil.copytree(photos, folder)
    (folder / "a" / "broken.jpg").write_bytes(content)
    models.embed_folder(model, photos, out)
    before = out.read_bytes()
    with pytest.raises(InputError, match=r"a/broken\.jpg cannot be read as an image"):
        models.embed_folder(model, folder, out, batch_size=2)
    assert out.read_bytes() == before and list(out.parent.iterdir()) == [out]


def test_failed_write_keeps_existing_index(model, photos, tmp_path, monkeypatch):
    def full(tensors, path, metadata):
        Path(path).write_bytes(b"half")
        raise OSError("no space left on device")

    out = tmp_path / "g.safetensors"
    models.embed_folder(model, photos, out)
    before = out.read_bytes()
    monkeypatch.setattr(galleries, "save_file", full)
    with pytest.raises(InputError, match="g.safetensors cannot be written .no space.*make room"):
        models.embed_folder(model, photos, out)
    assert out.read_bytes() == before and list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize("content", [b"\xff\xd8 a photograph", b"", None])
def test_other_files_are_not_replaced(model, photos, tmp_path, content):
    out = tmp_path / "who.jpg"
    content = (photos / "b.png").read_bytes() if content is None else content
    out.write_bytes(content)
    with pytest.raises(InputError, match="who.jpg exists and is no index of csgn embed; name another file"):
        models.embed_folder(model, photos, out)
    assert out.read_bytes() == content


def test_invalid_embed_arguments_are_refused(model, photos, tmp_path):
    (tmp_path / "empty" / "er").mkdir(parents=True)
    out = tmp_path / "g.safetensors"
    for folder, words in ((tmp_path / "empty", "holds no image"), (tmp_path / "none", "is not a folder")):
        with pytest.raises(InputError, match=words):
            models.embed_folder(model, folder, out)
    with pytest.raises(InputError, match="name a file in it"):
        models.embed_folder(model, photos, tmp_path)
    assert not out.exists()


def test_search_equals_sorting_by_cosine(model, photos, gallery_file):
    gallery = models.read_gallery(gallery_file)
    found = models.search(model, photos / "a" / "z.png", gallery, k=100)
    query = models.describe(model, photos, ["a/z.png"])[0]
    cosines = [float(query @ row / np.linalg.norm(query) / np.linalg.norm(row)) for row in gallery.features]
    order = sorted(range(7), key=lambda row: -cosines[row])
    assert list(found.path) == [gallery.paths[row] for row in order]
    np.testing.assert_allclose(found.distance, [1 - cosines[row] for row in order], atol=1e-6)
    assert list(found["rank"]) == [1, 2, 3, 4, 5, 6, 7] and found.path[0] == str(photos / "a/z.png")
    assert len(models.search(model, photos / "b.png", gallery, k=3)) == 3


def test_gallery_of_another_model_is_refused(photos, gallery_file, tmp_path):
    other = models.open_model(make_run(tmp_path, seed=1).dir, "cpu")
    with pytest.raises(InputError, match=f"by another model .*csgn embed {tmp_path}"):
        models.search(other, photos / "b.png", models.read_gallery(gallery_file))


def test_model_digest_covers_embedding_parameters_only(tmp_path):
    run = make_run(tmp_path, vss="resnet", hsf="none")
    first, config = models.model_digest(run), run.config
    write_json(run.path("config.json"), config | {"root": "/data/x", "seed": 7, "resnet_checkpoint": "embedded"})
    assert models.model_digest(run) == first
    write_json(run.path("config.json"), config | {"image_height": 64})  # the same weights, other pixels
    assert models.open_model(run.dir, "cpu").digest != first


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (lambda file: file.unlink(), "does not exist; make it: csgn embed"),
        (lambda file: file.write_bytes(file.read_bytes()[:-9]), "was not written by csgn embed, or is damaged"),
        (lambda file: save_tensors({"query": torch.ones(2, 3)}, file), "was not written by csgn embed"),
        (lambda file: save_tensors({"features": torch.ones(2, 3)}, file), "was not written by csgn embed"),
    ],
)
def test_invalid_gallery_file_is_refused(gallery_file, tmp_path, broken, words):
    file = tmp_path / "g.safetensors"
    shutil.copyfile(gallery_file, file)
    broken(file)
    with pytest.raises(InputError, match=words):
        models.read_gallery(file)


def _write(name: str, content: str) -> Any:
    return lambda run: run.path(name).write_text(content)


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (lambda run: run.path("config.json").unlink(), "holds no config.json"),
        (lambda run: run.path("model.safetensors").unlink(), "the run is not finished"),
        (_write("model.safetensors", "x"), "model.safetensors is damaged"),
        (_write("config.json", '{"architectures": []}'), "config.json was written by another library.*'architectures'"),
        (_write("config.json", "[]"), "in place of a JSON object"),
        (lambda run: write_json(run.path("config.json"), run.config | {"vss": "none"}), "does not fit its config.json"),
        (lambda run: shutil.rmtree(run.dir), "is not a folder"),
    ],
)
def test_invalid_model_folder_is_refused(run, tmp_path, broken, words):
    copied = Run(shutil.copytree(run.dir, tmp_path / "run"))
    broken(copied)
    with pytest.raises(InputError, match=words):
        models.open_model(copied.dir, "cpu")


@pytest.mark.parametrize("variant", ["cross_attention", "resnet"])  # steer and none are exported below
def test_every_variant_exports_with_free_batch_size(tmp_path, variant):
    model = models.open_model(make_run(tmp_path, vss=variant, hsf="none").dir, "cpu")
    assert models.export_program(model, tmp_path / "model.pt2") <= 1e-5
    program = torch.export.load(tmp_path / "model.pt2").module()
    images = torch.randint(0, 256, (3, 3, 96, 48), dtype=torch.uint8)
    torch.testing.assert_close(program(images), model.encoder(images).descriptor(), atol=1e-5, rtol=0)
    assert program(images[:1]).shape == (1, model.width)
    assert models.export_onnx(model, tmp_path / "model.onnx") <= 1e-5


def test_exported_program_runs_without_library(exported, model, tmp_path):
    code = (
        "import sys, torch; about = {'about.json': ''}; p = torch.export.load(sys.argv[1], extra_files=about).module();"
        "print(list(p(torch.zeros(4, 3, 96, 48, dtype=torch.uint8)).shape), 'csgn_lib' in sys.modules);"
        "print(about['about.json'])"
    )
    command = [sys.executable, "-c", code, exported.folder / "model.pt2"]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    first, about = ran.stdout.splitlines()
    assert first == f"[4, {model.width}] False"
    assert json.loads(about)["model"] == model.digest and sum(json.loads(about)["parts"].values()) == model.width


def test_difference_is_maximum_over_batch_sizes():
    def wrong(images: torch.Tensor) -> torch.Tensor:
        return images.float() + (0.25 if len(images) == 2 else 0)

    assert models.difference(lambda images: images.float(), wrong, (4, 2)) == 0.25
    assert models.difference(lambda images: images.float(), wrong, (4, 2), batches=(1, 5)) == 0
    assert models.difference(torch.Tensor.float, lambda images: images * float("nan"), (4, 2)) > 1e30


def test_differing_program_is_not_written(tmp_path, monkeypatch):
    run = make_run(tmp_path / "run", vss="resnet", hsf="none")
    monkeypatch.setattr(programs, "difference", lambda *arguments: 2e-4)
    with pytest.raises(InputError, match=r"differ from the encoder by 2\.0e-04, more than 1e-04"):
        models.export(run.dir, tmp_path / "out")
    assert list(tmp_path.iterdir()) == [run.dir]


def test_exported_folder_can_be_opened(exported, run, model):
    again = models.open_model(exported.folder, "cpu")
    images = torch.randint(0, 256, (2, 3, 96, 48), dtype=torch.uint8)
    with torch.no_grad():
        expected = training.load_encoder(run)(images).parts()
        found = training.load_encoder(Run(exported.folder))(images).parts()
    assert expected.keys() == found.keys() and all((found[name] == expected[name]).all() for name in found)
    assert again.digest == model.digest and Run(exported.folder).results == run.results
    assert exported.differences["model.pt2"] <= models.TOLERANCE


def test_onnx_runs_without_torch(exported, model, tmp_path):
    code = (
        "import sys, numpy, onnxruntime as o; s = o.InferenceSession(sys.argv[1], providers=['CPUExecutionProvider']);"
        "run = lambda images: s.run(['descriptor'], {'images': images})[0]; images = numpy.load(sys.argv[2]);"
        "numpy.save(sys.argv[3], numpy.concatenate([run(images), run(images[:1]), run(images[1:4])]));"
        "print('torch' in sys.modules, 'csgn_lib' in sys.modules, s.get_inputs()[0].shape, s.get_inputs()[0].type)"
    )
    images = torch.randint(0, 256, (7, 3, 96, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    np.save(tmp_path / "images.npy", images.numpy())
    files = [exported.folder / "model.onnx", tmp_path / "images.npy", tmp_path / "found.npy"]
    ran = subprocess.run([sys.executable, "-c", code, *files], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert ran.stdout == "False False ['batch', 3, 96, 48] tensor(uint8)\n"
    with torch.no_grad():
        expected = model.encoder(images).descriptor()
    expected = torch.cat([expected, expected[:1], expected[1:4]])
    torch.testing.assert_close(torch.from_numpy(np.load(files[2])), expected, atol=1e-5, rtol=0)
    assert exported.missing == [] and exported.differences["model.onnx"] <= 1e-5
    assert "`model.onnx`" in (exported.folder / "README.md").read_text()


def test_missing_onnx_packages_are_named(model, tmp_path, monkeypatch):
    monkeypatch.setattr(programs.importlib.util, "find_spec", lambda name: None if name == "onnxscript" else name)
    assert programs.missing_packages() == ["onnxscript"]
    with pytest.raises(InputError, match=r'ONNX needs onnxscript: pip install -e "\.\[export\]"'):
        models.export_onnx(model, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_differing_onnx_is_not_written(model, tmp_path, monkeypatch):
    written = []

    def write(module, example, path, **options):
        written.append((len(example[0]), options["external_data"]))
        Path(path).write_text("onnx")

    monkeypatch.setattr(programs, "missing_packages", list)
    monkeypatch.setattr(torch.onnx, "export", write)
    monkeypatch.setattr(programs, "_onnx_function", lambda path: lambda images: torch.full((1, 1), float(len(images))))
    with pytest.raises(InputError, match=r"model\.onnx would differ"):
        models.export_onnx(model, tmp_path / "model.onnx")
    assert written == [(2, False)] and not list(tmp_path.iterdir())


def test_model_card_is_valid_and_has_recorded_numbers(exported, model):
    card = huggingface_hub.ModelCard.load(exported.folder / "README.md")
    assert card.data.license == "apache-2.0" and card.data.library_name == "csgn-workbench"
    assert "person-re-identification" in card.data.tags
    headline = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert headline == {"rank1": 33.2, "mean_ap": 36.5, "minp": 22.7}
    assert "| `cloth_changing` | 33.2 [26.2, 39.8] | 36.5 [31.7, 41.4] | 22.7 [18.3, 27.3] | 391 | 9 |" in card.text
    assert "| `general` | 33.2 | 36.5 | 22.7 | 2 | 9 |" in card.text
    assert "192 train, 48 query images; 0 left out" in card.text and "ab" * 32 in card.text
    assert model.digest in card.text and "$" not in card.text
    for heading in ("Limits", "Intended use", "Responsible use", "License"):
        assert f"\n## {heading}\n\n" in card.text


def test_model_card_without_records_and_with_licensed_data(tmp_path):
    weights = "/somewhere/of/mine/ViT.safetensors"
    values = {"benchmark": "ltcc", "root": "/data/mine", "vss": "none", "clip_checkpoint": weights}
    run = make_run(tmp_path / "run", **values)
    for name in ("results.json", "benchmark.json"):
        run.path(name).unlink()
    folder = models.export(run.dir).folder
    assert folder == tmp_path / "run" / "export"
    card = huggingface_hub.ModelCard.load(folder / "README.md")
    assert (card.data.license, card.data.license_name) == ("other", "ltcc-terms") and not card.data.eval_results
    assert "Not scored" in card.text and "are not recorded" in card.text and "drawn" not in card.text
    everything = "".join(path.read_text() for path in folder.iterdir() if path.suffix in (".json", ".md"))
    assert "mine" not in everything and Run(folder).config["clip_checkpoint"] == "ViT.safetensors"


@pytest.mark.parametrize(("name", "content"), [("results.json", '{"a": 1}'), ("benchmark.json", "[]")])
def test_invalid_record_is_named(run, tmp_path, name, content):
    copied = Run(shutil.copytree(run.dir, tmp_path / "run"))
    copied.path(name).write_text(content)
    with pytest.raises(InputError, match=name):
        models.write_card(models.open_model(copied.dir, "cpu"), tmp_path / "README.md")


def test_export_replaces_only_exports(run, exported, tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, "export_program", lambda model, path: path.write_text("x") * 0.0)
    monkeypatch.setattr(exporting, "missing_packages", lambda: ["onnx"])
    out = Path(shutil.copytree(exported.folder, tmp_path / "out"))
    (out / "README.md").write_text("old")
    models.export(run.dir, out)
    assert (out / "README.md").read_text() != "old"
    other = make_run(tmp_path / "other", seed=1)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "README.md").write_text("mine")
    for model_dir, folder, words in (
        (other.dir, out, "holds something else"),
        (run.dir, tmp_path / "mine", "holds something else"),
        (run.dir, tmp_path / "mine" / "README.md", "is a file"),
        (other.dir, tmp_path / "mine" / ".." / "other", "the model's own folder"),
    ):
        with pytest.raises(InputError, match=words):
            models.export(model_dir, folder)
    assert (tmp_path / "mine" / "README.md").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "other", "out"]


def test_command_line_embeds_searches_and_exports(capsys, photos, tmp_path, monkeypatch):
    run = make_run(tmp_path / "run", vss="resnet", hsf="none")
    monkeypatch.setattr(exporting, "missing_packages", lambda: ["onnx"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    file, hub = tmp_path / "g.safetensors", tmp_path / "hub"
    status, out, err = call(capsys, "embed", run.dir, photos, "--out", file)
    assert (
        status == 0
        and out.startswith("7 images, [c] of 256 numbers")
        and out.endswith(f"{file}\n")
        and "no image" not in err
    )
    status, out, _ = call(capsys, "export", run.dir, "--out", hub)
    assert status == 0 and out.startswith("model.pt2: largest difference from the encoder ")
    assert out.endswith(f'model.onnx was not written; install onnx: pip install -e ".[export]"\n{hub}\n')
    status, out, err = call(capsys, "search", hub, photos / "b.png", "--gallery", file, "-k", "2")
    lines = out.splitlines()
    assert status == 0 and err == "" and len(lines) == 3 and lines[0].split() == ["rank", "distance", "path"]
    assert lines[1].split() == ["1", "0.0000", str(photos / "b.png")]


@pytest.mark.parametrize("command", ["embed", "search", "export"])
def test_command_line_errors_are_one_line(capsys, photos, gallery_file, tmp_path, command):
    nothing = tmp_path / "none"
    arguments = {
        "embed": ["embed", nothing, photos, "--out", tmp_path / "g.safetensors"],
        "search": ["search", nothing, photos / "b.png", "--gallery", gallery_file],
        "export": ["export", nothing],
    }[command]
    status, out, err = call(capsys, *arguments)
    assert status == 2 and out == "" and err.count("\n") == 1 and f"csgn: {nothing} is not a folder" in err
    assert not list(tmp_path.iterdir())
