"""CLIP and ResNet against open_clip's and timm's own calls, and errors for unsuitable files."""

from __future__ import annotations

import argparse
import copy
import json
import os
import pickle
import socket
from functools import partial
from pathlib import Path

import numpy as np
import open_clip
import pytest
import timm
import torch
from open_clip.modified_resnet import ModifiedResNet
from safetensors.torch import save_file
from small_eva import EVA
from timm.layers import BlurPool2d
from timm.models.resnet import Bottleneck, ResNet

from csgn_lib import backbones, models
from csgn_lib.backbones import ClipTower, CompactTokenizer, checkpoints, load_clip, load_resnet, tiny_words
from csgn_lib.config import Experiment
from csgn_lib.records import InputError, Run
from csgn_lib.vss import VisualEncoder

TEXTS = ["a photo of a tall person", "a photo of a person wearing a red coat, a blue skirt and black boots.", "a hat"]
SIZE = (96, 48)


@timm.models.register_model
def csgn_test_bottleneck(pretrained: bool = False, **kwargs: object) -> ResNet:
    for name in ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"):
        kwargs.pop(name, None)
    if pretrained:
        raise OSError("no route to the hub")
    return ResNet(Bottleneck, layers=(1, 1, 1, 1), channels=(8, 8, 16, 16), **kwargs)


@timm.models.register_model
def csgn_test_blur(pretrained: bool = False, **kwargs: object) -> ResNet:
    return csgn_test_bottleneck(pretrained, aa_layer=BlurPool2d, **kwargs)


@timm.models.register_model
def csgn_test_pooled_shortcut(pretrained: bool = False, **kwargs: object) -> ResNet:
    return csgn_test_bottleneck(pretrained, avg_down=True, **kwargs)


@pytest.fixture(scope="module")
def add_model(tmp_path_factory):
    """Give open_clip a small model of its own kind: 32 x 32, patch 8, two layers, width 32."""

    def add(name: str, vision: dict | None = None, text: dict | None = None) -> str:
        file = tmp_path_factory.mktemp("config") / f"{name}.json"
        vision = {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8} | (vision or {})
        text = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2} | (text or {})
        custom = "timm_model_name" in vision
        content = {"embed_dim": 16, "vision_cfg": vision, "text_cfg": text, "custom_text": custom}
        file.write_text(json.dumps(content))
        open_clip.add_model_config(file)
        return name

    return add


@pytest.fixture(scope="module")
def square(add_model) -> str:
    return add_model("csgn-test-square")


@pytest.fixture(scope="module")
def overlapping(add_model) -> str:
    return add_model("csgn-test-patch16", {"image_size": 64, "patch_size": 16})


@pytest.fixture(scope="module")
def eva(add_model) -> str:
    vision = {"timm_model_name": EVA, "timm_model_pretrained": False, "timm_pool": "token"}
    return add_model("csgn-test-eva", vision | {"timm_proj": None})


@pytest.fixture
def offline(monkeypatch) -> list:
    """Every attempt to reach another machine, which also fails."""
    tried: list = []

    def refuse(self: socket.socket, address: object) -> None:
        tried.append(address)
        raise OSError(f"test reached for {address}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *where, **_: refuse(None, where))
    return tried


def pictures(count: int, height: int, width: int) -> torch.Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(3))


# ---------------------------------------------------------------- the ViT and the text tower


