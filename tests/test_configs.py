"""Configurations: every argument loads, mistakes are named, and no key lies unread."""

import ast
import itertools
from functools import cache
from pathlib import Path

import jax.numpy as jnp
import pytest
from ml_collections import ConfigDict

from configs import common, sd15, svd
from dispose_jax import control_signals, limits
from dispose_jax.media import image
from dispose_jax.models import networks, registry

ROOT = Path(__file__).parents[1]
SIZES = ("full", "small", "tiny")
SIDES = ("width", "height")


def arguments():
    made = [f"size={size},variant={v}" for size, v in itertools.product(SIZES, common.CONTROL)]
    return [(base, argument) for base in (svd, sd15) for argument in made]


def named(cases):
    return [pytest.param(*case, id=f"{case[0].__name__[8:]}:{case[1]}") for case in cases]


@cache
def configs():
    return [base.get_config(argument) for base, argument in arguments()]


class Recorder:
    """A ConfigDict that notes which of its leaves are read."""

    def __init__(self, config, read, path=()):
        self._config, self._read, self._path = config, read, path

    def __getattr__(self, name):
        return self[name]

    def __getitem__(self, name):
        value, path = self._config[name], (*self._path, name)
        if isinstance(value, ConfigDict):
            return Recorder(value, self._read, path)
        self._read.add(path)
        return value

    def __contains__(self, name):
        return name in self._config

    def keys(self):
        return self._config.keys()

    def items(self):
        return [(name, self[name]) for name in self.keys()]


def leaves(config, path=()):
    """Paths of all values of a config."""
    for name, value in config.items():
        if isinstance(value, ConfigDict):
            yield from leaves(value, (*path, name))
        else:
            yield *path, name


def read_by_builders():
    """What the functions read that turn a config into networks, model and control recipe."""
    read = set()
    for config in configs():
        recorder = Recorder(config, read)
        built = networks.build(recorder)
        registry.build(recorder, built)
        control_signals.build(recorder, built)
    return read


def read_in_source():
    """(section, key) of every `section.key` in the program; the top section is `config`."""
    files = [*ROOT.glob("*.py")]
    for folder in ("dispose_jax", "converters", "benchmarks"):
        files += (ROOT / folder).rglob("*.py")
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                owner = node.value
                if isinstance(owner, (ast.Attribute, ast.Name)):
                    yield (owner.attr if isinstance(owner, ast.Attribute) else owner.id), node.attr


def test_no_key_of_a_config_lies_unread():
    """The sections of the networks are recorded while these are built, the rest is looked up in
    the source."""
    recorded, written = read_by_builders(), set(read_in_source())
    unread = {
        ".".join(path)
        for config in configs()
        for path in leaves(config)
        if path not in recorded
        and (path[0] in ("model", "quirks", "control") or ("config", *path)[-2:] not in written)
    }
    assert not unread, f"nothing reads {sorted(unread)}"


def test_the_search_for_unread_keys_finds_one():
    config = svd.get_config("size=tiny")
    with config.unlocked():
        config.model.unet.colour = "red"
    read = set()
    networks.build(Recorder(config, read))
    assert ("model", "unet", "colour") in set(leaves(config)) - read
    assert ("model", "unet", "channels") in read
    assert ("sample", "colour") not in set(read_in_source())


@pytest.mark.parametrize(("base", "argument"), named(arguments()))
def test_every_argument_gives_a_config_that_builds(base, argument):
    config = base.get_config(argument)
    size, variant = (part.split("=")[1] for part in argument.split(","))
    built = networks.build(config)
    control = common.CONTROL[variant]
    assert ("motion_encoder" in built) == bool(control["motion"])
    assert ("cmp" in built) == ("dense" in control["motion"])
    assert ("point_encoder" in built) == ("dift_unet" in built) == control["points"]
    places = {config.control.motion_into} if control["motion"] else set()
    places |= {config.control.points_into} if control["points"] else set()
    assert ("controlnet" in built) == ("controlnet" in places), "it exists iff something enters it"
    file = f"configs/{base.__name__.removeprefix('configs.')}.py"
    assert config.name == (file if size == "full" else f"{file}:size={size}")
    ConfigDict(config.to_dict()).lock()  # plain data: numbers, strings, tuples and dicts
    assert not any(callable(value) for value in flat_values(config))


def flat_values(config):
    for path in leaves(config):
        value = config
        for name in path:
            value = value[name]
        yield value


@pytest.mark.parametrize("base", [svd, sd15], ids=["svd", "sd15"])
def test_ablations_change_the_control_path_and_nothing_else(base):
    full = base.get_config("variant=full").to_dict()
    for variant in common.CONTROL:
        other = base.get_config(f"variant={variant}").to_dict()
        other["train"]["trainable"] = full["train"]["trainable"]  # what is absent cannot learn
        assert {k for k in full if full[k] != other[k]} <= {"control"}


def test_full_size_is_the_released_behaviour_and_the_small_model_the_textbook():
    assert svd.get_config().quirks.to_dict() == svd.RELEASED
    assert svd.get_config("size=tiny").quirks.to_dict() == svd.TEXTBOOK
    assert svd.RELEASED.keys() == svd.TEXTBOOK.keys()
    assert not svd.RELEASED.items() & svd.TEXTBOOK.items(), "every quirk has two values"


