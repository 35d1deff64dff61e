"""Choices: in the ranges that the model knows, whatever a browser sends."""

import math

import pytest

from configs import common
from dispose_jax.page import controls

TINY = controls.at_speeds("configs/svd.py:size=tiny", [])
FULL = controls.at_speeds("configs/svd.py", [])


def test_every_speed_has_its_config_and_the_one_named_comes_first():
    assert list(TINY) == list(controls.SPEEDS) == list(common.SPEEDS)
    named = controls.at_speeds("configs/svd.py:speed=draft,size=tiny", [("sample.overlap", "1")])
    assert list(named) == ["draft", "exact", "fast"]
    assert all(config.sample.overlap == 1 for config in named.values())
    assert named["draft"].sample.steps == TINY["draft"].sample.steps != TINY["exact"].sample.steps
    assert named["exact"].model == TINY["exact"].model


def test_a_config_that_knows_no_speeds_is_offered_as_it_is(tmp_path):
    (tmp_path / "own.py").write_text(
        "from configs import svd\ndef get_config(arg):\n    assert not arg\n"
        "    return svd.get_config('size=tiny')\n".replace("assert not arg", OWN)
    )
    found = controls.at_speeds(str(tmp_path / "own.py"), [])
    assert list(found) == ["exact"] and found["exact"].sample.steps == 8


OWN = "if arg: raise ValueError('no argument')"


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("configs/svd.py:size=tiny", [64, 128]),
        ("configs/svd.py", list(range(320, 1153, 64))),
        ("configs/sd15.py", list(range(384, 1537, 64))),
        ("configs/sd15.py:variant=base,release=moore", [512]),
    ],
)
def test_sizes_are_around_the_one_that_the_model_has(argument, expected):
    configs = controls.at_speeds(argument, [])
    found = controls.sizes(configs["exact"])
    assert found == expected
    assert controls.usual(configs).size in found


@pytest.mark.parametrize("configs", [TINY, FULL], ids=["tiny", "full"])
def test_what_is_chosen_when_the_page_opens_changes_nothing_but_the_length(configs):
    made = controls.config_of(configs, controls.usual(configs))
    assert made.sample.max_frames == controls.USUAL_FRAMES
    made.sample.max_frames = 0
    assert made.to_json() == configs["exact"].to_json()


def test_a_choice_is_a_config():
    made = controls.config_of(TINY, controls.Choice("draft", 5.0, 128, "musepose", 7, 2**32 - 1))
    sample = made.sample
    assert (sample.steps, sample.height, sample.width, sample.max_frames) == (5, 128, 128, 7)
    assert (made.seed, made.skeleton.fit) == (2**32 - 1, "musepose")
    assert sample.solver == "dpmpp_2m"
    assert TINY["draft"].sample.max_frames == 0, "a copy was changed"
    large = controls.config_of(FULL, controls.usual(FULL)._replace(size=320))
    assert (large.sample.resolution, large.sample.height) == (320, 0)


def test_finished_frames_follow_the_size_where_they_get_the_shape_of_the_picture():
    configs = controls.at_speeds("configs/sd15.py", [])
    made = controls.config_of(configs, controls.usual(configs)._replace(size=512))
    assert (made.sample.height, made.sample.width, made.sample.shown_height) == (512, 512, 512)


WRONG = {
    "speed": ["slow", None, 3, ["exact"]],
    "steps": [0, 101, 7.5, None, "8", True, math.nan, math.inf],
    "size": [65, 0, None, "64", {}],
    "fit": ["procrustes", None],
    "frames": [1, 601, -3],
    "seed": [-1, 2**32, None],
}


@pytest.mark.parametrize(("name", "value"), [(n, v) for n, some in WRONG.items() for v in some])
def test_an_impossible_choice_is_one_sentence(name, value):
    choice = controls.usual(TINY)._replace(**{name: value})
    with pytest.raises(ValueError, match="^[A-Z][a-z]+ is .*: expected ") as error:
        controls.config_of(TINY, choice)
    assert "\n" not in str(error.value) and len(str(error.value)) < 160
