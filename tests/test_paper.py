"""docs/paper.md: every name in it exists, and what implements an equation says which."""

import importlib
import inspect
import re
from pathlib import Path

import pytest

from configs import common

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "paper.md").read_text()
ROWS = [line for line in TEXT.splitlines() if line.startswith("|")]
NAME = re.compile(r"`((?:[a-z_0-9]+\.)+[A-Za-z_]+)`")


def found(name: str):
    """What a dotted name below dispose_jax stands for."""
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(f"dispose_jax.{module}"), attribute)


def named(text: str) -> list[str]:
    return [name for name in NAME.findall(text) if not name.startswith("config.")]


def test_every_function_named_exists():
    names = named(TEXT)
    assert len(names) > 20
    for name in names:
        assert found(name), name


@pytest.mark.parametrize("row", [row for row in ROWS if re.match(r"\| [^|]*(eq\.|appendix)", row)])
def test_what_implements_an_equation_or_an_appendix_says_so(row):
    place = re.search(r"(eq\. \d|appendix [AD])", row)[1]
    texts = []
    for name in named(row):
        thing = found(name)
        methods = [thing, *(vars(thing).values() if inspect.isclass(thing) else ())]
        texts += [inspect.getdoc(part) or "" for part in methods if callable(part)]
    stated = re.compile(place.replace("eq. ", r"eq\. (\d and )?").replace(" ", r"\s"))
    assert any(stated.search(text) for text in texts), f"{place} in no docstring of {named(row)}"


def test_every_quirk_and_variant_is_in_the_tables():
    for quirk in common.TEXTBOOK:
        assert f"`{quirk}`" in TEXT
    for variant in common.CONTROL.keys() - {"full"}:
        assert f"variant={variant}`" in TEXT, variant
