"""Text files are read and written as UTF-8, whatever a system's own encoding is.

Else names with umlauts in a record written by output.write_json are others when they are read.
"""

import ast

import pytest

from tests.test_layers import MODULES


def lacking(source):
    """Lines of a source that open a text file without saying its encoding."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call) or any(k.arg == "encoding" for k in node.keywords):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else None
        is_text = name in ("read_text", "write_text")
        if isinstance(node.func, ast.Name) and node.func.id == "open":
            mode = node.args[1] if len(node.args) > 1 else ast.Constant("r")
            is_text = isinstance(mode, ast.Constant) and "b" not in mode.value
        if is_text:
            yield node.lineno


@pytest.mark.parametrize("module", sorted(MODULES))
def test_text_is_utf8_everywhere(module):
    found = list(lacking(MODULES[module].read_text(encoding="utf-8")))
    assert not found, f"lines {found}: say encoding='utf-8'"


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ("path.read_text()", 1),
        ("path.read_text(errors='replace')", 1),
        ("path.write_text(text)", 1),
        ("open(path)", 1),
        ("open(path, 'a')", 1),
        ("open(path, 'rb')", 0),
        ("open(path, 'ab' if held else 'wb')", 0),
        ("open(path, encoding='utf-8')", 0),
        ("path.read_text(encoding='utf-8')", 0),
        ("av.open(path)", 0),
    ],
)
def test_what_lacks_an_encoding_is_noticed(source, count):
    assert len(list(lacking(source))) == count
