"""Configurations from the command line: found, changed value by value, and checked."""

import pytest

from configs import svd
from dispose_jax import settings


def tiny():
    return svd.get_config("size=tiny")


def overridden(name, text):
    config = tiny()
    settings.override(config, name, text)
    return dict(settings.leaves(config))[name]


def test_a_config_is_its_files_function_called_with_the_argument():
    config = settings.load("configs/svd.py:size=tiny,variant=base")
    assert config.to_dict() == svd.get_config("size=tiny,variant=base").to_dict()
    assert settings.load("configs/svd.py").to_dict() == svd.get_config().to_dict()


def test_configs_of_the_checkout_are_found_from_any_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert settings.load("configs/svd.py:size=tiny").name == "configs/svd.py:size=tiny"
    (tmp_path / "mine.py").write_text("def get_config(argument): return {'argument': argument}")
    assert settings.load("mine.py:a:b") == {"argument": "a:b"}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("absent.py", None, "no such file"),
        ("notes.txt", "hello", "not a Python file"),
        ("broken.py", "def get_config(:", "not valid Python"),
        ("empty.py", "", "no function get_config"),
    ],
)
def test_what_is_no_config_is_named(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=f"--config .*{name}.*{message}"):
        settings.load(str(tmp_path / name))


def test_overrides_are_taken_out_of_the_command_line_in_order():
    line = "prog --config c.py:x=1 --config.a.b=1=2 --explain -config.c -3 --config.flag --output o"
    overrides, others = settings.take_overrides(line.split())
    assert overrides == [("a.b", "1=2"), ("c", "-3"), ("flag", None)]
    assert others == ["prog", "--config", "c.py:x=1", "--explain", "--output", "o"]


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("sample.steps", "10", 10),
        ("sample.noise_aug", "0.02", 0.02),
        ("sample.fps", "25", 25.0),
        ("sample.window_pad", None, True),
        ("sample.window_pad", "False", False),
        ("dift.prompt", "", ""),
        ("sample.guidance_scale", "1", 1),
        ("sample.guidance_scale", "1,3.5", (1, 3.5)),
        ("sample.guidance_scale", "(1, 3)", (1, 3)),
        ("control.motion", "('sparse',)", ("sparse",)),
        ("train.trainable", "('unet')", ("unet",)),
        ("train.trainable", '["unet", "vae"]', ("unet", "vae")),
    ],
)
def test_a_value_is_read_as_the_type_it_has(name, text, value):
    found = overridden(name, text)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("sample.stepz", "3", "no such setting; did you mean --config.sample.steps?"),
        ("steps", "3", "did you mean --config.sample.steps or --config.train.steps?"),
        ("smaple.window", "3", "no such setting; did you mean --config.sample.window?"),
        ("qqq", "3", "no such setting; the config's file lists them all"),
        ("sample", "3", "is a group of settings; name one"),
        ("sample.steps", "abc", "is 'abc': expected a whole number"),
        ("sample.steps", "2.5", "expected a whole number"),
        ("sample.steps", None, "needs a value"),
        ("sample.fps", "nan", "expected a number"),
        ("sample.window_pad", "maybe", "expected true or false"),
        ("sample.guidance_scale", "a,b", "expected a number, or a pair"),
        ("sample.guidance_scale", "", "expected a number, or a pair"),
        ("control.motion", "sparse", """expected a list such as '("sparse", "dense")'"""),
        ("skeleton.hidden", "wrists", "expected a list such as '(1, 2)'"),
        ("control.motion", "3", "expected a list"),
    ],
)
def test_a_wrong_override_is_named_with_what_was_meant(name, text, message):
    with pytest.raises(ValueError) as error:
        overridden(name, text)
    assert str(error.value).startswith(f"--config.{name}")
    assert message in str(error.value)


@pytest.mark.parametrize(
    "argument", ["", "size=tiny", "size=small", "size=tiny,variant=base", "variant=no_cmp"]
)
def test_every_config_passes_its_own_check(argument):
    settings.check(svd.get_config(argument))


@pytest.mark.parametrize("guidance", [1.0, 3, (1.0, 3.0), [1.0, 3.0]])
def test_guidance_may_be_a_number_or_a_pair(guidance):
    config = tiny()
    config.sample.guidance_scale = guidance
    settings.check(config)


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
    config = tiny()
    section, _, key = name.rpartition(".")
    (config[section] if section else config)[key] = value
    with pytest.raises(ValueError, match=f"^{name} is .*(expected|give both)"):
        settings.check(config)


def test_dropping_all_is_possible_but_not_each_alone_and_both():
    config = svd.get_config("size=tiny")
    config.train.drop_rate = 1.0
    settings.check(config)
    config.train.dropout = "svd_xtend"
    with pytest.raises(ValueError, match=r"drop_rate is 1\.0: expected a third at most"):
        settings.check(config)
    config.train.drop_rate = 0.3
    settings.check(config)


def test_infinity_is_a_number_in_a_list():
    found = overridden("sample.guidance_interval", "(0.3, inf)")
    assert found == (0.3, float("inf"))


@pytest.mark.parametrize("interval", [(1.0,), (0.0, 1.0, 2.0), (2.0, 1.0), (1.0, 1.0)])
def test_an_interval_of_guidance_is_two_rising_levels(interval):
    config = tiny()
    config.sample.guidance_interval = interval
    with pytest.raises(ValueError, match="^sample.guidance_interval is .*lower one first"):
        settings.check(config)


@pytest.mark.parametrize(
    ("name", "value"), [("solver", "ddim"), ("sigmas", "linear"), ("cache_interval", 0)]
)
def test_unknown_ways_of_sampling_are_named(name, value):
    config = tiny()
    config.sample[name] = value
    with pytest.raises(ValueError, match=f"^sample.{name} is .*expected"):
        settings.check(config)


def test_a_resolution_that_height_and_width_make_void_is_refused():
    config = settings.load("configs/svd.py:size=tiny")
    with pytest.raises(ValueError, match="resolution changes nothing where .* to 64 and 64"):
        settings.refuse_void(config, ["sample.resolution"])
    settings.refuse_void(config, ["sample.steps"])
    config.sample.update(height=0, width=0)
    settings.refuse_void(config, ["sample.resolution"])
