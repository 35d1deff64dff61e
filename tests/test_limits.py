"""The values that no run can work with are named, and all others are let through."""

import pytest

from configs import svd
from dispose_jax import limits


@pytest.mark.parametrize(
    "argument", ["", "size=tiny", "size=small", "size=tiny,variant=base", "variant=no_cmp"]
)
def test_every_config_passes_its_own_check(argument):
    limits.check(svd.get_config(argument))


@pytest.mark.parametrize("guidance", [1.0, 3, (1.0, 3.0), [1.0, 3.0]])
def test_guidance_may_be_a_number_or_a_pair(guidance):
    config = svd.get_config("size=tiny")
    config.sample.guidance_scale = guidance
    limits.check(config)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("seed", -1),
        ("sample.steps", 0),
        ("sample.window", 1),
        ("sample.overlap", -1),
        ("sample.overlap", 8),
        ("sample.stride", 0),
        ("sample.max_frames", -1),
        ("sample.max_frames", 1),
        ("sample.fps", 1e-4),
        ("sample.decode_chunk", 0),
        ("sample.window_batch", 0),
        ("sample.fps", -1.0),
        ("sample.guidance_scale", "high"),
        ("sample.guidance_scale", ()),
        ("sample.guidance_scale", (1.0, "high")),
        ("sample.guidance_scale", float("nan")),
        ("sample.height", 0),
        ("sample.dtype", "float8"),
        ("motion.kernel", 48),
        ("motion.cmp_size", 100),
        ("train.objective", "nope"),
        ("motion.sigma", 0.0),
        ("train.average", 1.5),
        ("train.drop_rate", 1.5),
        ("train.clip", 0.0),
        ("train.b1", 1.0),
        ("train.b2", 1.0),
        ("train.noise_aug", None),
        ("train.noise_aug", -0.1),
        ("train.noise_aug", (1, 2, 3)),
        ("train.frames", 1),
        ("skeleton.hidden", (4, 18)),
        ("skeleton.hidden", ("wrist",)),
        ("skeleton.hidden", (4.0,)),
        ("data.heights", (0.9, 0.7)),
        ("data.heights", (0.9,)),
        ("data.heights", (0.0, 0.7)),
        ("control.motion", ("dense", "dense")),
        ("control.motion_into", "vae"),
        ("quirks.residuals", "twice"),
    ],
)
def test_values_that_no_run_can_work_with_are_named(name, value):
    config = svd.get_config("size=tiny")
    section, _, key = name.rpartition(".")
    (config[section] if section else config)[key] = value
    with pytest.raises(ValueError, match=f"^{name} is .*(expected|give both)"):
        limits.check(config)


def test_dropping_all_is_possible_but_not_each_alone_and_both():
    config = svd.get_config("size=tiny")
    config.train.drop_rate = 1.0
    limits.check(config)
    config.train.dropout = "svd_xtend"
    with pytest.raises(ValueError, match=r"drop_rate is 1\.0: expected a third at most"):
        limits.check(config)
    config.train.drop_rate = 0.3
    limits.check(config)


@pytest.mark.parametrize("interval", [(1.0,), (0.0, 1.0, 2.0), (2.0, 1.0), (1.0, 1.0)])
def test_an_interval_of_guidance_is_two_rising_levels(interval):
    config = svd.get_config("size=tiny")
    config.sample.guidance_interval = interval
    with pytest.raises(ValueError, match="^sample.guidance_interval is .*lower one first"):
        limits.check(config)


@pytest.mark.parametrize(
    ("name", "value"), [("solver", "ddim"), ("sigmas", "linear"), ("cache_interval", 0)]
)
def test_unknown_ways_of_sampling_are_named(name, value):
    config = svd.get_config("size=tiny")
    config.sample[name] = value
    with pytest.raises(ValueError, match=f"^sample.{name} is .*expected"):
        limits.check(config)
