"""Scenes and counterfactuals, settings, outfits, and quality checks on a few people."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage

from csgn_lib.records import InputError
from csgn_lib.synthetic import quality
from csgn_lib.synthetic.body import load_body
from csgn_lib.synthetic.gait import Pose, skinning
from csgn_lib.synthetic.garments import COLOUR_FIELDS, draw_outfit
from csgn_lib.synthetic.materials import PARTS
from csgn_lib.synthetic.people import draw_person, rest_shape
from csgn_lib.synthetic.scenes import REACH, draw, luminance
from csgn_lib.synthetic.settings import SETTINGS, setting_named
from csgn_lib.synthetic.worlds import World, cameras_of, entries_of, person_of, split_of, wardrobe_of

PERSON = [PARTS.index(name) for name in PARTS if name not in ("background", "occluder")]
CLOTHES = [PARTS.index(name) for name in ("upper", "lower", "shoes", "bag", "hat")]


def _scene(number: int = 0, setting: str = "middle"):
    world = World(people=8, setting=setting, seed=3)
    return entries_of(world, number, wardrobe_of(world, split_of(world, number)), cameras_of(world)[:2])[0].scene


@pytest.fixture(scope="module")
def pictures():
    scene = _scene()
    other = person_of(World(people=8, seed=3), 5)
    changed = {
        "original": scene,
        "recoloured": scene.recoloured(),
        "reclothed": scene.reclothed(),
        "rebodied": scene.rebodied(other),
        "reposed": scene.reposed(),
        "gray": scene.grayed(),
    }
    return dict(zip(changed, draw(list(changed.values()), 96), strict=True))


def _near(mask, parts, reach):
    return (
        ndimage.binary_dilation(np.isin(mask, parts), np.ones((3, 3)), iterations=reach)
        if reach
        else np.isin(mask, parts)
    )


def test_recolouring_changes_only_pixels_of_clothes(pictures):
    before, after = pictures["original"], pictures["recoloured"]
    assert np.array_equal(before.mask, after.mask)
    outside = ~_near(before.mask, CLOTHES, REACH)
    assert outside.mean() > 0.5
    assert np.array_equal(before.image[outside], after.image[outside])
    inside = np.isin(before.mask, CLOTHES)
    assert np.abs(before.image[inside].astype(int) - after.image[inside]).mean() > 20


@pytest.mark.parametrize("kind", ["reclothed", "rebodied", "reposed"])
def test_other_counterfactuals_change_background_only_by_shadows(pictures, kind):
    before, after = pictures["original"], pictures[kind]
    person = _near(before.mask, PERSON, REACH) | _near(after.mask, PERSON, REACH)
    differs = (before.image != after.image).any(2) & ~person
    above_ground = np.arange(96)[:, None] < 40
    assert not (differs & above_ground).any()  # bitwise equal where no shadow falls
    assert differs.mean() < 0.25
    assert (before.mask != after.mask).mean() > 0.005


def test_gray_counterfactual_is_luminance_with_same_mask(pictures):
    assert np.array_equal(pictures["gray"].image, luminance(pictures["original"].image))
    assert np.array_equal(pictures["gray"].mask, pictures["original"].mask)
    assert luminance(np.array([[[255, 0, 0]]], dtype=np.uint8))[0, 0].tolist() == [76, 76, 76]


def test_picture_does_not_depend_on_batch(pictures):
    alone = _scene().draw(96)
    assert np.array_equal(alone.image, pictures["original"].image)
    assert np.array_equal(alone.mask, pictures["original"].mask)


def test_rebodied_keeps_stature_only_with_fixed_crops():
    other = person_of(World(people=8, seed=3), 5)
    street = _scene(setting="street")
    assert street.rebodied(other).person.stature == street.person.stature
    assert _scene().rebodied(other).person.stature == other.stature


def test_recoloured_outfit_differs_in_all_colours_only():
    outfit = draw_outfit(np.random.default_rng(1))
    other = outfit.recoloured(np.random.default_rng(2))
    assert all(getattr(outfit, name) != getattr(other, name) for name in COLOUR_FIELDS)
    assert replace(other, **{name: getattr(outfit, name) for name in COLOUR_FIELDS}) == outfit


def test_mask_has_background_skin_and_clothes(pictures):
    assert set(np.unique(pictures["original"].mask)) >= {
        0,
        PARTS.index("skin"),
        PARTS.index("upper"),
        PARTS.index("shoes"),
    }


def test_unknown_setting_error_lists_settings():
    with pytest.raises(InputError, match="unknown setting 'hard'; one of middle, calm, street"):
        setting_named("hard")


def test_invalid_size_is_refused():
    with pytest.raises(InputError, match="33 pixels high"):
        draw([_scene()], 33)


def test_settings_differ_as_documented():
    middle, calm, street = (SETTINGS[name] for name in ("middle", "calm", "street"))
    assert middle.any_heading and street.any_heading and not calm.any_heading
    assert street.cameras > middle.cameras and street.occluded > 0 == middle.occluded
    assert calm.spread > middle.spread and calm.stature_sd > middle.stature_sd


def test_colour_identity_is_share_of_people_with_own_colours():
    people = [draw_person(np.random.default_rng((1, k)), colour_identity=0.25) for k in range(300)]
    shared = sum(p.hair_colour == "dark brown" and p.skin == 0.3 for p in people) / 300
    assert shared == pytest.approx(0.75, abs=0.09)


def test_hanging_bone_follows_hand_and_stays_upright():
    body, person = load_body(), draw_person(np.random.default_rng(5))
    _, joints = rest_shape(body, person)
    bones = skinning(body, joints[None].repeat(2, 1, 1), [person.gait] * 2, [Pose(0.1), Pose(0.6)])
    hand = joints[body.bone("finger3-2.L")]
    wrist, hang = bones[:, body.bone("wrist.L")], bones[:, len(body.bones)]
    assert torch.allclose(hang[:, :, :3], torch.eye(3).expand(2, 3, 3))
    moved, hung = (b[:, :, :3] @ hand + b[:, :, 3] for b in (wrist, hang))
    assert (moved - hung).norm(dim=1).max() < 0.05
    assert (hung[0] - hung[1]).norm() > 0.1


def test_few_people_pass_quality_check():
    counts = quality.examine(quality.scenes_of_people("middle", 12, seed=11, each=1), 192)
    assert counts.pictures == 12 and counts.samples > 30_000
    assert counts.passed, counts


def test_quality_check_fails_above_each_limit():
    good = quality.Counts(10, 100_000, 400, 0, 0, 0)
    assert good.passed
    for bad in ({"bare": 600}, {"holes": 20}, {"floating": 1}, {"cut_off": 1}):
        assert not replace(good, **bad).passed
    two = np.zeros((20, 20), dtype=bool)
    two[2:5, 2:5] = two[10:14, 10:14] = True
    assert quality._floats(two) and not quality._floats(ndimage.binary_dilation(two, np.ones((3, 3)), iterations=4))


def test_quality_check_counts_skin_inside_garments():
    scene = quality.scenes_of_people("middle", 6, seed=11, each=1)[0]
    scene = replace(scene, outfit=replace(scene.outfit, upper="sweater", lower="trousers"))
    body = load_body()
    figure = quality.dress(body, scene.person, scene.outfit)
    nude = quality._undressed(body, figure, rest_shape(body, scene.person)[0])
    posed, seen, _ = quality._seen(body, [scene], [nude], (1, 128, 64))
    assert quality._bare(posed, seen, [figure]) > 0.3 * len(seen.pixel)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_gpu_renders_same_people():
    here, there = _scene().draw(96), draw([_scene()], 96, "cuda")[0]
    assert (here.mask != there.mask).mean() < 0.01
    assert np.abs(here.image.astype(int) - there.image).mean() < 1.0
