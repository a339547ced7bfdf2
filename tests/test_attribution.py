"""Attribution maps, each against a slow implementation, and their checks."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from open_clip.model import CustomTextCLIP
from scipy.stats import spearmanr
from small_eva import EVA
from torch import Tensor, nn

from csgn_lib import backbones, registry
from csgn_lib.analysis import attribution
from csgn_lib.analysis.attribution import pairs
from csgn_lib.analysis.attribution.occluding import places
from csgn_lib.backbones import ClipTower, CompactTokenizer, ResNetTower, attention_weights, load_resnet, tiny_words
from csgn_lib.records import InputError
from csgn_lib.vss import Embeddings, VisualEncoder

SIZE, GRID = (96, 48), (12, 6)
READ = {"f": lambda e: e.f, "c": lambda e: e.c, "z12": lambda e: e.z12}


@pytest.fixture(scope="module")
def resnet() -> ResNetTower:
    torch.manual_seed(0)
    return load_resnet("csgn_tiny_resnet", None)


@pytest.fixture
def encoder(random_clip, resnet):
    def build(variant: str) -> VisualEncoder:
        made = VisualEncoder(*copy.deepcopy((random_clip, resnet)), variant, torch.Generator().manual_seed(0)).eval()
        gates = [p for p in made.join.parameters() if p.ndim == 0] if hasattr(made, "join") else []
        for gate in gates:  # open
            nn.init.constant_(gate, 0.5)
        return made

    return build


@pytest.fixture(scope="module")
def eva() -> VisualEncoder:
    torch.manual_seed(0)
    model = CustomTextCLIP(
        16,
        {"image_size": 32, "timm_model_name": EVA, "timm_pool": "token", "timm_proj": None},
        {"context_length": 48, "vocab_size": 99, "width": 32, "heads": 2, "layers": 1},
    )
    clip = ClipTower(model, CompactTokenizer(tiny_words(), 48), (0.5,) * 3, (0.5,) * 3)
    return VisualEncoder(clip, None, "none", torch.Generator()).eval()


def pictures(seed: int, count: int = 3, size: tuple[int, int] = SIZE) -> Tensor:
    """Blocks of colour, so that places differ."""
    coarse = torch.rand(count, 3, 6, 3, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(coarse, size=size, mode="nearest")


def is_a_map(maps: Tensor, size: tuple[int, int] = SIZE) -> None:
    assert maps.shape[-2:] == size and not maps.requires_grad and (maps >= 0).all()
    torch.testing.assert_close(maps.sum(dim=(-2, -1)), torch.ones(maps.shape[:-2]))


# ---------------------------------------------------------------- attention


@pytest.mark.parametrize("variant", [v for v in registry.names("vss") if v != "resnet"])
def test_embeddings_unchanged_by_reading_attention(encoder, variant) -> None:
    model, images = encoder(variant), pictures(1)
    with torch.no_grad():
        before = model(images).parts()
        with attention_weights(model.vit) as layers:
            during = model(images).parts()
        after = model(images).parts()
    asks = 73 if variant == "cross_attention" else 1  # who asks in the last block: where patches are not read, one
    assert [tuple(weights.shape) for weights in layers] == [(3, 2, 73, 73)] * 3 + [(3, 2, asks, 73)]
    for name in before:
        torch.testing.assert_close(during[name], before[name], atol=1e-6, rtol=1e-6)
        assert torch.equal(after[name], before[name])


def test_attention_is_the_softmax_that_the_block_computes(encoder) -> None:
    model, images = encoder("none"), pictures(1)
    entered: list[Tensor] = []
    block = model.vit.transformer.resblocks[2]
    block.ln_1.register_forward_hook(lambda _, given, made: entered.append(made))
    with torch.no_grad(), attention_weights(model.vit) as layers:
        model(images)
    projected = F.linear(entered[0], block.attn.in_proj_weight, block.attn.in_proj_bias)
    query, key, _ = projected.chunk(3, dim=-1)
    for head in range(2):
        own = slice(64 * head, 64 * head + 64)
        scores = query[..., own] @ key[..., own].transpose(1, 2) / 8  # the root of 64
        torch.testing.assert_close(layers[2][:, head], scores.softmax(dim=-1))


def test_rollout_equals_a_product_of_matrices_image_by_image(encoder) -> None:
    model, images = encoder("none"), pictures(2)
    with torch.no_grad(), attention_weights(model.vit) as layers:
        model(images)
    found = attribution.rollout(model, images, batch_size=2)
    is_a_map(found)
    for i in range(len(images)):
        mixed = np.eye(73)
        for weights in layers:
            mixed = (0.5 * weights[i].numpy().mean(axis=0) + 0.5 * np.eye(73)) @ mixed
        assert mixed.sum(axis=1) == pytest.approx(np.ones(73), abs=1e-5)
        cells = torch.tensor(mixed[0, 1:], dtype=torch.float32).view(1, 1, *GRID)
        expected = F.interpolate(cells, size=SIZE, mode="bilinear")[0, 0]
        torch.testing.assert_close(found[i], expected / expected.sum(), rtol=1e-4, atol=1e-8)


def test_attention_to_one_patch_gives_a_map_at_that_patch(encoder, monkeypatch) -> None:
    model = encoder("none")
    weights = torch.eye(73).expand(1, 2, 73, 73).clone()
    weights[:, :, 0] = F.one_hot(torch.tensor(1 + 6 * 9 + 4), 73).float()  # the patch of row 9, column 4
    monkeypatch.setattr("csgn_lib.analysis.attribution.attention._attention", lambda *_: [[weights] * 4])
    for found in (attribution.rollout(model, pictures(1, 1))[0], attribution.heads(model, pictures(1, 1))[0, 1]):
        row, column = divmod(int(found.argmax()), 48)
        assert (row // 8, column // 8) == (9, 4)


def test_heads_equal_class_token_rows_of_last_block(encoder) -> None:
    model, images = encoder("steer"), pictures(2)
    with torch.no_grad(), attention_weights(model.vit) as layers:
        model(images)
    found = attribution.heads(model, images, batch_size=2)
    assert found.shape == (3, 2, *SIZE)
    is_a_map(found)
    cells = layers[-1][1, 1, 0, 1:].view(1, 1, *GRID)
    expected = F.interpolate(cells, size=SIZE, mode="bilinear")[0, 0]
    torch.testing.assert_close(found[1, 1], expected / expected.sum())


def test_eva_output_unchanged_by_reading_attention(eva) -> None:
    images = pictures(3, size=(32, 32))
    kinds = [block.attn.fused_attn for block in eva.vit.trunk.blocks]
    with torch.no_grad():
        before = eva(images)
        with attention_weights(eva.vit) as layers:
            during = eva(images)
    assert [block.attn.fused_attn for block in eva.vit.trunk.blocks] == kinds
    torch.testing.assert_close(during.f, before.f, atol=1e-5, rtol=1e-5)
    assert len(layers) == 3 and layers[0].shape == (3, 2, 17, 17)
    torch.testing.assert_close(layers[1].sum(dim=-1), torch.ones(3, 2, 17))
    is_a_map(attribution.rollout(eva, images), (32, 32))
    assert attribution.all_maps(eva, images, images.flip(0)).keys() == {"rollout", "Grad-CAM (ViT)", "occlusion"}


def test_unreadable_attention_is_refused(encoder) -> None:
    model = encoder("none")
    for block in model.vit.transformer.resblocks:
        block.attn = nn.Identity()
    with pytest.raises(InputError, match="no attention maps: Identity"):
        attribution.rollout(model, pictures(1))


# ---------------------------------------------------------------- pairs


@pytest.mark.parametrize(("part", "tower"), [("f", "vit"), ("f", "resnet"), ("c", "resnet"), ("z12", "vit")])
def test_grad_cam_gradients_equal_finite_differences(encoder, part, tower) -> None:
    model, images, others = encoder("steer"), pictures(4, 1), pictures(5, 1)
    module = model.resnet if tower == "resnet" else model.vit.transformer.resblocks[-1].ln_1
    read, change = READ[part], {}

    def nudge(_: object, given: object, made: object) -> object:
        kept = made.feature_map if tower == "resnet" else made
        moved = kept + change["by"] if "by" in change else kept
        change.setdefault("whole", kept.detach())
        if tower == "vit":
            return moved
        return type(made)(moved.mean(dim=(2, 3)), moved)

    handle = module.register_forward_hook(nudge)
    with torch.no_grad():
        towards = read(model(others))
        change.clear()
        model(images)
        whole, slopes = change["whole"], []
        random = torch.Generator().manual_seed(0)
        channels = torch.randperm(whole.shape[1 if tower == "resnet" else 2], generator=random)[:3].tolist()
        for channel in channels:  # a step on all cells of a channel: the sum of its slopes
            values = []
            for step in (0.02, -0.02):
                by = torch.zeros_like(whole)
                by[(slice(None), channel) if tower == "resnet" else (slice(None), slice(1, None), channel)] = step
                change["by"] = by
                values.append(F.cosine_similarity(read(model(images)).double(), towards.double()).item())
            slopes.append((values[0] - values[1]) / 0.04)
    handle.remove()
    kept: list[Tensor] = []
    original = torch.autograd.grad

    def spy(*args: object, **named: object) -> tuple[Tensor, ...]:
        kept.append(original(*args, **named)[0])
        return (kept[0],)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pairs.torch.autograd, "grad", spy)
        attribution.grad_cam(model, images, others, read, tower)
    total = kept[0].sum(dim=(2, 3)) if tower == "resnet" else kept[0][:, 1:].sum(dim=1)
    assert total[0, channels].tolist() == pytest.approx(slopes, rel=0.02, abs=1e-5)


@pytest.mark.parametrize(("part", "tower"), [("f", "vit"), ("c", "resnet")])
def test_grad_cam_is_the_weighted_sum_of_activations(encoder, part, tower) -> None:
    model, images, others, kept = encoder("steer"), pictures(4), pictures(5), []
    module = model.resnet if tower == "resnet" else model.vit.transformer.resblocks[-1].ln_1
    found = attribution.grad_cam(model, images, others, READ[part], tower, batch_size=2)
    is_a_map(found)

    def keep(_: object, given: object, made: object) -> None:
        kept.append(made.feature_map if tower == "resnet" else made)
        kept[0].retain_grad()

    with torch.no_grad():
        towards = READ[part](model(others))
    module.register_forward_hook(keep)
    F.cosine_similarity(READ[part](model(images.requires_grad_())), towards).sum().backward()
    activation, slope = kept[0].detach(), kept[0].grad
    if tower == "vit":
        activation, slope = (t[:, 1:].transpose(1, 2).unflatten(2, GRID) for t in (activation, slope))
    for i in range(3):
        cells = sum(slope[i, k].mean() * activation[i, k] for k in range(activation.shape[1])).clamp(min=0)
        expected = F.interpolate(cells[None, None], size=SIZE, mode="bilinear")[0, 0]
        torch.testing.assert_close(found[i], expected / expected.sum(), rtol=1e-3, atol=1e-7)


def test_last_block_output_has_zero_gradient_at_patches(encoder) -> None:
    model, images, kept = encoder("none"), pictures(4).requires_grad_(), []
    for module in (model.vit.transformer.resblocks[-1], model.vit.transformer.resblocks[-1].ln_1):
        module.register_forward_hook(lambda _, given, made: kept.append(made))
    seen = backbones.vit_features(model.vit, (images - model.vit_mean) / model.vit_std, tokens=True)
    similarity = F.cosine_similarity(seen.zp, torch.ones(3, 128)).sum()
    before, after = torch.autograd.grad(similarity, kept)
    assert after[:, 1:].abs().max() == 0 < before[:, 1:].abs().max()  # ln_1 runs first


def test_grad_cam_needs_no_trainable_weight_and_leaves_no_gradient(encoder) -> None:
    trainable, frozen = encoder("steer"), encoder("steer").requires_grad_(False)
    trainable.recompute = True
    maps = [attribution.grad_cam(m, pictures(4), pictures(5), READ["f"]) for m in (trainable, frozen)]
    torch.testing.assert_close(*maps)
    assert trainable.recompute and all(value.grad is None for value in trainable.parameters())


def test_occlusion_equals_a_loop_over_patches_and_pixels(encoder) -> None:
    model, images = encoder("none"), pictures(6, 2)
    others = images.flip(-1)  # alike, so that there is something to lose
    found = attribution.occlusion(model, images, others, READ["f"], patch=32, stride=20)
    is_a_map(found)
    for i in range(2):
        drops = [[[] for _ in range(48)] for _ in range(96)]
        with torch.no_grad():
            towards = model(others[i : i + 1]).f
            before = F.cosine_similarity(model(images[i : i + 1]).f, towards).item()
            for top in (0, 20, 40, 60, 64):
                for left in (0, 16):
                    hidden = images[i : i + 1].clone()
                    hidden[..., top : top + 32, left : left + 32] = 0.5
                    drop = before - F.cosine_similarity(model(hidden).f, towards).item()
                    for y in range(top, top + 32):
                        for x in range(left, left + 32):
                            drops[y][x].append(drop)
        mean = np.array([[max(0, np.mean(cell)) for cell in row] for row in drops])
        assert found[i].numpy() == pytest.approx(mean / mean.sum(), rel=0.02, abs=1e-6)


@pytest.mark.parametrize(
    ("side", "patch", "stride", "begin"),
    [(48, 16, 16, [0, 16, 32]), (48, 16, 12, [0, 12, 24, 32]), (16, 16, 3, [0])],
)
def test_patches_end_at_the_border(side, patch, stride, begin) -> None:
    assert places(side, patch, stride) == begin


class Corner(nn.Module):
    """An encoder of one tower, c, that sees the upper left corner alone, and otherwise a constant."""

    vit = second_vit = None
    variant = "resnet"

    def forward(self, images: Tensor) -> Embeddings:
        corner = images[:, :, :16, :16].mean(dim=(2, 3))
        return Embeddings(None, None, None, torch.cat([corner, torch.full_like(corner[:, :1], 0.3)], dim=1))


def test_occlusion_and_deletion_find_the_only_relevant_region() -> None:
    model, image = Corner().eval(), torch.full((1, 3, 96, 48), 0.5)
    image[:, 0, :16, :16] = 1.0
    found = attribution.occlusion(model, image, image, READ["c"], patch=16, stride=16)
    assert found[0, :16, :16].sum() == pytest.approx(1)
    assert attribution.occlusion(model, image, 1 - image, READ["c"]).sum() == 0  # hiding it makes them more alike
    wrong = found.max() - found  # the corner goes last
    right, other = (attribution.deletion_insertion(model, image, image, m, READ["c"], steps=18) for m in (found, wrong))
    assert right.deletion[0, 0] == pytest.approx(1) and right.insertion[0, -1] == pytest.approx(1)
    assert right.deletion[0, 1:].max() < 1 and other.deletion[0, :-1].min() == pytest.approx(1)
    assert right.deletion_area < other.deletion_area and right.insertion_area > other.insertion_area


# ---------------------------------------------------------------- checks


def test_deletion_and_insertion_equal_a_loop_over_sorted_pixels(encoder) -> None:
    model, images, others = encoder("none"), pictures(6, 2), pictures(7, 2)
    maps = attribution.random_maps(model, images, torch.Generator().manual_seed(1))
    is_a_map(maps)
    found = attribution.deletion_insertion(model, images, others, maps, READ["f"], steps=4)
    for i in range(2):
        order = np.argsort(-maps[i].numpy().ravel(), kind="stable")
        for step in range(5):
            gone, come = images[i].clone().flatten(1), torch.full((3, 96 * 48), 0.5)
            taken = order[: 96 * 48 * step // 4]
            come[:, taken] = gone[:, taken]
            gone[:, taken] = 0.5
            with torch.no_grad():
                towards = model(others[i : i + 1]).f
                for values, pixels in ((found.deletion, gone), (found.insertion, come)):
                    value = F.cosine_similarity(model(pixels.view(1, 3, *SIZE)).f, towards).item()
                    assert values[i, step].item() == pytest.approx(value, abs=1e-5)
    curve = found.deletion[0].tolist()
    by_hand = sum((a + b) / 2 for a, b in zip(curve, curve[1:], strict=False)) / 4
    assert found.deletion_area[0].item() == pytest.approx(by_hand)


def test_randomised_shuffles_only_top_layers(encoder) -> None:
    model = encoder("steer")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    layers = attribution.depth(model)
    assert layers == 6  # embeddings, four blocks, head
    for top, touched in ((1, ("vit.proj", "resnet.model.layer4", "join.projection")), (layers, ("",))):
        made = attribution.randomised(model, torch.Generator().manual_seed(0), top)
        for name, value in made.named_parameters():
            same = torch.equal(value, before[name])
            may_change = name.startswith((*touched, "vit.ln_post"))
            assert same or may_change, name
            if may_change and value.numel() > 1 and value.unique().numel() > 1:
                assert not same, name
            assert torch.equal(value.flatten().sort().values, before[name].flatten().sort().values)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    whole = [attribution.randomised(model, torch.Generator().manual_seed(0), top) for top in (None, layers)]
    assert all(torch.equal(a, b) for a, b in zip(*(m.parameters() for m in whole), strict=True))


def test_rollout_changes_with_the_blocks_and_not_with_the_head(encoder) -> None:
    model, images = encoder("none"), pictures(8)
    own = attribution.rollout(model, images)
    made = [attribution.randomised(model, torch.Generator().manual_seed(0), top) for top in (1, None)]
    head, everything = (attribution.rank_correlation(own, attribution.rollout(m, images)) for m in made)
    assert head == pytest.approx(np.ones(3)) and (everything < 0.9).all()


def test_rank_correlation_equals_scipys_map_by_map(encoder) -> None:
    one, other = torch.rand(3, 8, 4), torch.rand(3, 8, 4).round(decimals=1)
    other[2] = 0
    found = attribution.rank_correlation(one, other)
    expected = [spearmanr(a.flatten(), b.flatten()).statistic for a, b in zip(one[:2], other[:2], strict=True)]
    assert found[:2] == pytest.approx(expected) and np.isnan(found[2])


# ---------------------------------------------------------------- parts


def test_shares_equal_loop_and_areas_for_uniform_map() -> None:
    random = np.random.default_rng(0)
    maps, masks = torch.rand(2, 8, 4, dtype=torch.float64), random.integers(0, 4, (2, 8, 4))
    maps = maps / maps.sum(dim=(1, 2), keepdim=True)
    groups = {"body": [1, 2], "garments": [3], "rest": [0]}
    found = attribution.share_on(maps, masks, groups)
    for i in range(2):
        for name, parts in groups.items():
            cells = [float(maps[i, y, x]) for y in range(8) for x in range(4) if masks[i, y, x] in parts]
            assert found[name][i] == pytest.approx(sum(cells))
    areas = attribution.share_on(torch.full((2, 8, 4), 1 / 32), masks, groups)
    assert areas["garments"].to_numpy() == pytest.approx((masks == 3).mean(axis=(1, 2)))
    assert attribution.share_on(torch.zeros(2, 8, 4), masks, groups).to_numpy().sum() == 0


def test_coarse_map_equals_cell_means() -> None:
    weights = torch.zeros(2, *SIZE)
    weights[0, 16:40, 8:21], weights[1, :8, :4] = 1.0, 1.0
    found = attribution.coarse(weights, 8)
    is_a_map(found)
    for i in range(2):
        cells = torch.zeros(1, 1, *GRID)
        for row in range(12):
            for column in range(6):
                cells[0, 0, row, column] = weights[i, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8].mean()
        expected = F.interpolate(cells, size=SIZE, mode="bilinear")[0, 0]
        torch.testing.assert_close(found[i], expected / expected.sum())
    assert found[0, 16:40, 24:].sum() > 0 == found[0, 56:].sum()
    torch.testing.assert_close(attribution.coarse(weights, 1), weights / weights.sum(dim=(1, 2), keepdim=True))


@pytest.mark.parametrize("groups", [{"body": [1]}, {"body": [0, 1], "garments": [1]}])
def test_each_part_belongs_to_one_group(groups) -> None:
    with pytest.raises(InputError, match="exactly one"):
        attribution.share_on(torch.ones(1, 1, 2), [[[0, 1]]], groups)


# ---------------------------------------------------------------- what is refused


def test_all_maps_omits_rollout_without_vit(encoder) -> None:
    model = encoder("resnet")
    for method in (attribution.rollout, attribution.heads):
        with pytest.raises(InputError, match="vss=resnet; use grad_cam or occlusion"):
            method(model, pictures(1))
    found = attribution.all_maps(model, pictures(1), pictures(2), patch=32, stride=32)
    assert found.keys() == {"Grad-CAM (ResNet)", "occlusion"}
    assert attribution.all_maps(encoder("steer"), pictures(1), pictures(2), occlude=False).keys() == {
        "rollout", "Grad-CAM (ViT)", "Grad-CAM (ResNet)"
    }  # fmt: skip
    is_a_map(attribution.random_maps(model, pictures(1), torch.Generator()))


@pytest.mark.parametrize(
    ("images", "others", "said"),
    [
        (pictures(1)[0], pictures(1), r"images are \(3, 96, 48\)"),
        (pictures(1)[:0], pictures(1)[:0], "one image at least"),
        (pictures(1, size=(32, 32)), pictures(1, size=(32, 32)), "32 x 32, the encoder takes 96 x 48"),
        (pictures(1), pictures(1)[:2], "one other for each image"),
    ],
)
def test_invalid_images_are_refused_before_forward(encoder, images, others, said) -> None:
    model = encoder("none")
    model.forward = lambda *_: pytest.fail("the encoder ran")
    maps = torch.ones(3, *SIZE)
    for call in (
        lambda: attribution.grad_cam(model, images, others),
        lambda: attribution.occlusion(model, images, others),
        lambda: attribution.pair_similarity(model, images, others),
        lambda: attribution.all_maps(model, images, others),
        lambda: attribution.deletion_insertion(model, images, others, maps),
    ):
        with pytest.raises(InputError, match=said):
            call()


def test_invalid_arguments_are_refused(encoder) -> None:
    model, images = encoder("none"), pictures(1)
    for said, call in {
        "call encoder.eval": lambda: attribution.rollout(copy.deepcopy(model).train(), images),
        "unknown tower": lambda: attribution.grad_cam(model, images, images, tower="text"),
        "vss=none has no resnet": lambda: attribution.grad_cam(model, images, images, tower="resnet"),
        "do not depend on the vit": lambda: attribution.grad_cam(encoder("steer"), images, images, READ["c"]),
        "stride 0": lambda: attribution.occlusion(model, images, images, stride=0),
        "patch 49": lambda: attribution.all_maps(model, images, images, patch=49),
        "stride 17": lambda: attribution.occlusion(model, images, images, patch=16, stride=17),
        "top=7": lambda: attribution.randomised(model, torch.Generator(), 7),
        "compare maps": lambda: attribution.rank_correlation(torch.ones(1, 2, 2), torch.ones(1, 2, 3)),
        "maps are": lambda: attribution.deletion_insertion(model, images, images, torch.ones(3, 4, 4)),
        "steps=0": lambda: attribution.deletion_insertion(model, images, images, torch.ones(3, *SIZE), steps=0),
        "cells of 0": lambda: attribution.coarse(torch.ones(1, *SIZE), 0),
        "cells of 49": lambda: attribution.coarse(torch.ones(1, *SIZE), 49),
        "masks": lambda: attribution.share_on(torch.ones(1, 2, 2), np.zeros((1, 2, 3)), {"rest": [0]}),
    }.items():
        with pytest.raises(InputError, match=said):
            call()


# ---------------------------------------------------------------- an independent implementation


def test_captum_agrees_on_occlusion_and_grad_cam(encoder) -> None:
    captum = pytest.importorskip("captum.attr")
    model, images, others = encoder("steer"), pictures(6, 2), pictures(7, 2)
    with torch.no_grad():
        towards = model(others).f

    def similarity(given: Tensor, fixed: Tensor) -> Tensor:
        return F.cosine_similarity(model(given).f, fixed)

    def unit(cells: Tensor) -> Tensor:
        return cells.clamp(min=0) / cells.clamp(min=0).sum(dim=(1, 2), keepdim=True)

    asked = {"sliding_window_shapes": (3, 16, 16), "strides": (3, 16, 16), "baselines": 0.5}
    theirs = captum.Occlusion(similarity).attribute(images, additional_forward_args=towards, **asked)[:, 0]
    ours = attribution.occlusion(model, images, others, READ["f"], patch=16, stride=16)
    torch.testing.assert_close(ours, unit(theirs.float()), rtol=1e-3, atol=1e-7)
    layer = captum.LayerGradCam(similarity, model.resnet.model.layer4)
    cells = layer.attribute(images, additional_forward_args=towards, relu_attributions=True).detach()
    theirs = unit(F.interpolate(cells, size=SIZE, mode="bilinear")[:, 0])
    torch.testing.assert_close(
        attribution.grad_cam(model, images, others, READ["f"], "resnet"), theirs, rtol=1e-3, atol=1e-7
    )
