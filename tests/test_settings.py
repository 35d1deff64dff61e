"""Configurations from the command line: found, and changed value by value."""

import shutil
import sys

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
    content = OWN.format(imported="", line="config.name = arg")
    (tmp_path / "mine.py").write_text(content.replace("svd.get_config(arg)", "svd.get_config()"))
    assert settings.load("mine.py:a:b").name == "a:b"


@pytest.mark.parametrize("name", ["link", "a:b"])
def test_the_checkout_may_be_reached_by_a_link_of_any_name(monkeypatch, tmp_path, name):
    link = tmp_path / name
    link.symlink_to(settings.CHECKOUT)
    monkeypatch.setattr(settings, "CHECKOUT", link)
    monkeypatch.setattr(settings, "PACKAGE", link / settings.PACKAGE.name)
    monkeypatch.chdir(tmp_path)
    assert settings.load("configs/svd.py:size=tiny").name == "configs/svd.py:size=tiny"


OWN = """from configs import svd
{imported}
def get_config(arg=None):
    config = svd.get_config(arg)
    {line}
    return config
"""


def test_a_config_of_ones_own_changes_ours_and_imports_its_neighbours(tmp_path):
    (tmp_path / "neighbour_of_a_config.py").write_text("STEPS = 7")
    content = OWN.format(
        imported="from neighbour_of_a_config import STEPS", line="config.train.steps = STEPS"
    )
    (tmp_path / "own.py").write_text(content)
    before = list(sys.path)
    config = settings.load(f"{tmp_path / 'own.py'}:size=tiny")
    assert config.train.steps == 7
    assert config.train.batch == tiny().train.batch
    assert sys.path == before


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("config.train.learnig_rate = 1e-3", 'line 5: AttributeError: Key "learnig_rate" does not'),
        ("config.smaple = {'steps': 5}", 'line 5: AttributeError: Key "smaple" does not'),
        ("config.train.steps = 1e3", "line 5: TypeError: Could not override field 'steps'"),
        ("config.train.steps = int('many')", "line 5: ValueError: invalid literal"),
        ("config.train.steps = __import__('json').loads('{')", "line 5: JSONDecodeError: "),
        ("config.train.steps = STEPS", "line 5: NameError: name 'STEPS' is not defined"),
        ("config = None", "returned NoneType, expected a ConfigDict"),
        ("config = {}", "returned dict, expected a ConfigDict"),
        ("config = FrozenConfigDict(config)", "returned FrozenConfigDict, expected a ConfigDict"),
    ],
)
@pytest.mark.parametrize("base", ["svd", "sd15"])
def test_mistakes_of_a_config_of_ones_own_are_told_with_their_line(tmp_path, base, line, message):
    imported = "from ml_collections import FrozenConfigDict"
    content = OWN.format(imported=imported, line=line).replace("svd", base)
    (tmp_path / "own.py").write_text(content)
    argument = f"{tmp_path / 'own.py'}:size=tiny"
    with pytest.raises(ValueError) as caught:
        settings.load(argument)
    told = str(caught.value)
    assert told.startswith(f"--config {argument}") and message in told
    assert "\n" not in told and len(told) < len(argument) + 250, "not all that the config has"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("config.train = {'steps': 5}", "it lacks train.accumulate, train.average, train.b1, "),
        ("config.control = {'motion': ()}", "it lacks control.motion_into, control.points, cont"),
        ("config.dift = {**config.dift, 'promt': ''}", "it has dift.promt, which nothing reads"),
        ("config.base = 'sd3'", "its base is 'sd3', expected 'svd' or 'sd15'"),
        ("config.base = 'common'", "its base is 'common', expected 'svd' or 'sd15'"),
        ("config = ConfigDict()", "its base is None, expected 'svd' or 'sd15'"),
    ],
)
def test_a_section_in_the_place_of_another_has_its_settings(tmp_path, line, message):
    imported = "from ml_collections import ConfigDict"
    (tmp_path / "own.py").write_text(OWN.format(imported=imported, line=line))
    with pytest.raises(ValueError, match=r"^--config .*own\.py") as caught:
        settings.load(str(tmp_path / "own.py"))
    assert message in str(caught.value)


def test_a_config_of_ones_own_may_lie_beside_ours(monkeypatch, tmp_path):
    """There nobody looked at its names."""
    shutil.copytree(settings.CHECKOUT / "configs", tmp_path / "configs")
    monkeypatch.setattr(settings, "CHECKOUT", tmp_path)
    own = OWN.format(imported="", line="config.dift = {**config.dift, 'promt': ''}")
    (tmp_path / "configs" / "mine.py").write_text(own)
    with pytest.raises(ValueError, match="configs/mine.py: it has dift.promt, which nothing reads"):
        settings.load("configs/mine.py")


@pytest.mark.parametrize("argument", ["size=tiny,release=moore", "stage=motion", "variant=exp2"])
def test_whatever_ours_returns_is_taken_from_elsewhere(tmp_path, argument):
    content = OWN.format(imported="", line="config.control = dict(config.control)")
    (tmp_path / "own.py").write_text(content.replace("svd", "sd15"))
    found = settings.load(f"{tmp_path / 'own.py'}:{argument}")
    assert found.to_dict() == settings.load(f"configs/sd15.py:{argument}").to_dict()


def test_a_config_that_takes_no_argument_is_told_without_a_line(tmp_path):
    (tmp_path / "own.py").write_text("def get_config(): pass")
    with pytest.raises(ValueError, match=r"own\.py: TypeError: get_config\(\) takes 0"):
        settings.load(str(tmp_path / "own.py"))


def test_a_config_without_its_function_is_told(tmp_path):
    (tmp_path / "own.py").write_text("steps = 3")
    with pytest.raises(ValueError, match=r"^--config \S+own\.py: the file has no function get_co"):
        settings.load(str(tmp_path / "own.py"))


def test_what_our_own_config_says_of_an_argument_is_left_as_it_is(tmp_path):
    (tmp_path / "own.py").write_text(OWN.format(imported="", line="pass"))
    with pytest.raises(ValueError, match=r"^config argument 'size=huge': size is one of"):
        settings.load(f"{tmp_path / 'own.py'}:size=huge")


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


def test_infinity_is_a_number_in_a_list():
    found = overridden("sample.guidance_interval", "(0.3, inf)")
    assert found == (0.3, float("inf"))


def test_a_resolution_that_height_and_width_make_void_is_refused():
    config = settings.load("configs/svd.py:size=tiny")
    with pytest.raises(ValueError, match="resolution changes nothing where .* to 64 and 64"):
        settings.refuse_void(config, ["sample.resolution"])
    settings.refuse_void(config, ["sample.steps"])
    config.sample.update(height=0, width=0)
    settings.refuse_void(config, ["sample.resolution"])
