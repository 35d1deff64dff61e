"""Write docs/settings.md: every setting with its value, what it may be, and what it is.

python -m tests.settings_page

Values and explanations are those of the files in configs/, whose comments are read from their
source; what is allowed is in dispose_jax/limits.py. tests/test_settings_page.py fails while the
page is not what this writes.
"""

import ast
import io
import math
import tokenize
from pathlib import Path

from configs import sd15, svd
from dispose_jax import limits, settings

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "settings.md"
SOURCES = ("common", "svd", "sd15")
COLUMNS = (svd, ""), (sd15, ""), (svd, "size=small")
LEFT_OUT = ("model.", "name", "base", "bundled")  # sizes of networks; what a config is called
QUIRKS = ("TEXTBOOK", "RELEASED")
SECTIONS = ["seed", "control", "skeleton", "motion", "dift", "sample", "data", "train", "quirks"]
KINDS = {bool: "true or false", str: "text", int: "a whole number", float: "a number"}
HEAD = """# Settings

`--config.NAME=VALUE` changes one on the command line of every program. Values and explanations are
those of `configs/`, what is allowed of `dispose_jax/limits.py`: this page is written by
`python -m tests.settings_page`, and a test compares it. A dash: a setting of the other base. The
sizes of networks are in `config.model` and belong to the weights.

| setting | `svd.py` | `sd15.py` | `svd.py:size=small` | may be | what it is |
|---|---|---|---|---|---|
"""


def page() -> str:
    """The text of docs/settings.md."""
    values = [dict(settings.leaves(base.get_config(argument))) for base, argument in COLUMNS]
    every = dict.fromkeys(name for column in values for name in column)
    names = [name for name in every if not name.startswith(LEFT_OUT)]
    meanings = explanations()
    text = HEAD
    for name in sorted(names, key=lambda name: SECTIONS.index(name.partition(".")[0])):
        cells = [shown(column[name]) if name in column else "-" for column in values]
        some = next(column[name] for column in values if name in column)
        text += f"| `{name}` | {' | '.join(cells)} | {allowed(name, some)} | "
        text += f"{meanings.get(name, '')} |\n"
    return text


def shown(value) -> str:
    """A value as it is written on the command line."""
    if isinstance(value, tuple):
        return f"`({', '.join(map(repr, value))}{',' if len(value) == 1 else ''})`".replace(
            "'", '"'
        )
    if value == "":
        return '`""`'
    return f"`{value:.6g}`" if isinstance(value, float) else f"`{value}`"


def allowed(name: str, value) -> str:
    """The values that limits.check lets through."""
    if name in limits.CHOICES:
        return ", ".join(map(shown, limits.CHOICES[name]))
    if name not in limits.RANGES:
        return KINDS.get(type(value), "several")
    low, high = limits.RANGES[name]
    number = lambda x: f"{x:,}" if isinstance(x, int) else f"{x:.4g}"
    return f"{number(low)} or more" if high == math.inf else f"{number(low)} to {number(high)}"


def explanations() -> dict[str, str]:
    """{setting: the comment that stands beside or above its assignment in configs/}."""
    found = {}
    for source in SOURCES:
        text = (ROOT / "configs" / f"{source}.py").read_text()
        comments = {
            token.start[0]: token.string.removeprefix("#").strip()
            for token in tokenize.generate_tokens(io.StringIO(text).readline)
            if token.type == tokenize.COMMENT
        }
        alone = {row for row, line in enumerate(text.splitlines(), 1) if line.strip()[:1] == "#"}
        for node in ast.walk(ast.parse(text)):
            for name, first, last in _settings(node):
                above, row = [], first - 1
                while row in alone:
                    above.insert(0, comments[row])
                    row -= 1
                comment = comments.get(last) or " ".join(above)
                if comment:
                    found.setdefault(name, comment.replace("|", "\\|"))
    return found


def _settings(node):
    """(name, first line, last line) of each setting that a statement gives a value.

    Statements are `config.x.y = ...` or `x.y = ...`, the dictionaries of quirks, and the one that
    `common.control` returns.
    """
    if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Attribute):
        name = ast.unparse(node.targets[0]).removeprefix("config.")
        yield name, node.lineno, node.end_lineno
    elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) in QUIRKS:
        yield from _entries("quirks", node.value)
    elif isinstance(node, ast.FunctionDef) and node.name == "control":
        yield from _entries("control", node.body[-1].value)


def _entries(section: str, dictionary: ast.Dict):
    for key, value in zip(dictionary.keys, dictionary.values):
        if key is not None:  # else another dictionary put into it
            yield f"{section}.{key.value}", value.lineno, value.end_lineno


if __name__ == "__main__":
    PAGE.write_text(page())
