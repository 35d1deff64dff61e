"""Values, bounds and explanations have one source, and the documentation says the same."""

import re

import pytest

from configs import sd15, svd
from dispose_jax import limits, settings
from tests import settings_page
from tests.settings_page import ROOT

DOCS = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md"]
SPAN = re.compile(r"`((?:control|skeleton|motion|dift|sample|data|train|quirks)(?:\.\w+)+)`")
CHANGE = re.compile(r"--config\.([a-z_.0-9]+)=('[^']*'|[^\s`\"]*)")


def every_setting():
    return dict(settings.leaves(svd.get_config())) | dict(settings.leaves(sd15.get_config()))


def test_the_page_of_settings_is_what_the_sources_say():
    assert settings_page.PAGE.read_text() == settings_page.page(), (
        "docs/settings.md is old: python -m tests.settings_page"
    )


def test_every_setting_is_explained():
    shown = [row.split(" | ") for row in settings_page.page().splitlines() if row[:3] == "| `"]
    assert len(shown) > 90
    assert not [row[0] for row in shown if not row[-1].strip(" |")]


def test_bounds_are_of_settings_that_exist_and_every_default_is_within_them():
    known = every_setting()
    assert not {*limits.RANGES, *limits.CHOICES} - known.keys()
    for base in (svd, sd15):
        for size in ("full", "small", "tiny"):
            limits.check(base.get_config(f"size={size}"))


@pytest.mark.parametrize("page", DOCS, ids=lambda path: path.name)
def test_settings_that_a_page_names_exist_and_take_the_values_it_gives_them(page):
    text, known = page.read_text(), every_setting()
    for name in SPAN.findall(text) if page.name != "paper.md" else ():  # it names modules
        if name.endswith(".py"):
            continue
        assert name in known or any(other.startswith(f"{name}.") for other in known), name
    for name, value in CHANGE.findall(text):
        if name.isupper() or value.isupper() or value[:1] == "$":  # a placeholder
            continue
        config = (svd if name in dict(settings.leaves(svd.get_config())) else sd15).get_config()
        settings.override(config, name, value.strip("'"))


def test_the_recipe_in_the_documentation_is_that_of_the_configuration():
    rows = dict(
        re.findall(r"^\| ([^|]+?) \| ([^|]+?) \|", (ROOT / "docs/training.md").read_text(), re.M)
    )
    train = svd.get_config().train
    numbers = lambda text: [
        float(n.replace(",", "")) for n in re.findall(r"\d[\d,.]*(?:e-\d+)?\b", text)
    ]
    assert numbers(rows["steps, batch, learning rate"]) == [
        train.steps,
        train.batch,
        train.learning_rate,
    ]
    assert numbers(rows["clip"])[:3] == [train.frames, train.width, train.height]
    assert numbers(rows["optimiser"]) == [
        train.b1,
        train.b2,
        train.epsilon,
        train.weight_decay,
        train.clip,
        train.warmup,
    ]
    levels = numbers(rows["noise levels `train.sigmas`"])
    assert levels == [train.sigma_mean, train.sigma_std]
    assert numbers(rows["noise on the reference `train.noise_aug`"])[0] == train.noise_aug
