"""A run's configuration: read from its file and changed from the command line (host code).

A config is a Python file with get_config(argument), see configs/. `--config.section.key=value`
changes one value and is read as the type that the value has. Every mistake is a ValueError of one
sentence. Which values a run can work with is limits.py's business.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import importlib.util
import math
import os
import re
import sys
import traceback
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

PACKAGE = Path(__file__).parent  # where configs/ lies in an installed package
CHECKOUT = PACKAGE.parent  # and in a checkout
BASES = ("svd", "sd15")
OVERRIDE = re.compile(r"--?config\.([^=]+)(?:=(.*))?", re.DOTALL)
# A Path has one slash less than was given: there only what nobody calls a folder or an arm.
ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://|(gs|gcs|s3|az|abfss?|hdfs|https?|ftp|file|hf):/")
_EXPECTED = "expected one such as configs/svd.py, with an argument after a colon if wanted"
TRUTH = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


def load(argument: str):
    """The config of "file.py" or "file.py:argument".

    A relative path is looked for here, then in the checkout or the installed package. The file may
    import what lies beside it. Raises ValueError if there is no such file, it is no config, it
    fails, then with its line, or it has other settings than ours.
    """
    name, colon, rest = argument.partition(":")
    path = next((p for p in (Path(name), CHECKOUT / name, PACKAGE / name) if p.is_file()), None)
    if path is None:
        raise ValueError(f"--config {argument}: no such file; {_EXPECTED}")
    config = _made(argument, path, rest if colon else None)
    _check_names(argument, config)
    return config


def _made(argument: str, path: Path, choice: str | None):
    """What a file's get_config returns for a choice, whatever settings it has; errors are of
    argument."""
    spec = importlib.util.spec_from_file_location("dispose_jax_config", path)
    if spec is None:
        raise ValueError(f"--config {argument}: not a Python file; {_EXPECTED}")
    module = importlib.util.module_from_spec(spec)
    with _importing(path.absolute().parent, CHECKOUT), _told(argument, spec.origin):
        spec.loader.exec_module(module)
        has_one = hasattr(module, "get_config")
        config = module.get_config(choice) if has_one else None
    if not has_one:
        raise ValueError(f"--config {argument}: the file has no function get_config(argument)")
    # What can be turned into a ConfigDict is a frozen one, of which no value can be changed.
    if not hasattr(config, "get_type") or hasattr(config, "as_configdict"):
        raise ValueError(
            f"--config {argument}: its get_config returned {type(config).__name__}, expected a "
            "ConfigDict, as configs/svd.py returns one"
        )
    return config


def _check_names(argument: str, config) -> None:
    """Raise ValueError unless a config has the settings that ours of its base has: in one of the
    user's own, a section that was put in the place of another may lack some, or have one nobody
    reads."""
    base = config.base if "base" in config else None
    ours = [folder / f"{base}.py" for folder in _folders() if base in BASES]
    path = next((file for file in ours if file.is_file()), None)
    if path is None:
        raise ValueError(f"--config {argument}: its base is {base!r}, expected 'svd' or 'sd15'")
    known, found = (
        {name for name, _ in leaves(one)} for one in (_made(argument, path, None), config)
    )
    if known - found:
        some = ", ".join(sorted(known - found)[:5])
        raise ValueError(
            f"--config {argument}: it lacks {some}; take configs/{base}.py's get_config and change "
            "single values of what it returns"
        )
    if found - known:
        some = ", ".join(sorted(found - known)[:5])
        raise ValueError(
            f"--config {argument}: it has {some}, which nothing reads; docs/settings.md lists what "
            "is read"
        )


def _folders() -> list[Path]:
    """Where our configs may lie, whatever leads there: a home folder may be a link."""
    return [(folder / "configs").resolve() for folder in (CHECKOUT, PACKAGE)]


@contextmanager
def _importing(*folders: Path) -> Iterator[None]:
    """Modules in these folders can be imported, unless others of their names are found first: a
    config imports configs.common and its neighbours, wherever we were started."""
    before = sys.path
    sys.path = [*before, *map(str, folders)]
    try:
        yield
    finally:
        sys.path = before


@contextmanager
def _told(argument: str, file: str) -> Iterator[None]:
    """Turn what a config's file raises into a ValueError of one sentence; one that a function of
    ours raises, which it calls, is such a sentence already."""
    try:
        yield
    except (SyntaxError, UnicodeDecodeError) as error:
        raise ValueError(f"--config {argument}: not valid Python: {error}") from error
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        last = Path(frames[-1].filename)
        is_ours = last != Path(file) and last.parent.resolve() in _folders()
        if is_ours and isinstance(error, ValueError):
            raise
        lines = [frame.lineno for frame in frames if frame.filename == file]
        where = f", line {lines[-1]}" if lines else ""  # none: it takes no argument
        # A locked ConfigDict quotes its reason, and goes on with all that it has.
        reason = str(error).split(". Other fields present")[0].strip("'")
        raise ValueError(
            f"--config {argument}{where}: {type(error).__name__}: {reason}; correct the file"
        ) from error


def at_home(arguments: Sequence[str] | None = None) -> list[str]:
    """Arguments, by default the command line's, with the ~ of --flag=~/a,~/b replaced, and that
    inside the value of --flag /a,~/b or --flag name=~/b, which a shell leaves alone there."""
    given = sys.argv[1:] if arguments is None else arguments
    is_name = lambda text: text[:1] == "-" and "=" not in text
    home = lambda match: os.path.expanduser(match[0])
    return [
        re.sub(r"(?<=[=,])~[\w.-]*(?=/|,|$)", home, argument)
        if argument[:1] == "-" or is_name(before)
        else argument
        for before, argument in zip(["", *given], given)
    ]


def filled(text: str) -> str:
    """A flag's value, as argparse takes it. Raises ArgumentTypeError for an empty one, as of a
    shell's variable that is not set: it would stand for the flag's absence, or for this folder."""
    if not text:
        raise argparse.ArgumentTypeError("is empty: give it a value, or leave it out")
    return text


def path(text: str) -> Path:
    """The same of a file or folder."""
    return Path(filled(text))


def take_overrides(arguments: Sequence[str]) -> tuple[list[tuple[str, str | None]], list[str]]:
    """Command line -> overrides (name, text) and the other arguments.

    Both --config.name=text and --config.name text are understood; text is None for a name alone.
    """
    overrides, others, rest = [], [], list(arguments)
    while rest:
        match = OVERRIDE.fullmatch(rest[0])
        if match is None:
            others.append(rest[0])
        elif match[2] is None and len(rest) > 1 and not rest[1].startswith("--"):
            overrides.append((match[1], rest.pop(1)))
        else:
            overrides.append((match[1], match[2]))
        rest.pop(0)
    return overrides, others


def override(config, name: str, text: str | None) -> None:
    """Set one value, named as in "sample.steps", in place.

    Raises ValueError for a name that is not there, with the closest one, and for a text that is
    not of the value's type.
    """
    flag = f"--config.{name}"
    if name == "train.stage":
        raise ValueError(f"{flag} is only told; choose it as --config FILE:stage={text}")
    known = [other for other, _ in leaves(config)]
    if name not in known:
        inside = [other for other in known if other.startswith(f"{name}.")]
        if inside:
            raise ValueError(f"{flag} is a group of settings; name one, such as {inside[0]}")
        close = like(config, name) or difflib.get_close_matches(name, known, 1)
        meant = " or ".join(f"--config.{other}" for other in close)
        hint = f"did you mean {meant}?" if close else "the config's file lists them all"
        raise ValueError(f"{flag}: there is no such setting; {hint}")
    *sections, key = name.split(".")
    node = config
    for section in sections:
        node = node[section]
    node[key] = _value(flag, text, node.get_type(key), node[key])


def refuse_void(config, given: Collection[str]) -> None:
    """Raise ValueError for a value that was given by its name and that others make void."""
    if "sample.resolution" in given and config.sample.height:
        raise ValueError(
            "--config.sample.resolution changes nothing where sample.height and sample.width "
            f"are set, to {config.sample.height} and {config.sample.width}; change these"
        )


def refuse_addresses(given: Mapping[str, object]) -> None:
    """Raise ValueError for an address such as gs://bucket/x, which a path would take for a folder
    here.

    given: texts, paths or lists of them by the flag, or other name, that has them.
    """
    for flag, value in given.items():
        for one in value if isinstance(value, list) else [value]:
            for text in str(one).split(","):
                if isinstance(one, (str, Path)) and ADDRESS.match(text):
                    raise ValueError(
                        f"{flag} {text}: only paths of this machine can be used; download the "
                        "file, or mount the bucket (for gs:// with gcsfuse), and give its path here"
                    )


def like(config, name: str) -> list[str]:
    """The settings with a name's last part: of "steps" and "sampling.steps" all that end so."""
    key = name.rpartition(".")[2]
    return [other for other, _ in leaves(config) if other.rpartition(".")[2] == key]


