"""The towers against open_clip's and timm's own calls, and what happens to files that do not fit."""

from __future__ import annotations

import copy
import json
import os
import pickle
import socket
from pathlib import Path

import open_clip
import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.layers import BlurPool2d
from timm.models.resnet import Bottleneck, ResNet

from csgn_lib import backbones
from csgn_lib.backbones import ClipTower, CompactTokenizer, load_clip, load_resnet, tiny_words
from csgn_lib.records import InputError

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
        file.write_text(json.dumps({"embed_dim": 16, "vision_cfg": vision, "text_cfg": text}))
        open_clip.add_model_config(file)
        return name

    return add


@pytest.fixture(scope="module")
def square(add_model) -> str:
    return add_model("csgn-test-square")


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
def test_visual_features_are_open_clips_own_read_at_two_depths(random_clip):
    seen: dict[str, torch.Tensor] = {}
    blocks, images = random_clip.visual.transformer.resblocks, pictures(3, *SIZE)
    hooks = [block.register_forward_hook(lambda *call, name=i: seen.update({name: call[-1]}))
             for i, block in enumerate(blocks)]  # fmt: skip
    normalised = (images - torch.tensor(random_clip.visual.preprocess_cfg["mean"]).view(3, 1, 1)) / torch.tensor(
        random_clip.visual.preprocess_cfg["std"]
    ).view(3, 1, 1)
    expected = random_clip.model.encode_image(normalised)
    [hook.remove() for hook in hooks]
    features = random_clip.visual_features(images)
    last = random_clip.visual.ln_post(seen[len(blocks) - 1])
    torch.testing.assert_close(features.zp, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(features.z11, seen[len(blocks) - 2][:, 0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(features.z12, last[:, 0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(features.tokens, last[:, 1:], rtol=1e-5, atol=1e-5)
    assert features.tokens.shape == (3, 12 * 6, random_clip.width) and features.zp.shape == (3, random_clip.embed_dim)


@torch.no_grad()
def test_text_features_are_open_clips_own(random_clip):
    expected = random_clip.model.encode_text(random_clip.tokenize(TEXTS))
    torch.testing.assert_close(random_clip.text_features(TEXTS), expected, rtol=1e-5, atol=1e-6)
    assert (expected[0] - expected[1]).abs().max() > 1e-3  # a random text tower does tell texts apart


@torch.no_grad()
def test_a_full_vocabulary_and_a_separate_text_tower_read_the_same_way(square, add_model):
    for name, custom in ((square, False), (add_model("csgn-test-custom"), True)):
        model = open_clip.create_model(name, force_custom_text=custom)
        tower = ClipTower(model, open_clip.get_tokenizer(name), (0.5,) * 3, (0.5,) * 3)
        expected = model.encode_text(open_clip.get_tokenizer(name)(TEXTS))
        torch.testing.assert_close(tower.text_features(TEXTS), expected, rtol=1e-5, atol=1e-6)
        assert (tower.text is model) != custom


def test_what_follows_end_of_text_cannot_matter_and_gradients_reach_the_words(random_clip):
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


def test_a_tower_without_a_class_token_is_refused(add_model):
    for vision in ({"pool_type": "avg"}, {"attentional_pool": True}):
        with pytest.raises(InputError, match="no class token"):
            load_clip(add_model(f"csgn-test-{next(iter(vision))}", vision), None, (32, 32))


# ---------------------------------------------------------------- the compact tokenizer


def test_compact_ids_keep_the_order_of_the_full_ones():
    compact = CompactTokenizer(tiny_words(), 64)
    full = open_clip.SimpleTokenizer(context_length=64)
    small, large = compact(TEXTS), full(TEXTS)
    assert small.shape == (3, 64) and small.dtype == torch.int64
    assert sorted(compact.ids.values()) == list(range(len(compact.ids))) and small.max() < 96  # rows of csgn-tiny
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
def test_a_word_never_read_is_named(text, word):
    with pytest.raises(InputError, match=f"never read .*{word}"):
        CompactTokenizer(tiny_words(), 64)([text])


def test_a_text_that_is_too_long_is_refused_not_cut():
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


def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(tmp_path):
    trace = tmp_path / "executed"
    torch.save({"state_dict": Payload(trace)}, tmp_path / "evil.pt")
    with open(tmp_path / "plain.pkl", "wb") as file:
        pickle.dump({"visual.proj": Payload(trace)}, file, protocol=2)
    for name in ("evil.pt", "plain.pkl"):
        with pytest.raises(InputError, match=f"{name} .*run code"):
            load_clip("csgn-tiny", str(tmp_path / name), SIZE)
        assert not trace.exists()
    torch.load(tmp_path / "evil.pt", weights_only=False)
    assert trace.exists()  # the file was dangerous


def test_files_that_are_no_checkpoint_are_named(random_clip, tmp_path):
    (tmp_path / "hello.safetensors").write_bytes(b"hello")
    (tmp_path / "empty.pt").write_bytes(b"")
    torch.save({}, tmp_path / "nothing.pt")
    torch.save([torch.zeros(1)], tmp_path / "list.pt")
    torch.save(random_clip.model.state_dict() | {"visual.proj": torch.zeros(128, 64)}, tmp_path / "other.pt")
    for name in ("hello.safetensors", "empty.pt", "nothing.pt", "list.pt", "other.pt"):
        with pytest.raises(InputError, match=f"{name} cannot be loaded into csgn-tiny: .") as caught:
            load_clip("csgn-tiny", str(tmp_path / name), SIZE)
        assert "\n" not in str(caught.value)
    assert "size mismatch for visual.proj" in str(caught.value)


@pytest.mark.parametrize(
    ("model", "checkpoint", "message"),
    [
        ("ViT-B-17", None, "'ViT-B-17' is not an open_clip model"),
        ("hf-hub:laion/CLIP-ViT-B-16", None, "is not an open_clip model"),
        ("ViT-B-16-quickgelu", "opnai", "'opnai' is neither a file nor a tag .*openai"),
        ("ViT-B-16-quickgelu", "missing/weights.pt", "neither a file nor a tag"),
        ("csgn-tiny", "openai", "neither a file nor a tag of csgn-tiny"),
        ("ViT-B-16-quickgelu", "embedded", "embedded is for csgn-tiny"),
        ("RN50", "openai", "towers are not open_clip's own"),
        ("ViT-B-16-SigLIP", "webli", "towers are not open_clip's own"),
        ("roberta-ViT-B-32", "laion2b_s12b_b32k", "towers are not open_clip's own"),
    ],
)
def test_a_wrong_model_or_checkpoint_is_refused_before_anything_is_fetched(
    offline, monkeypatch, model, checkpoint, message
):
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
def test_positions_are_interpolated_to_another_image_size(random_clip, tmp_path, size):
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
        assert tower.visual_features(pictures(2, *size)).tokens.shape == (2, rows * columns, 128)


def test_a_square_models_positions_are_interpolated_by_open_clip(square, tmp_path):
    model = open_clip.create_model(square)
    with torch.no_grad():
        model.visual.positional_embedding[1:, 0] = torch.arange(4.0).repeat_interleave(4)
    torch.save(model.state_dict(), tmp_path / "m.pt")
    tower = load_clip(square, str(tmp_path / "m.pt"), (64, 32))
    rows = tower.visual.positional_embedding[1:, 0].detach().unflatten(0, (8, 4))
    torch.testing.assert_close(rows, rows[:, :1].expand(8, 4))
    assert (rows[1:, 0] > rows[:-1, 0]).all()


# ---------------------------------------------------------------- ResNets


@pytest.mark.parametrize("model", ["csgn_tiny_resnet", "csgn_test_bottleneck"])
@torch.no_grad()
def test_the_last_stride_is_one_and_all_else_is_timms(model):
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


def test_resnet_weights_come_back_from_float16_with_or_without_a_classifier(tmp_path):
    net = timm.create_model("csgn_test_bottleneck", num_classes=10)  # as timm's own files are: with fc
    half = {name: value.half() for name, value in net.state_dict().items() if value.is_floating_point()}
    for name, state in (("with", half), ("without", {n: v for n, v in half.items() if not n.startswith("fc.")})):
        save_file(state, tmp_path / f"{name}.safetensors")
        tower = load_resnet("csgn_test_bottleneck", str(tmp_path / f"{name}.safetensors"))
        for key, value in tower.model.state_dict().items():
            if value.is_floating_point():
                assert value.dtype == torch.float32 and torch.equal(value, half[key].float())


def test_resnets_that_cannot_be_used_are_refused(tmp_path, offline):
    (tmp_path / "hello.safetensors").write_bytes(b"hello")
    save_file(load_resnet("csgn_tiny_resnet", None).model.state_dict(), tmp_path / "tiny.safetensors")
    for model, checkpoint, message in (
        ("resnet5000", None, "'resnet5000' is not a timm model"),
        ("vit_tiny_patch16_224", None, "is a VisionTransformer, not a ResNet"),
        ("csgn_test_blur", None, "last stride cannot be set"),
        ("csgn_test_pooled_shortcut", None, "last stride cannot be set"),
        ("csgn_test_bottleneck", "embedded", "embedded is for csgn_tiny_resnet"),
        ("csgn_tiny_resnet", "timm", "use resnet_checkpoint=embedded"),
        ("csgn_test_bottleneck", "timm", "resnet_checkpoint=timm .*no route to the hub"),
        ("csgn_tiny_resnet", str(tmp_path / "none.safetensors"), "none.safetensors does not exist"),
        ("csgn_tiny_resnet", str(tmp_path / "hello.safetensors"), "hello.safetensors cannot be loaded"),
        ("csgn_test_bottleneck", str(tmp_path / "tiny.safetensors"), "tiny.safetensors cannot be loaded"),
    ):
        with pytest.raises(InputError, match=message) as caught:
            load_resnet(model, checkpoint)
        assert "\n" not in str(caught.value)
    assert not offline


# ---------------------------------------------------------------- the embedded weights


@pytest.mark.skipif(
    not all((backbones.TOWERS / name).is_file() for name in ("csgn-tiny.safetensors", "csgn-tiny-resnet.safetensors")),
    reason="no embedded weights; `make tiny-clip` trains them",
)
def test_the_embedded_towers_load_and_hear_colours():
    files = [*backbones.CLIP_FILES.values(), *backbones.RESNET_FILES.values()]
    assert sum((backbones.TOWERS / name).stat().st_size for name in files) <= 12e6
    tower = load_clip("csgn-tiny", "embedded", SIZE).eval()
    load_resnet("csgn_tiny_resnet", "embedded")
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
