"""Parameters: unknown names and wrong types are refused by name; the digest tells experiments apart."""

import hashlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from csgn_lib.config import ADDED_LATER, METHODS, PRESETS, Experiment
from csgn_lib.records import InputError


@pytest.mark.parametrize("preset", [*PRESETS, *(f"{setting}+{method}" for setting in PRESETS for method in METHODS)])
def test_every_preset_is_valid_and_differs_from_itself_in_nothing(preset):
    experiment = Experiment.from_parameters(preset=preset)
    assert experiment.preset == preset
    assert experiment.difference() == {}


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"hfs": "none"}, "unknown parameter 'hfs' (did you mean 'hsf'?)"),
        ({"preset": "dmo"}, "unknown preset 'dmo' (did you mean 'demo'?)"),
        ({"preset": "demo+call"}, "unknown method 'call' (did you mean 'cal'?); one of csgn, identity-triplet"),
        ({"preset": "cal"}, "preset 'cal' is a method; name the setting that it is run in: demo+cal"),
        ({"preset": "demo+"}, "unknown method ''"),
        ({"preset": "prcc"}, "unknown preset 'prcc' (did you mean 'prcc-paper'?)"),
        ({"preset": 3}, "unknown preset 3"),
        ({"beta": "0.5"}, "beta = '0.5'"),
        ({"beta": 1.5}, "beta = 1.5"),
        ({"seed": 1.0}, "seed = 1.0"),
        ({"seed": True}, "seed = True"),
        ({"vit_stride": 4}, "vit_stride = 4"),
        ({"vss": "steering"}, "vss = 'steering'"),
        ({"stage2_milestones": [7, "x"]}, "stage2_milestones"),
    ],
)
def test_a_wrong_parameter_is_named(parameters, words):
    with pytest.raises(InputError) as error:
        Experiment.from_parameters(**parameters)
    assert words in str(error.value)


def test_values_go_over_the_preset_and_a_list_may_stand_for_a_tuple():
    experiment = Experiment.from_parameters(preset="demo", beta=0.25, stage2_milestones=[3, 5])
    assert experiment.clip_model == "csgn-tiny"
    assert experiment.difference() == {"beta": 0.25, "stage2_milestones": (3, 5)}


def test_a_method_is_laid_over_a_setting_and_parameters_over_both():
    experiment = Experiment.from_parameters(preset="prcc-paper+cal", clothes_adversarial_weight=0.5)
    assert (experiment.benchmark, experiment.vss, experiment.hsf) == ("prcc", "none", "none")
    assert experiment.difference() == {"clothes_adversarial_weight": 0.5}


def test_an_experiment_does_not_change():
    with pytest.raises(ValueError):
        Experiment.from_parameters().beta = 0.1


@settings(deadline=None)
@given(seed=st.integers(0, 10**6), beta=st.floats(0, 1), epochs=st.integers(0, 200))
def test_the_digest_tells_everything_but_the_seed(seed, beta, epochs):
    base = Experiment.from_parameters()
    other = Experiment.from_parameters(seed=seed, beta=beta, stage2_epochs=epochs)
    same = (other.beta, other.stage2_epochs) == (base.beta, base.stage2_epochs)
    assert (other.digest() == base.digest()) == same
    assert len(other.digest()) == 8 and int(other.digest(), 16) >= 0


def test_the_digest_of_a_written_experiment_is_that_of_the_read_one():
    experiment = Experiment.from_parameters(mdg="cross", beta=0.3)
    assert Experiment.from_parameters(**experiment.model_dump(mode="json")).digest() == experiment.digest()


def test_a_parameter_that_was_added_later_leaves_the_digests_of_before():
    experiment = Experiment.from_parameters()
    before = {name: value for name, value in experiment.model_dump(mode="json").items()
              if name not in ("seed", *ADDED_LATER)}  # fmt: skip
    assert experiment.digest() == hashlib.sha256(json.dumps(before, sort_keys=True).encode()).hexdigest()[:8]
    for name, value in {
        "vit_stride": 8,
        "batch_parts": 2,
        "compile": True,
        "colour_jitter": 0.5,
        "penalty_weight": 0.5,
    }.items():
        assert Experiment.model_fields[name].default == ADDED_LATER[name]
        assert Experiment.from_parameters(**{name: value}).digest() != experiment.digest()