def leaves(config, prefix: str = "") -> Iterator[tuple[str, object]]:
    """All values by their dotted names."""
    for key, value in config.items():
        if hasattr(value, "items"):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _value(flag: str, text: str | None, kind: type, now):
    """A text as a value of a type; `object` stands for a number or several. now: what it replaces,
    the example for a list."""
    if text is None:
        if kind is bool:
            return True
        raise ValueError(f"{flag} needs a value: {flag}=VALUE")
    try:
        if kind is bool:
            return TRUTH[text.lower()]
        if kind is float:
            value = float(text)
            if not math.isfinite(value):
                raise ValueError
            return value
        if kind in (int, str):
            return kind(text)
        value = ast.literal_eval(re.sub(r"\binf\b", "1e999", text))
        if kind is tuple and isinstance(value, str):  # ("unet") lacks its comma, and is no letters
            value = (value,)
        return tuple(value) if kind is tuple or isinstance(value, (tuple, list)) else value
    except (ValueError, KeyError, SyntaxError, TypeError) as error:
        a_list = str(now or (1, 2)).replace("'", '"')  # to stand within a shell's '...'
        expected = {
            bool: "true or false",
            int: "a whole number",
            float: "a number",
            tuple: f"a list such as '{a_list}'",
        }.get(kind, "a number, or a pair such as 1,3")
        raise ValueError(f"{flag} is {text!r}: expected {expected}") from error