@pytest.mark.parametrize("base", [svd, sd15], ids=["svd", "sd15"])
def test_small_and_tiny_have_the_same_networks_for_pictures_of_other_sizes(base):
    small, tiny = (base.get_config(f"size={size}") for size in ("small", "tiny"))
    assert small.model.to_dict() == tiny.model.to_dict()
    assert small.quirks.to_dict() == tiny.quirks.to_dict()
    for section in (small.train, small.sample):
        assert (section.width, section.height) == (128, 128)
    # The sparse field's Gaussian covers the same share of the picture, at full size too.
    released = svd.get_config().motion
    for config, side in ((small, 128), (tiny, 64)):
        assert config.motion.sigma / side == pytest.approx(released.sigma / 576, rel=0.02)
        assert config.motion.kernel / config.motion.sigma == pytest.approx(10, rel=0.03)
    different = {
        (name, key)
        for name in ("train", "sample", "motion", "data", "skeleton", "dift", "control")
        for key, value in small[name].items()
        if value != tiny[name][key]
    }
    sizes = {("sample", "resolution"), *((s, k) for s in ("train", "sample") for k in SIDES)}
    others = (
        ("motion", "sigma"),
        ("motion", "kernel"),
        ("data", "heights"),
        ("sample", "guidance_scale"),
    )
    assert different == {*sizes, *others}


def test_values_left_out_of_the_argument_are_the_first_choices():
    choices = {"size": ("full", "tiny"), "variant": ("a", "b")}
    assert common.parse_arg(None, **choices) == {"size": "full", "variant": "a"}
    assert common.parse_arg("variant=b", **choices) == {"size": "full", "variant": "b"}
    assert common.parse_arg("size=tiny, variant=b", **choices) == {"size": "tiny", "variant": "b"}
    with pytest.raises(ValueError, match="'size=tiny': size is given twice; leave one out"):
        common.parse_arg("size=full,size=tiny", **choices)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("variant=fool", r"variant=fool.*variant is one of full, no_motion"),
        ("size", r"'size': expected NAME=VALUE"),
        ("colour=red", r"colour=red.*a NAME of size, speed, stage, variant$"),
        ("size=tiny;variant=base", r"size is one of full, tiny"),
    ],
)
def test_mistakes_in_the_argument_are_named_with_what_is_possible(argument, message):
    with pytest.raises(ValueError, match=message):
        svd.get_config(argument)


def test_two_configs_share_no_mutable_state():
    one = svd.get_config("size=tiny")
    one.model.unet.layers = 5
    one.quirks.residuals = "changed"
    two = svd.get_config("size=tiny")
    assert two.model.unet.layers != 5
    assert two.quirks.residuals != "changed"


def test_guided_released_weights_are_built_for_pairs_of_rows():
    config = svd.get_config()
    assert networks.context_group(config) == 2
    config.sample.guidance_scale = 0.5  # between the halves: both are made
    assert networks.context_group(config) == 2
    config.sample.guidance_scale = 1.0
    assert networks.context_group(config) == 1
    unet = networks.build(svd.get_config(), jnp.bfloat16)["unet"].module
    assert unet.flavour.context_group == 2
    assert unet.flavour.dtype == jnp.bfloat16


def test_moore_animate_anyone_is_the_same_model_run_with_other_numbers():
    muse, moore = (sd15.get_config(f"release={name}").to_dict() for name in ("musepose", "moore"))
    assert muse["model"] == moore["model"]
    different = {k for k in muse["sample"] if muse["sample"][k] != moore["sample"][k]}
    assert {"betas", "window", "steps", "window_loop"} <= different
    assert {k for k in muse if muse[k] != moore[k]} == {"sample", "skeleton"}


@pytest.mark.parametrize("argument", ["", "release=moore", "size=small", "size=tiny,release=moore"])
def test_sizes_of_the_second_base_are_possible(argument):
    sample = sd15.get_config(argument).sample
    image.check_size(sample.height, sample.width)


def test_a_base_learns_before_there_is_anything_of_dispose():
    for stage in ("base", "motion"):
        config = sd15.get_config(f"stage={stage},variant=full")
        assert not config.control.motion and not config.control.points
        built = networks.build(config, training=True)
        assert set(config.train.trainable) <= set(built)
        assert not {"controlnet", "motion_encoder", "point_encoder"} & set(built)


def test_a_controlnet_that_starts_from_stable_diffusion_has_it_at_hand():
    config = sd15.get_config("variant=no_point")
    assert config.train.control_start == "dift_unet"
    assert "dift_unet" in networks.build(config, training=True)
    assert "dift_unet" not in networks.build(config)


@pytest.mark.parametrize(
    ("variant", "names"),
    [
        ("full", ("controlnet", "motion_encoder", "point_encoder")),
        ("no_motion", ("controlnet", "point_encoder")),
        ("no_point", ("controlnet", "motion_encoder")),
        ("no_cmp", ("controlnet", "motion_encoder", "point_encoder")),
        ("exp1", ("controlnet", "motion_encoder", "point_encoder")),
        ("exp2", ("motion_encoder", "point_encoder")),
        ("base", ()),
    ],
)
def test_training_a_variant_trains_what_it_has(variant, names):
    config = svd.get_config(f"size=tiny,variant={variant}")
    assert config.train.trainable == names
    built = networks.build(config, training=True)
    assert set(names) == set(built) & {"controlnet", "motion_encoder", "point_encoder"}


@pytest.mark.parametrize("base", [svd, sd15], ids=["svd", "sd15"])
@pytest.mark.parametrize("size", common.SIZES)
def test_a_speed_changes_how_is_sampled_and_nothing_else(base, size):
    exact = base.get_config(f"size={size}")
    assert base.get_config(f"size={size},speed=exact").to_dict() == exact.to_dict()
    work = []
    for speed in common.SPEEDS:
        config = base.get_config(f"size={size},speed={speed}")
        limits.check(config)
        assert config.name == exact.name, "weights serve every speed"
        other = {k for k, v in config.to_dict().items() if v != exact.to_dict()[k]}
        assert other <= {"sample"}
        work.append(config.sample.steps / config.sample.cache_interval)
    assert work == sorted(work, reverse=True) and len(set(work)) == len(work)
