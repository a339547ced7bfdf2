"""The visual encoder's variants, descriptor and heads, on random networks of the embedded size."""

from __future__ import annotations

import copy

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from csgn_lib import registry
from csgn_lib.backbones import ClipTower, ResNetTower, load_clip, load_resnet
from csgn_lib.config import Experiment
from csgn_lib.records import InputError
from csgn_lib.vss import Embeddings, Heads, VisualEncoder, concatenate, parameter_groups

WIDTHS = {"z11": 128, "z12": 128, "f": 128, "c": 256}
PARTS = {
    "steer": ["z11", "z12", "f", "c"],
    "concat": ["z11", "z12", "f", "c"],
    "cross_attention": ["z11", "z12", "f", "c"],
    "two_vits": ["z11", "z12", "f", "c"],
    "none": ["z11", "z12", "f"],
    "resnet": ["c"],
}


@pytest.fixture(scope="module")
def towers() -> tuple[ClipTower, ResNetTower]:
    torch.manual_seed(0)
    return load_clip("csgn-tiny", None, (96, 48)), load_resnet("csgn_tiny_resnet", None)


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.randint(0, 256, (6, 3, 96, 48), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


@pytest.fixture
def encoder(towers):
    def build(variant: str, seed: int = 0) -> VisualEncoder:
        clip, resnet = copy.deepcopy(towers)
        return VisualEncoder(clip, resnet, variant, torch.Generator().manual_seed(seed)).eval()

    return build


def random_embeddings(count: int = 5) -> Embeddings:
    generator = torch.Generator().manual_seed(2)
    return Embeddings(**{name: 3 * torch.randn(count, width, generator=generator) for name, width in WIDTHS.items()})


# --- the encoder --------------------------------------------------------------------------------


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("variant", ["steer", "two_vits", "none"])
def test_recomputation_gives_identical_gradients(encoder, images, variant, bf16):
    gradients, kept = [], []
    for recompute in (False, True):
        model, saved = encoder(variant).train(), [0]
        model.recompute = recompute

        def keep(value: torch.Tensor, saved: list[int] = saved) -> torch.Tensor:
            saved[0] += value.numel()
            return value

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                parts = model(images).parts()
            forward = saved[0]
            sum(value.square().sum() for value in parts.values()).backward()
        gradients.append({name: value.grad for name, value in model.named_parameters()})
        kept.append(forward)
    assert gradients[0].keys() == gradients[1].keys()
    for name, value in gradients[0].items():
        assert (value is None) == (gradients[1][name] is None)
        assert value is None or torch.equal(value, gradients[1][name]), name
    assert kept[1] < 0.7 * kept[0]


@pytest.mark.parametrize("variant", registry.names("vss"))
def test_every_variant_returns_float32_parts(encoder, images, variant):
    model = encoder(variant)
    with torch.no_grad():
        parts = model(images).parts()
        again = model(images.float() / 255).parts()
    widths = {name: WIDTHS[name] for name in PARTS[variant]} | ({"c": 128} if variant == "two_vits" else {})
    assert list(parts) == PARTS[variant] and model.widths == widths
    for name, value in parts.items():
        assert value.shape == (6, widths[name]) and value.dtype == torch.float32 and value.isfinite().all()
        torch.testing.assert_close(again[name], value)  # uint8 and [0, 1] mean the same image
        assert value.std(dim=0).max() > 0  # images differ


def test_vss_none_equals_clip_image_embedding(encoder, towers, images):
    clip, _ = towers
    with torch.no_grad():
        ours, theirs = encoder("none")(images), clip.model.encode_image((images.float() / 255 - clip.mean) / clip.std)
    torch.testing.assert_close(ours.f, theirs, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours.z12 @ clip.visual.proj, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("variant", ["steer", "cross_attention", "concat", "two_vits"])
def test_initial_output_equals_vit_alone(encoder, images, variant):
    with torch.no_grad():
        joined, alone = encoder(variant)(images), encoder("none")(images)
    close = 1e-5 if variant == "cross_attention" else 0.0  # whose ViT computes the last block's patches too
    for name in ("z11", "z12", "f"):
        torch.testing.assert_close(getattr(joined, name), getattr(alone, name), rtol=close, atol=close)


def test_steer_adds_gated_projection(encoder, images):
    model = encoder("steer")
    with torch.no_grad():
        model.join.gamma.fill_(0.3)
        out, zp = model(images), encoder("none")(images).f
        expected = torch.stack(
            [z + 0.3 * torch.mv(model.join.projection.weight, c) for z, c in zip(zp, out.c, strict=True)]
        )
    torch.testing.assert_close(out.f, expected)
    assert not torch.allclose(out.f, zp, atol=1e-3)


def test_second_vit_starts_equal_and_is_trained_separately(encoder, images):
    model = encoder("two_vits")
    out = model(images)
    assert torch.equal(out.c, out.f) and model.resnet is None
    out.c.sum().backward()
    assert all(value.grad is None for value in model.vit.parameters())
    assert model.second_vit.conv1.weight.grad.abs().max() > 0


def test_cross_attention_equals_loop(encoder, images):
    from csgn_lib.backbones import vit_features

    model = encoder("cross_attention", seed=4)
    join, pictures = model.join, images[:2].float() / 255
    with torch.no_grad():
        join.gate.fill_(0.7)
        vit = vit_features(model.vit, (pictures - model.vit_mean) / model.vit_std, tokens=True)
        cells = join.map_norm(model.resnet(pictures).feature_map.flatten(2).mT)
        queries = join.query_norm(torch.cat([vit.z12[:, None], vit.tokens], dim=1))
        for i in range(2):
            q, k, v = (queries[i] @ join.query.weight.T, cells[i] @ join.key.weight.T, cells[i] @ join.value.weight.T)
            answers = torch.zeros_like(q)
            for head in range(2):
                part = slice(64 * head, 64 * head + 64)
                for row in range(len(q)):
                    answers[row, part] = (k[:, part] @ q[row, part] / 8).softmax(0) @ v[:, part]
            expected = vit.zp[i] + 0.7 * answers.mean(0) @ join.projection.weight.T
            torch.testing.assert_close(model(images[:2]).f[i], expected, rtol=1e-4, atol=1e-4)


def test_gamma_receives_gradient_first(encoder, images):
    model = encoder("steer")

    def gradients() -> list[float]:
        model.zero_grad()
        (model(images).f.square().sum()).backward()
        return [
            model.join.gamma.grad.norm(),
            model.join.projection.weight.grad.norm(),
            model.resnet.model.conv1.weight.grad.norm(),
        ]

    at_zero = gradients()
    assert at_zero[0] > 0 and at_zero[1] == 0 and at_zero[2] == 0
    with torch.no_grad():
        model.join.gamma.fill_(0.1)
    assert all(value > 0 for value in gradients())


def test_every_parameter_has_gradient_with_open_gates(encoder, images):
    for variant in registry.names("vss"):
        model = encoder(variant).train()
        for gate in ("gamma", "gate"):
            if hasattr(getattr(model, "join", None), gate):
                getattr(model.join, gate).data.fill_(0.1)
        heads = Heads(model.widths, 3, torch.Generator().manual_seed(0))
        out = heads(model(images))
        loss = sum(F.cross_entropy(x, torch.arange(6) % 3) for x in out.logits.values())
        loss = loss + sum(x.square().mean() for x in out.triplet.values())
        loss.backward()
        for name, value in [*model.named_parameters(), *heads.named_parameters()]:
            assert not value.requires_grad or (value.grad is not None and value.grad.isfinite().all()), (variant, name)


def test_initial_weights_depend_on_generator_only(encoder):
    torch.manual_seed(1)
    first = encoder("steer", seed=7).join.projection.weight
    torch.manual_seed(2)
    state = torch.get_rng_state()
    second, other = encoder("steer", seed=7).join.projection.weight, encoder("steer", seed=8).join.projection.weight
    assert torch.equal(first, second) and not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("variant", registry.names("vss"))
def test_weights_survive_safetensors(encoder, images, variant, tmp_path):
    model = encoder(variant)
    state = model.state_dict()
    assert {name.split(".")[0] for name in state} <= {"vit", "vit_mean", "vit_std", "second_vit", "resnet", "join"}
    assert not any("text" in name or "token_embedding" in name for name in state)
    save_file(state, tmp_path / "model.safetensors")  # refuses tensors that share memory
    other = encoder(variant, seed=9)
    with torch.no_grad():
        [value.zero_() for value in other.state_dict().values()]
        other.load_state_dict(load_file(tmp_path / "model.safetensors"))
        for name, value in model(images).parts().items():
            assert torch.equal(getattr(other(images), name), value)


@pytest.mark.parametrize("variant", registry.names("vss"))
def test_bf16_autocast_is_close_and_returns_float32(encoder, images, variant):
    model = encoder(variant)
    heads = Heads(model.widths, 3, torch.Generator().manual_seed(0))
    exact = model(images).descriptor()
    with torch.autocast("cpu", torch.bfloat16):
        embeddings = model(images)
        out = heads(embeddings)
        loss = sum(F.cross_entropy(x, torch.arange(6) % 3) for x in out.logits.values())
    loss.backward()
    for value in [*embeddings.parts().values(), *out.logits.values(), *out.triplet.values()]:
        assert value.dtype == torch.float32 and value.isfinite().all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    assert F.cosine_similarity(exact, embeddings.descriptor()).min() > 0.99


def test_invalid_variants_are_refused(towers):
    clip, resnet = towers
    generator = torch.Generator()
    with pytest.raises(InputError, match="unknown vss 'steering' .did you mean 'steer'.*; one of steer"):
        VisualEncoder(clip, resnet, "steering", generator)
    with pytest.raises(InputError, match="vss=steer needs a ResNet"):
        VisualEncoder(clip, None, "steer", generator)
    with pytest.raises(InputError, match="vss=none needs a CLIP"):
        VisualEncoder(None, resnet, "none", generator)


# --- the descriptor -----------------------------------------------------------------------------


def test_descriptor_equals_loop_with_unit_parts():
    embeddings = random_embeddings()
    descriptor = embeddings.descriptor()
    for i, row in enumerate(descriptor):
        pieces = [getattr(embeddings, name)[i] for name in ("z12", "f", "c")]
        expected = [float(value) / float(piece.norm()) for piece in pieces for value in piece]
        torch.testing.assert_close(row, torch.tensor(expected), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(descriptor.square().sum(1), torch.full((5,), 3.0))


def test_descriptor_parts_and_f_map():
    embeddings = random_embeddings()
    basis = torch.linalg.qr(torch.randn(128, 4, generator=torch.Generator().manual_seed(0))).Q
    mapped = embeddings.descriptor(parts=("f", "c"), f_map=lambda f: f - f @ basis @ basis.T)
    assert mapped.shape == (5, 128 + 256)
    torch.testing.assert_close(mapped[:, :128] @ basis, torch.zeros(5, 4), rtol=0, atol=1e-6)
    torch.testing.assert_close(mapped[:, :128].norm(dim=1), torch.ones(5))  # normalised after the words are out
    torch.testing.assert_close(mapped[:, 128:], F.normalize(embeddings.c, dim=1))
    alone = Embeddings(embeddings.z11, embeddings.z12, embeddings.f, None)
    assert alone.descriptor().shape == (5, 256)  # CLIP-ReID: [z12; zp]
    with pytest.raises(InputError, match="'c' is not in this model; it has z11, z12, f"):
        alone.descriptor(parts=("f", "c"))
    with pytest.raises(InputError, match="f if f_map"):
        Embeddings(None, None, None, embeddings.c).descriptor(f_map=lambda f: f)


def test_embeddings_are_concatenated_in_order():
    embeddings = random_embeddings(4)
    halves = [
        Embeddings(embeddings.z11[rows], embeddings.z12[rows], embeddings.f[rows], None)
        for rows in (slice(0, 3), slice(3, 4))
    ]
    joined = concatenate(halves)
    assert torch.equal(joined.f, embeddings.f) and torch.equal(joined.z11, embeddings.z11) and joined.c is None


# --- heads and groups ---------------------------------------------------------------------------


def test_heads_are_bnneck_and_classifier():
    embeddings = random_embeddings(8)
    heads = Heads(WIDTHS, 5, torch.Generator().manual_seed(0))
    out = heads(embeddings)
    assert list(out.logits) == ["z12", "f", "c"] and list(out.triplet) == ["z11", "z12", "f", "c"]
    for name, logits in out.logits.items():
        x = getattr(embeddings, name)
        normal = (x - x.mean(0)) / (x.var(0, unbiased=False) + 1e-5).sqrt()
        torch.testing.assert_close(logits, normal @ heads.classifiers[name].weight.T, rtol=1e-4, atol=1e-6)
        assert abs(heads.classifiers[name].weight.std() - 0.001) < 1e-4 and heads.classifiers[name].bias is None
        assert not heads.necks[name].bias.requires_grad and not heads.necks[name].bias.any()
        assert out.triplet[name] is x  # before the neck


def test_heads_apply_f_map():
    embeddings = random_embeddings(8)
    heads = Heads(WIDTHS, 5, torch.Generator().manual_seed(0))
    plain, mapped = heads(embeddings), heads(embeddings, f_map=lambda f: f[:, torch.arange(127, -1, -1)])
    assert torch.equal(mapped.triplet["f"], embeddings.f.flip(1)) and torch.equal(mapped.logits["c"], plain.logits["c"])
    assert not torch.allclose(mapped.logits["f"], plain.logits["f"])


@pytest.mark.parametrize("variant", registry.names("vss"))
def test_parameter_groups_cover_every_parameter_once(encoder, variant):
    model = encoder(variant)
    heads = Heads(model.widths, 5, torch.Generator().manual_seed(0))
    experiment = Experiment.from_parameters(lr_vit=1e-5, lr_resnet=2e-4, lr_heads=3e-3, weight_decay=0.01)
    groups = parameter_groups(model, heads, experiment)
    named = [*model.named_parameters(), *(("heads." + name, value) for name, value in heads.named_parameters())]
    names = {id(value): name for name, value in named if value.requires_grad}
    members = [id(value) for group in groups for value in group["params"]]
    assert sorted(members) == sorted(names) and len(set(members)) == len(members)
    for group in groups:
        assert group["weight_decay"] == 0.01
        for value in group["params"]:
            name = names[id(value)]
            rate = 1e-5 if name.startswith(("vit.", "second_vit.")) else 2e-4 if name.startswith("resnet.") else 3e-3
            assert group["lr"] == pytest.approx(rate * (2 if "bias" in name.rsplit(".")[-1] else 1)), name
    torch.optim.Adam(groups)