@torch.no_grad()
def test_visual_features_equal_open_clip_at_two_depths(random_clip):
    seen: dict[str, torch.Tensor] = {}
    blocks, images = random_clip.visual.transformer.resblocks, pictures(3, *SIZE)
    hooks = [block.register_forward_hook(lambda *call, name=i: seen.update({name: call[-1]}))
             for i, block in enumerate(blocks)]  # fmt: skip
    normalised = (images - torch.tensor(random_clip.visual.preprocess_cfg["mean"]).view(3, 1, 1)) / torch.tensor(
        random_clip.visual.preprocess_cfg["std"]
    ).view(3, 1, 1)
    expected = random_clip.model.encode_image(normalised)
    [hook.remove() for hook in hooks]
    features = random_clip.visual_features(images, tokens=True)
    last = random_clip.visual.ln_post(seen[len(blocks) - 1])
    torch.testing.assert_close(features.zp, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(features.z11, seen[len(blocks) - 2][:, 0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(features.z12, last[:, 0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(features.tokens, last[:, 1:], rtol=1e-5, atol=1e-5)
    assert features.tokens.shape == (3, 12 * 6, random_clip.width) and features.zp.shape == (3, random_clip.embed_dim)


@torch.no_grad()
def test_text_features_equal_open_clip(random_clip):
    expected = random_clip.model.encode_text(random_clip.tokenize(TEXTS))
    torch.testing.assert_close(random_clip.text_features(TEXTS), expected, rtol=1e-5, atol=1e-6)
    assert (expected[0] - expected[1]).abs().max() > 1e-3  # a random text tower does tell texts apart


@torch.no_grad()
def test_custom_text_clip_and_full_vocabulary(square, add_model):
    for name, custom in ((square, False), (add_model("csgn-test-custom"), True)):
        model = open_clip.create_model(name, force_custom_text=custom)
        tower = ClipTower(model, open_clip.get_tokenizer(name), (0.5,) * 3, (0.5,) * 3)
        expected = model.encode_text(open_clip.get_tokenizer(name)(TEXTS))
        torch.testing.assert_close(tower.text_features(TEXTS), expected, rtol=1e-5, atol=1e-6)
        assert (tower.text is model) != custom


def test_tokens_after_end_of_text_have_no_influence(random_clip):
    tokens = random_clip.tokenize(TEXTS)
    end = tokens.argmax(dim=-1)
    words = random_clip.embed_tokens(tokens).detach()
    with torch.no_grad():
        whole = random_clip.prompt_features(words, end)
        noisy = words.clone()
        for row, stop in enumerate(end):
            noisy[row, stop + 1 :] = 9.0
        torch.testing.assert_close(random_clip.prompt_features(noisy, end), whole, rtol=0, atol=0)
        for row, stop in enumerate(end):  # alone, cut at its own end
            alone = random_clip.prompt_features(words[row : row + 1, : stop + 1], end[row : row + 1])
            torch.testing.assert_close(alone[0], whole[row], rtol=1e-4, atol=1e-5)
    words.requires_grad_(True)
    learning = random_clip.prompt_features(words, end)
    torch.testing.assert_close(learning.detach(), whole, rtol=1e-4, atol=1e-5)  # another attention kernel
    learning.sum().backward()
    for row, stop in enumerate(end):
        assert (words.grad[row, : stop + 1].abs().sum(dim=1) > 0).all()
        assert (words.grad[row, stop + 1 :] == 0).all()


@pytest.mark.parametrize(("recompute", "precision"), [(False, "fp32"), (True, "fp32"), (False, "bf16")])
def test_class_token_only_pass_equals_full_pass(random_clip, recompute, precision):
    """The same features and the same gradients of every weight, whether the last block computes all its tokens."""
    visual, images, found = copy.deepcopy(random_clip.visual).requires_grad_(True), pictures(3, *SIZE), []
    for tokens in (True, False):
        visual.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            features = backbones.vit_features(visual, images, recompute, tokens)
        (features.zp.float().sin() + features.z12.float() ** 2 + features.z11.float() ** 2).sum().backward()
        assert (features.tokens is not None) == tokens
        gradients = [value.grad.clone() for value in visual.parameters()]
        found.append([features.z11.float(), features.z12.float(), features.zp.float(), *gradients])
    close = 1e-5 if precision == "fp32" else 3e-2
    for whole, alone in zip(*found, strict=True):
        torch.testing.assert_close(alone, whole, rtol=close, atol=close * float(whole.detach().abs().max()))
    assert all(gradient.abs().max() > 0 for gradient in found[1][3:])


def test_vit_without_class_token_is_refused(add_model):
    for vision in ({"pool_type": "avg"}, {"attentional_pool": True}):
        with pytest.raises(InputError, match="no class token"):
            load_clip(add_model(f"csgn-test-{next(iter(vision))}", vision), None, (32, 32))


# ---------------------------------------------------------------- the compact tokenizer


def test_compact_ids_keep_order():
    compact = CompactTokenizer(tiny_words(), 64)
    full = open_clip.SimpleTokenizer(context_length=64)
    small, large = compact(TEXTS), full(TEXTS)
    assert small.shape == (3, 64) and small.dtype == torch.int64
    assert sorted(compact.ids.values()) == list(range(len(compact.ids))) and small.max() < 108  # rows of csgn-tiny
    assert all(compact.ids[int(old)] == int(new) for old, new in zip(large.flatten(), small.flatten(), strict=True))
    assert torch.equal(small.argmax(dim=-1), large.argmax(dim=-1))
    assert ((small == 0) == (large == 0)).all()  # padding, and nothing else, is 0


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("a photo of a zebra", "zebra"),
        ("a tail", "tail"),  # the end of ponytail, which it did read
        ("what a person!", "!"),
        ("a person in überhosen", "hosen"),
    ],
)
def test_unknown_word_is_named(text, word):
    with pytest.raises(InputError, match=f"does not know .*{word}"):
        CompactTokenizer(tiny_words(), 64)([text])


def test_too_long_text_is_refused():
    compact = CompactTokenizer(tiny_words(), 8)
    assert compact(["a photo of a tall person"])[0, -1] == max(compact.ids.values())
    with pytest.raises(InputError, match="9 tokens, more than 8"):
        compact(["a photo of a very tall person"])


# ---------------------------------------------------------------- loading a CLIP


class Payload:
    """A pickle that makes a file when it is loaded carelessly."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.file),)


def test_malicious_pickle_is_refused(tmp_path):
    trace = tmp_path / "executed"
    torch.save({"state_dict": Payload(trace)}, tmp_path / "evil.pt")
    with open(tmp_path / "plain.pkl", "wb") as file:
        pickle.dump({"visual.proj": Payload(trace)}, file, protocol=2)
    for name in ("evil.pt", "plain.pkl"):
        with pytest.raises(InputError, match=f"{name} .*run code; save the tensors as safetensors"):
            load_clip("csgn-tiny", str(tmp_path / name), SIZE)
        with pytest.raises(InputError, match=f"{name} .*run code; save the tensors as safetensors"):
            load_resnet("csgn_tiny_resnet", str(tmp_path / name))
        assert not trace.exists()
    torch.load(tmp_path / "evil.pt", weights_only=False)
    assert trace.exists()  # the file was dangerous


@pytest.mark.filterwarnings("ignore:.*torch.jit:")
def test_torchscript_archive_is_refused(tmp_path):
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "jit.pt")  # OpenAI's own files are such
    with pytest.raises(InputError, match="jit.pt .*TorchScript.* save its state_dict.. as safetensors"):
        load_clip("csgn-tiny", str(tmp_path / "jit.pt"), SIZE)


def test_non_checkpoint_files_are_named(random_clip, tmp_path):
    (tmp_path / "hello.safetensors").write_bytes(b"hello")
    (tmp_path / "empty.pt").write_bytes(b"")
    torch.save({}, tmp_path / "nothing.pt")
    torch.save([torch.zeros(1)], tmp_path / "list.pt")
    save_file(random_clip.model.state_dict(), tmp_path / "cut.safetensors")
    torch.save(random_clip.model.state_dict(), tmp_path / "cut.pt")
    for name in ("cut.safetensors", "cut.pt"):
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-5000])
    for name, why in (
        ("hello.safetensors", ".*header too small"),
        ("cut.safetensors", ".*file not fully covered"),
        ("cut.pt", "PytorchStreamReader failed"),
        ("empty.pt", "it is empty"),
        ("nothing.pt", "it holds no tensors by name"),
        ("list.pt", "it holds no tensors by name"),
    ):
        words = f"checkpoint .*{name} cannot be loaded into csgn-tiny: {why}.*; copy it again, or give another file"
        with pytest.raises(InputError, match=words) as caught:
            load_clip("csgn-tiny", str(tmp_path / name), SIZE)
        assert str(caught.value).endswith("file") and "\n" not in str(caught.value) and len(str(caught.value)) < 400


WRAPPED = {
    "plain": lambda state: state,
    "state_dict": lambda state: {"state_dict": state, "epoch": 3},
    "model": lambda state: {"model": state, "args": argparse.Namespace(lr=0.1), "best": np.float64(0.5)},
    "model_state_dict": lambda state: {"model_state_dict": state, "optimizer_state_dict": {"state": {}, "groups": [1]}},
    "nested": lambda state: {"model": {"state_dict": state}},
    "under a name of its own": lambda state: {"weights": state, "step": 5},
    "compiled": lambda state: {f"_orig_mod.{name}": value for name, value in state.items()},
    "ddp of ddp": lambda state: {f"module.module.{name}": value for name, value in state.items()},
    "ddp of compiled": lambda state: {"model": {f"module._orig_mod.{name}": value for name, value in state.items()}},
    "lightning": lambda state: {"state_dict": {f"model.{name}": value for name, value in state.items()}},
    "backbone": lambda state: {f"backbone.{n}": v for n, v in state.items()} | {"classifier.weight": torch.zeros(3, 4)},
}


@pytest.mark.parametrize("form", WRAPPED)
def test_checkpoint_wrappers_are_removed(form, random_clip, tmp_path):
    resnet = load_resnet("csgn_tiny_resnet", None).model
    for model, load in ((random_clip.model, partial(load_clip, "csgn-tiny", image_size=SIZE)),
                        (resnet, partial(load_resnet, "csgn_tiny_resnet"))):  # fmt: skip
        state = {name: torch.rand_like(v) if v.is_floating_point() else v for name, v in model.state_dict().items()}
        torch.save(WRAPPED[form](state), tmp_path / "weights.pth")
        loaded = load(checkpoint=str(tmp_path / "weights.pth")).model.state_dict()
        assert all(torch.equal(loaded[name], value) for name, value in state.items())


def test_safetensors_with_other_suffix(random_clip, tmp_path):
    save_file(random_clip.model.state_dict(), tmp_path / "weights.bin")
    torch.save(random_clip.model.state_dict(), tmp_path / "weights.safetensors")
    for name in ("weights.bin", "weights.safetensors"):
        assert load_clip("csgn-tiny", str(tmp_path / name), SIZE).checkpoint == tmp_path / name


def test_checkpoint_without_weights_is_described(random_clip, tmp_path):
    state = random_clip.model.state_dict()
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 1\n"
    (tmp_path / "lfs.safetensors").write_bytes(pointer)
    (tmp_path / "lfs.pt").write_bytes(pointer)
    (tmp_path / "page.pt").write_bytes(b"\n<!DOCTYPE html><html><body>404</body></html>")
    torch.save(state | {"visual.proj": state["visual.proj"] * float("nan")}, tmp_path / "nan.pt")
    torch.save({"student": state, "teacher": state}, tmp_path / "two.pt")
    torch.save({"model": state, "cfg": Path("x")}, tmp_path / "path.pt")
    for name, words in (
        ("lfs.safetensors", "it is a Git LFS pointer, not the file itself; fetch that: git lfs pull, or give another"),
        ("lfs.pt", "it is a Git LFS pointer"),
        ("page.pt", "it is a web page; download the file itself"),
        ("nan.pt", "visual.proj holds NaN: the training that wrote it diverged; give an earlier one"),
        ("two.pt", "it holds several: student, teacher; save one of them alone"),
        ("path.pt", "a pickle with a pathlib.PosixPath, which would run code; save the tensors as safetensors"),
    ):
        with pytest.raises(InputError, match=rf"{name} cannot be loaded into csgn-tiny: .*{words}"):
            load_clip("csgn-tiny", str(tmp_path / name), SIZE)


@pytest.mark.parametrize(("model", "twin"), [("ViT-B-16", "ViT-B-16-quickgelu"), ("ViT-L-14", "ViT-L-14-quickgelu")])
def test_wrong_gelu_tag_is_refused_before_download(model, twin, monkeypatch):
    monkeypatch.setattr(open_clip, "download_pretrained", lambda *_: pytest.fail("it was downloaded"))
    with pytest.raises(InputError, match=f"openai of {model} was trained with the other GELU; set .* to {twin}"):
        load_clip(model, "openai", (224, 224))


def test_openai_file_is_refused_without_quickgelu(random_clip, tmp_path):
    beside = {name: torch.tensor(1) for name in checkpoints.BESIDE_WEIGHTS}
    torch.save(random_clip.model.state_dict() | beside, tmp_path / "openai.pt")
    with pytest.raises(InputError, match="openai.pt cannot be .*OpenAI's, which was trained with QuickGELU"):
        load_clip("csgn-tiny", str(tmp_path / "openai.pt"), SIZE)


def test_unreachable_file_is_not_reported_as_damaged(tmp_path, monkeypatch):
    (tmp_path / "locked.pt").write_bytes(b"PK")
    monkeypatch.setattr(torch, "load", lambda *_, **__: open(tmp_path / "locked" / "x"))
    with pytest.raises(InputError, match="No such file.*; see that it can be reached, or give another file$"):
        load_clip("csgn-tiny", str(tmp_path / "locked.pt"), SIZE)


def test_mismatched_weights_are_summarised(random_clip, square, tmp_path):
    """How many tensors are missing, unexpected or of another shape, three of them at most, and the cure."""
    state, resnet = random_clip.model.state_dict(), load_resnet("csgn_tiny_resnet", None).model.state_dict()
    grid = state | {"visual.positional_embedding": torch.zeros(24 * 12 + 1, 128)}  # neither 12 x 6 nor a square
    norms = {f"ln_final.{kind}": torch.zeros(7) for kind in ("weight", "bias")}
    files = {
        "clip": state, "resnet": resnet, "grid": grid, "proj": state | {"visual.proj": torch.zeros(128, 64)},
        "scale": state | {"logit_scale": torch.zeros(3)}, "long": state | {"x\n" * 500: torch.zeros(1)},
        "four": state | norms | {"visual.proj": torch.zeros(2, 3), "logit_scale": torch.zeros(2)},
        "all": {name: state[name] for name in state if name != "visual.proj"} | norms | {"other": torch.zeros(1)},
    }  # fmt: skip
    for name, content in files.items():
        torch.save(content, tmp_path / f"{name}.pt")
    clips, shape = len(state), "visual.positional_embedding is (289, 128), not (73, 128)"
    three = "logit_scale is (2,), not (), visual.proj is (2, 3), not (128, 128), ln_final.weight is (7,), not (128,)"
    for model, name, why in (
        ("csgn-tiny", "resnet", f": {clips} missing (positional_embedding, ...), {len(resnet)} unexpected ("),
        ("csgn-tiny", "proj", "1 of another shape (visual.proj is (128, 64), not (128, 128));"),
        ("csgn-tiny", "grid", f"1 of another shape ({shape});"),
        ("csgn-tiny", "scale", "1 of another shape (logit_scale is (3,), not ());"),
        ("csgn-tiny", "long", f"1 unexpected ({'x ' * 28}x...);"),
        ("csgn-tiny", "four", f": 4 of another shape ({three}, ...);"),
        ("csgn-tiny", "all", "1 missing (visual.proj), 1 unexpected (other), 2 of another shape (ln_final."),
        (square, "clip", " of another shape (positional_embedding is (64, 128), not (16, 32), ...);"),
        ("csgn_tiny_resnet", "clip", f" missing (conv1.weight, ...), {clips} unexpected ("),
        ("csgn_test_bottleneck", "resnet", " of another shape ("),
    ):
        kind, load = ("resnet", load_resnet) if "_" in model else ("clip", lambda *given: load_clip(*given, SIZE))
        with pytest.raises(InputError) as caught:
            load(model, str(tmp_path / f"{name}.pt"))
        said = str(caught.value)
        file = tmp_path / f"{name}.pt"
        assert said.startswith(f"{kind}_checkpoint {file} cannot be loaded into {model}: its tensors differ: ")
        assert why in said and "\n" not in said and len(said) < 400
        assert said.endswith(f"; set {kind}_model to the model it is of, or give another file")


@pytest.mark.parametrize(
    ("model", "checkpoint", "message"),
    [
        ("ViT-B-17", None, "'ViT-B-17' is not an open_clip model"),
        ("hf-hub:laion/CLIP-ViT-B-16", None, "is not an open_clip model"),
        ("ViT-B-16-quickgelu", "opnai", "'opnai' is neither a file nor a tag .*openai"),
        ("ViT-B-16-quickgelu", "missing/weights.pt", "neither a file nor a tag"),
        ("csgn-tiny", "openai", "neither a file nor a tag of csgn-tiny"),
        ("ViT-B-16-quickgelu", "embedded", "embedded is for csgn-tiny"),
        ("RN50", "openai", "towers are neither open_clip's own nor EVA's"),
        ("ViT-B-16-SigLIP", "webli", "towers are neither open_clip's own nor EVA's"),
        ("roberta-ViT-B-32", "laion2b_s12b_b32k", "towers are neither open_clip's own nor EVA's"),
    ],
)
def test_invalid_model_or_checkpoint_is_refused_before_download(offline, monkeypatch, model, checkpoint, message):
    monkeypatch.setattr(open_clip, "create_model", lambda *_, **__: pytest.fail("built"))
    with pytest.raises(InputError, match=message):
        load_clip(model, checkpoint, SIZE)
    assert not offline


def test_float16_safetensors_load_into_float32(random_clip, tmp_path):
    half = {name: value.half().contiguous() for name, value in random_clip.model.state_dict().items()}
    save_file(half, tmp_path / "half.safetensors")
    tower = load_clip("csgn-tiny", str(tmp_path / "half.safetensors"), SIZE)
    for name, value in tower.model.state_dict().items():
        assert value.dtype == torch.float32 and torch.equal(value, half[name].float()), name


@pytest.mark.parametrize("size", [(48, 24), (192, 96), (96, 96), (48, 96)])
def test_position_embeddings_are_interpolated(random_clip, tmp_path, size):
    """One channel holds the row, another the column: after interpolation they still do, evenly spread."""
    state = copy.deepcopy(random_clip.model.state_dict())
    positions = state["visual.positional_embedding"]
    positions[1:, 0] = torch.arange(12.0).repeat_interleave(6) / 12
    positions[1:, 1] = torch.arange(6.0).repeat(12) / 6
    save_file(state, tmp_path / "m.safetensors")
    tower = load_clip("csgn-tiny", str(tmp_path / "m.safetensors"), size)
    rows, columns = size[0] // 8, size[1] // 8
    got = tower.visual.positional_embedding
    assert isinstance(got, torch.nn.Parameter) and got.shape == (rows * columns + 1, 128)
    torch.testing.assert_close(got[0], positions[0])
    grid = got[1:, :2].detach().unflatten(0, (rows, columns))
    inner = slice(rows // 4, rows - rows // 4)
    centres = (torch.arange(rows) + 0.5) / rows - 0.5 / 12  # of the new rows, in the old one's units
    torch.testing.assert_close(grid[inner, 0, 0], centres[inner], rtol=0, atol=0.02)
    torch.testing.assert_close(grid[:, :1, 0].expand(-1, columns), grid[:, :, 0], rtol=0, atol=1e-5)
    torch.testing.assert_close(grid[:1, :, 1].expand(rows, -1), grid[:, :, 1], rtol=0, atol=1e-5)
    assert (grid[0, 1:, 1] > grid[0, :-1, 1]).all()
    with torch.no_grad():
        assert tower.visual_features(pictures(2, *size), tokens=True).tokens.shape == (2, rows * columns, 128)


def test_square_positions_interpolated_as_open_clip(square, tmp_path):
    model = open_clip.create_model(square)
    with torch.no_grad():
        model.visual.positional_embedding[1:, 0] = torch.arange(4.0).repeat_interleave(4)
    torch.save(model.state_dict(), tmp_path / "m.pt")
    tower = load_clip(square, str(tmp_path / "m.pt"), (64, 32))
    rows = tower.visual.positional_embedding[1:, 0].detach().unflatten(0, (8, 4))
    torch.testing.assert_close(rows, rows[:, :1].expand(8, 4))
    assert (rows[1:, 0] > rows[:-1, 0]).all()


# ---------------------------------------------------------------- overlapping patches


@torch.no_grad()
def test_overlapping_patches_and_positions(overlapping, tmp_path):
    """Each patch cut out by hand, and positions read from the checkpoint's own square grid."""
    model = open_clip.create_model(overlapping)  # 64 x 64, patch 16: a grid of 4 x 4
    save_file(model.state_dict(), tmp_path / "m.safetensors")
    tower = load_clip(overlapping, str(tmp_path / "m.safetensors"), (80, 48), stride=12)
    image, visual = pictures(1, 80, 48)[0], tower.visual
    normalised = (image - tower.mean[0]) / tower.std[0]
    cut = [normalised[:, y : y + 16, x : x + 16] for y in range(0, 80 - 15, 12) for x in range(0, 48 - 15, 12)]
    words = torch.stack([torch.einsum("wchv,chv->w", model.visual.conv1.weight, patch) for patch in cut])
    square = model.visual.positional_embedding[1:].T.reshape(1, 32, 4, 4)
    positions = torch.nn.functional.interpolate(square, (6, 3), mode="bicubic", antialias=True)[0].flatten(1).T
    first = model.visual.class_embedding + model.visual.positional_embedding[0]
    expected = model.visual.ln_pre(torch.cat([first[None], words + positions]))
    torch.testing.assert_close(visual._embeds(normalised[None])[0], expected, rtol=1e-4, atol=1e-5)
    assert visual.grid_size == (6, 3) and tower.visual_features(image[None], tokens=True).tokens.shape == (1, 18, 32)
    blank = load_clip(overlapping, None, (80, 48), stride=12)  # as a finished run is read back
    blank.model.load_state_dict(tower.model.state_dict())


@torch.no_grad()
def test_stride_equal_to_patch_size_has_no_effect(overlapping, tmp_path):
    save_file(open_clip.create_model(overlapping).state_dict(), tmp_path / "m.safetensors")
    images = pictures(2, 80, 40)
    plain, given = (load_clip(overlapping, str(tmp_path / "m.safetensors"), (80, 40), stride) for stride in (None, 16))
    for name, value in plain.model.state_dict().items():
        assert torch.equal(value, given.model.state_dict()[name]), name
    assert torch.equal(*(each.visual_features(images, tokens=True).tokens for each in (plain, given)))


def test_clip_reid_grid_is_21_by_10():
    with torch.device("meta"):
        tower = load_clip("ViT-B-16-quickgelu", None, (256, 128), stride=12)
    assert tower.visual.grid_size == (21, 10) and tower.visual.positional_embedding.shape == (211, 768)


def test_invalid_strides_and_sizes_are_refused(overlapping):
    for size, stride, message in (
        ((64, 32), 7, "vit_stride=7: csgn-test-patch16 has patches of 16 pixels; set 8 to 16"),
        ((64, 32), 17, "vit_stride=17: .* set 8 to 16"),
        ((64, 12), None, "images of 64 x 12 are smaller than a patch of csgn-test-patch16"),
    ):
        with pytest.raises(InputError, match=message):
            load_clip(overlapping, None, size, stride)


# ---------------------------------------------------------------- EVA, timm's ViT in open_clip's CLIP


def eva_file(name: str, file: Path) -> open_clip.model.CustomTextCLIP:
    """A model as open_clip builds it, its weights large enough to be told apart, and its file."""
    model = open_clip.create_model(name).eval()
    with torch.no_grad():
        for value in model.visual.parameters():
            value.add_(torch.randn(value.shape, generator=torch.Generator().manual_seed(value.numel())) * 0.1)
    save_file(model.state_dict(), file)
    return model


@torch.no_grad()
def test_eva_features_equal_open_clip_at_two_depths(eva, tmp_path):
    model, images = eva_file(eva, tmp_path / "eva.safetensors"), pictures(3, 32, 32)
    tower = load_clip(eva, str(tmp_path / "eva.safetensors"), (32, 32)).eval()
    normalised = (images - tower.mean) / tower.std
    maps = model.visual.trunk.forward_intermediates(
        normalised, return_prefix_tokens=True, output_fmt="NLC", intermediates_only=True
    )
    last = model.visual.trunk.forward_features(normalised)
    features = tower.visual_features(images, tokens=True)
    torch.testing.assert_close(features.zp, model.encode_image(normalised))
    torch.testing.assert_close(features.z11, maps[1][1][:, 0])
    torch.testing.assert_close(features.z12, last[:, 0])
    torch.testing.assert_close(features.tokens, last[:, 1:])
    words = model.encode_text(open_clip.get_tokenizer(eva)(TEXTS))
    torch.testing.assert_close(tower.text_features(TEXTS), words, rtol=1e-5, atol=1e-6)
    assert (tower.width, tower.embed_dim, tower.text_width, tower.context_length) == (32, 16, 32, 16)
    assert (features.zp[0] - features.zp[1]).abs().max() > 1e-3


@torch.no_grad()
def test_eva_positions_follow_image_size(eva, tmp_path):
    """Against timm's EVA built at that size, its positions interpolated by hand from the file's square grid."""
    model, images = eva_file(eva, tmp_path / "eva.safetensors"), pictures(2, 64, 24)
    tower = load_clip(eva, str(tmp_path / "eva.safetensors"), (64, 24)).eval()
    reference = timm.create_model(EVA, num_classes=16, global_pool="token", img_size=(64, 24)).eval()
    state = model.visual.trunk.state_dict()
    square = state["pos_embed"][:, 1:].transpose(1, 2).unflatten(2, (4, 4))
    grid = torch.nn.functional.interpolate(square, (8, 3), mode="bicubic", antialias=True).flatten(2).transpose(1, 2)
    reference.load_state_dict(state | {"pos_embed": torch.cat([state["pos_embed"][:, :1], grid], dim=1)})
    features = tower.visual_features(images, tokens=True)
    torch.testing.assert_close(features.zp, reference((images - tower.mean) / tower.std), rtol=1e-4, atol=1e-5)
    assert features.tokens.shape == (2, 24, 32)
    blank = load_clip(eva, None, (64, 24)).eval()  # as a finished run is read back
    blank.model.load_state_dict(tower.model.state_dict())
    torch.testing.assert_close(blank.visual_features(images).zp, features.zp, rtol=0, atol=0)


def test_eva_trains_with_and_without_recomputation(eva, tmp_path):
    eva_file(eva, tmp_path / "eva.safetensors")
    tower, images = load_clip(eva, str(tmp_path / "eva.safetensors"), (64, 32)), pictures(2, 64, 32)
    gradients = []
    for recompute in (False, True):
        tower.zero_grad()
        features = backbones.vit_features(tower.visual, (images - tower.mean) / tower.std, recompute, tokens=True)
        (features.zp.sum() + features.z11.square().sum() + features.tokens.square().sum()).backward()
        gradients.append([value.grad.clone() for value in tower.visual.parameters()])
    torch.testing.assert_close(*gradients)
    assert all(gradient.abs().max() > 0 for gradient in gradients[0])


def test_encoder_with_eva_can_be_exported(eva, tmp_path):
    tower = load_clip(eva, None, (64, 32))
    encoder = VisualEncoder(tower, None, "none", torch.Generator()).eval().requires_grad_(False)
    experiment = Experiment.from_parameters(vss="none", clip_model=eva, image_height=64, image_width=32)
    model = models.Model(Run(tmp_path), experiment, encoder, "0" * 64)
    assert models.export_program(model, tmp_path / "model.pt2") <= 1e-5
    assert models.export_onnx(model, tmp_path / "model.onnx") <= 1e-5


@torch.no_grad()
def test_eva02_by_name():
    with torch.device("meta"):
        tower = load_clip("EVA02-B-16", None, (256, 128))
        features = tower.visual_features(torch.empty(2, 3, 256, 128), tokens=True)
    assert features.z11.shape == features.z12.shape == (2, 768)
    assert features.zp.shape == (2, 512) and features.tokens.shape == (2, 16 * 8, 768)


def test_unsupported_eva_is_refused(eva, add_model, tmp_path):
    vision = {"timm_model_name": EVA, "timm_model_pretrained": False, "timm_proj": None}
    for name, other in (("avg", {"timm_pool": "avg"}), ("linear", {"timm_pool": "token", "timm_proj": "linear"})):
        with pytest.raises(InputError, match="TimmModel has no class token to read"):
            load_clip(add_model(f"csgn-test-eva-{name}", vision | other), None, (32, 32))
    with pytest.raises(InputError, match=f"vit_stride=8: the patches of {eva} cannot overlap; set vit_stride to none"):
        load_clip(eva, None, (32, 32), stride=8)
    save_file(open_clip.create_model("csgn-tiny").state_dict(), tmp_path / "tiny.safetensors")
    with pytest.raises(InputError, match=f"tiny.safetensors cannot be loaded into {eva}"):
        load_clip(eva, str(tmp_path / "tiny.safetensors"), (32, 32))


# ---------------------------------------------------------------- full-size towers, in the layouts of their own files


def openai_shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes of OpenAI's ViT-B/16, as in its archive."""
    shapes: dict[str, tuple[int, ...]] = {
        "positional_embedding": (77, 512), "text_projection": (512, 512), "logit_scale": (),
        "visual.class_embedding": (768,), "visual.positional_embedding": (197, 768), "visual.proj": (768, 512),
        "visual.conv1.weight": (768, 3, 16, 16), "token_embedding.weight": (49408, 512),
    }  # fmt: skip
    norms = {"visual.ln_pre": 768, "visual.ln_post": 768, "ln_final": 512}
    for tower, width in (("visual.transformer", 768), ("transformer", 512)):
        for block in (f"{tower}.resblocks.{i}" for i in range(12)):
            norms |= {f"{block}.ln_1": width, f"{block}.ln_2": width}
            for name, rows, columns in (("attn.in_proj_", 3, 1), ("attn.out_proj.", 1, 1), ("mlp.c_fc.", 4, 1),
                                        ("mlp.c_proj.", 1, 4)):  # fmt: skip
                shapes[f"{block}.{name}weight"] = (rows * width, columns * width)
                shapes[f"{block}.{name}bias"] = (rows * width,)
    return shapes | {f"{name}.{kind}": (width,) for name, width in norms.items() for kind in ("weight", "bias")}


def randomly(shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """Float16, as OpenAI's are; small enough that twelve blocks keep them finite."""
    generator = torch.Generator().manual_seed(0)
    return {name: (torch.rand(shape, generator=generator) * 0.1 - 0.05).half() for name, shape in shapes.items()}


@torch.no_grad()
def test_openai_layout_gives_open_clip_features(tmp_path):
    weights, file = randomly(openai_shapes()), tmp_path / "ViT-B-16.pt"
    numbers = {"input_resolution": 224, "context_length": 77, "vocab_size": 49408}
    torch.save(weights | {name: torch.tensor(value) for name, value in numbers.items()}, file)
    tower = load_clip("ViT-B-16-quickgelu", str(file), (256, 128)).eval()
    file.unlink()  # 300 MB
    reference = open_clip.create_model("ViT-B-16-quickgelu", force_image_size=(256, 128)).eval()
    weights = {name: value.float() for name, value in weights.items()}
    open_clip.model.resize_pos_embed(weights, reference)
    reference.load_state_dict(weights)
    seen: list[torch.Tensor] = []
    reference.visual.ln_post.register_forward_hook(lambda *call: seen.append(call[-1]))
    images, texts = pictures(1, 256, 128), TEXTS[:2]
    mean, std = (torch.tensor(value).view(3, 1, 1) for value in (
        (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)))  # fmt: skip
    joint = reference.encode_image((images - mean) / std)
    features = tower.visual_features(images)
    torch.testing.assert_close(features.zp, joint, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(features.z12, seen[0][:, 0], rtol=1e-4, atol=1e-5)
    words = reference.encode_text(open_clip.get_tokenizer("ViT-B-16-quickgelu")(texts))
    torch.testing.assert_close(tower.text_features(texts), words, rtol=1e-4, atol=1e-5)
    assert joint.abs().max() > 1e-2 and (words[0] - words[1]).abs().max() > 1e-4


@torch.no_grad()
def test_timm_layout_gives_timm_features(tmp_path):
    reference = timm.create_model("resnet50", num_classes=1000).eval()
    for module in reference.modules():  # timm starts each block's last norm at 0, which would hide its main path
        if isinstance(module, torch.nn.BatchNorm2d):
            module.weight.uniform_(0.5, 1)
            module.running_mean.uniform_(-0.1, 0.1)
    weights, images = reference.state_dict(), pictures(1, 128, 64)
    assert {"fc.weight", "fc.bias"} <= set(weights)
    files = tmp_path / "resnet50.safetensors", tmp_path / "resnet50.pth"
    save_file(weights, files[0])
    torch.save(weights, files[1])
    reference.layer4[0].conv2.stride = reference.layer4[0].downsample[0].stride = (1, 1)
    normalised = (images - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)) / torch.tensor(
        [0.229, 0.224, 0.225]
    ).view(3, 1, 1)
    expected = reference.forward_features(normalised)
    assert expected.shape == (1, 2048, 8, 4)
    for file in files:
        tower = load_resnet("resnet50", str(file)).eval()
        torch.testing.assert_close(tower(images).feature_map, expected, rtol=1e-4, atol=1e-5)
        assert tower.checkpoint == file
        file.unlink()  # 100 MB


@torch.no_grad()
@pytest.mark.parametrize("model", ["resnet50_clip", "resnet50_clip_gap"])
def test_clip_rn50_equals_open_clip_maps(tmp_path, model):
    reference = ModifiedResNet(layers=[3, 4, 6, 3], output_dim=1024, heads=32, image_size=224, width=64).eval()
    for module in reference.modules():  # each block's last norm starts at 0, which would hide its main path
        if isinstance(module, torch.nn.BatchNorm2d):
            module.weight.uniform_(0.5, 1)
            module.running_mean.uniform_(-0.1, 0.1)
    weights = {f"visual.{name}": value for name, value in reference.state_dict().items()}
    text = {
        "token_embedding.weight": torch.zeros(9, 512),
        "logit_scale": torch.tensor(4.6),
        "ln_final.bias": torch.ones(512),
    }
    torch.save(weights | text | {"input_resolution": torch.tensor(224)}, tmp_path / "RN50.pt")
    tower = load_resnet(model, str(tmp_path / "RN50.pt")).eval()
    (tmp_path / "RN50.pt").unlink()  # 150 MB
    mean, std = (torch.tensor(value).view(1, 3, 1, 1) for value in (
        (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)))  # fmt: skip
    torch.testing.assert_close((tower.mean, tower.std), (mean, std))
    images = pictures(2, 128, 64)
    third = reference.layer3(reference.layer2(reference.layer1(reference.stem((images - mean) / std))))
    halved = reference.layer4(third)
    first = reference.layer4[0]
    first.avgpool = first.downsample[0] = torch.nn.Identity()
    expected, got = reference.layer4(third), tower(images)
    assert halved.shape == (2, 2048, 4, 2) and expected.shape == (2, 2048, 8, 4) and tower.width == 2048
    torch.testing.assert_close(got.feature_map, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(got.pooled, expected.flatten(2).mean(dim=2), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(tower.model.stages[:3](tower.model.stem((images - mean) / std)), third)
    native = timm.create_model(model, num_classes=0).eval()  # timm's own network, and its own last stride
    native.load_state_dict(tower.model.state_dict(), strict=False)
    torch.testing.assert_close(native.forward_features((images - mean) / std), halved, rtol=1e-4, atol=1e-4)


def test_clip_resnet_without_attention_pool(tmp_path):
    whole = timm.create_model("resnet50_clip")  # as timm's own file holds it
    save_file(whole.state_dict(), tmp_path / "timm.safetensors")
    tower = load_resnet("resnet50_clip", str(tmp_path / "timm.safetensors"))
    for name, value in tower.model.state_dict().items():
        assert torch.equal(value, whole.state_dict()[name]), name
    got = tower(pictures(2, 64, 32))
    (got.pooled.sum() + got.feature_map.square().sum()).backward()
    assert got.feature_map.shape == (2, 2048, 4, 2)
    assert all(value.grad is not None for value in tower.parameters())  # nothing idle: several processes need that
    with torch.device("meta"):
        wide = load_resnet("resnet50x4_clip", None)
        assert wide(torch.empty(2, 3, 128, 64)).pooled.shape == (2, wide.width) == (2, 2560)
    save_file(load_resnet("csgn_tiny_resnet", None).model.state_dict(), tmp_path / "tiny.safetensors")
    with pytest.raises(InputError, match="tiny.safetensors cannot be loaded into resnet50_clip"):
        load_resnet("resnet50_clip", str(tmp_path / "tiny.safetensors"))


@torch.no_grad()
@pytest.mark.parametrize(
    ("model", "patches", "width", "joint", "parameters"),
    [("ViT-B-32", 32, 768, 512, 151_277_313), ("ViT-L-14", 162, 1024, 768, 427_616_513)],
)
def test_vits_by_name(model, patches, width, joint, parameters):
    with torch.device("meta"):
        tower = load_clip(model, None, (256, 128))
        features = tower.visual_features(torch.empty(2, 3, 256, 128), tokens=True)
    assert features.z11.shape == features.z12.shape == (2, width)
    assert features.zp.shape == (2, joint) and features.tokens.shape == (2, patches, width)
    left_out = (tower.model.visual.positional_embedding.shape[0] - 1) * width  # OpenAI's count is at 224 x 224
    square = (224 // tower.visual.patch_size[0]) ** 2 * width
    assert sum(value.numel() for value in tower.parameters()) - left_out + square == parameters


# ---------------------------------------------------------------- what is fetched


def test_tag_loads_what_open_clip_downloads(square, offline, tmp_path, monkeypatch):
    file = tmp_path / "m.safetensors"
    save_file(open_clip.create_model(square).state_dict(), file)
    cfg = {"hf_hub": "someone/small/", "mean": (0.1, 0.2, 0.3), "std": (0.5, 0.5, 0.5)}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, square, {"web": cfg})
    monkeypatch.setattr(open_clip, "download_pretrained", lambda asked: str(file) if asked["hf_hub"] else None)
    tower = load_clip(square, "web", (32, 32))
    assert tower.checkpoint == file and tower.mean.flatten().tolist() == pytest.approx([0.1, 0.2, 0.3])
    assert not offline


def test_failed_timm_download_is_one_error(monkeypatch):
    create = timm.create_model

    def fail(model: str, pretrained: bool = False, **given: object) -> torch.nn.Module:
        if pretrained:
            raise OSError("no route to the hub")
        return create(model, **given)

    monkeypatch.setattr(timm, "create_model", fail)
    with pytest.raises(InputError, match="resnet_checkpoint=timm of resnet18 could not be downloaded .*no route"):
        load_resnet("resnet18", "timm")


def test_no_download_unless_named(square, offline, tmp_path):
    save_file(open_clip.create_model(square).state_dict(), tmp_path / "m.safetensors")
    assert load_clip(square, None, (32, 32)).checkpoint is None
    assert load_resnet("csgn_tiny_resnet", None).checkpoint is None
    load_clip(square, str(tmp_path / "m.safetensors"), (32, 32))
    load_resnet("csgn_tiny_resnet", "embedded")
    assert not offline


# ---------------------------------------------------------------- ResNets


@pytest.mark.parametrize("model", ["csgn_tiny_resnet", "csgn_test_bottleneck"])
@torch.no_grad()
def test_resnet_differs_from_timm_in_last_stride_only(model):
    tower = load_resnet(model, None).eval()
    for value in tower.model.parameters():  # timm starts each block's last norm at 0, which would hide its main path
        value.normal_(0, 0.1)
    reference = timm.create_model(model, num_classes=0).eval()
    reference.load_state_dict(tower.model.state_dict())  # strict: the same names and shapes
    images = pictures(2, 128, 64)
    normalised = (images - tower.mean) / tower.std
    assert tower.mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])
    assert tower.std.flatten().tolist() == pytest.approx([0.229, 0.224, 0.225])
    assert reference.forward_features(normalised).shape[2:] == (4, 2)
    strided = [m for m in reference.layer4[0].modules() if isinstance(m, torch.nn.Conv2d) and m.stride == (2, 2)]
    assert len(strided) == 2  # main path and shortcut
    for convolution in strided:
        convolution.stride = (1, 1)
    expected, got = reference.forward_features(normalised), tower(images)
    assert got.feature_map.shape == (2, tower.width, 8, 4)
    torch.testing.assert_close(got.feature_map, expected)
    torch.testing.assert_close(got.pooled, expected.flatten(2).mean(dim=2))


@torch.no_grad()
def test_pooling_shortcut_keeps_resolution():
    tower = load_resnet("csgn_test_pooled_shortcut", None).eval()
    reference = timm.create_model("csgn_test_pooled_shortcut", num_classes=0).eval()
    for value in tower.model.parameters():
        value.normal_(0, 0.1)
    first = reference.layer4[0]
    first.conv2.stride, first.downsample[0] = (1, 1), torch.nn.Identity()
    reference.load_state_dict(tower.model.state_dict())
    images = pictures(2, 128, 64)
    expected = reference.forward_features((images - tower.mean) / tower.std)
    assert expected.shape[2:] == (8, 4)
    torch.testing.assert_close(tower(images).feature_map, expected)


def test_float16_resnet_weights_with_or_without_classifier(tmp_path):
    net = timm.create_model("csgn_test_bottleneck", num_classes=10)  # as timm's own files are: with fc
    half = {name: value.half() for name, value in net.state_dict().items() if value.is_floating_point()}
    for name, state in (("with", half), ("without", {n: v for n, v in half.items() if not n.startswith("fc.")})):
        save_file(state, tmp_path / f"{name}.safetensors")
        tower = load_resnet("csgn_test_bottleneck", str(tmp_path / f"{name}.safetensors"))
        for key, value in tower.model.state_dict().items():
            if value.is_floating_point():
                assert value.dtype == torch.float32 and torch.equal(value, half[key].float())


def test_unsupported_resnets_are_refused(tmp_path, offline):
    (tmp_path / "hello.safetensors").write_bytes(b"hello")
    save_file(load_resnet("csgn_tiny_resnet", None).model.state_dict(), tmp_path / "tiny.safetensors")
    for model, checkpoint, message in (
        ("resnet5000", None, "'resnet5000' is not a timm model"),
        ("vit_tiny_patch16_224", None, "is a VisionTransformer, not a ResNet"),
        ("csgn_test_blur", None, "last stride cannot be set"),
        ("repvgg_a0", None, "is a ByobNet, not a ResNet"),
        ("csgn_test_bottleneck", "embedded", "embedded is for csgn_tiny_resnet"),
        ("csgn_tiny_resnet", "timm", "use resnet_checkpoint=embedded"),
        ("csgn_test_bottleneck", "timm", "resnet_checkpoint=timm .*no route to the hub"),
        ("csgn_tiny_resnet", str(tmp_path / "none.safetensors"), "none.safetensors does not exist"),
        ("csgn_tiny_resnet", str(tmp_path / "hello.safetensors"), "hello.safetensors cannot .*; copy it again, or "),
        ("csgn_test_bottleneck", str(tmp_path / "tiny.safetensors"), "tiny.safetensors cannot .*; set resnet_model "),
    ):
        with pytest.raises(InputError, match=message) as caught:
            load_resnet(model, checkpoint)
        assert "\n" not in str(caught.value)
    assert not offline


# ---------------------------------------------------------------- the embedded weights


@pytest.mark.parametrize("checkpoint", backbones.EMBEDDED)
def test_embedded_models_load_and_distinguish_colours(checkpoint):
    assert sum(file.stat().st_size for file in backbones.TOWERS.glob("*.safetensors")) <= 12e6
    tower = load_clip("csgn-tiny", checkpoint, SIZE).eval()
    assert load_resnet("csgn_tiny_resnet", checkpoint).checkpoint.stem.endswith(checkpoint.removeprefix("embedded"))
    with torch.no_grad():
        red, again, blue = torch.nn.functional.normalize(
            tower.text_features(
                [
                    "a person wearing a red coat",
                    "a photo of a person wearing a red coat",
                    "a person wearing a blue coat",
                ]
            ),
            dim=-1,
        )
    assert red @ again > red @ blue
