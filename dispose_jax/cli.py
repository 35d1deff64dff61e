"""What the entry points share: flags, a private compile cache, and errors as one sentence.

A user's mistake is a ValueError (or an OSError of the files they named) anywhere below; it ends the
program with its message and exit code 1, wrong flags with 2. Anything else is a defect and keeps
its traceback.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
from absl import flags

from dispose_jax import ahead, ending, memory, settings

SHARD = "i/n: of n machines this is number i, counted from 0."
OUT_OF_MEMORY = "out of memory: choose a smaller size or fewer frames; --dry_run tells the needs"
_NO_DEVICE = ("nable to initialize backend", "Unknown backend")  # in what JAX says


def _cache() -> Path | None:
    """The folder of compiled programs; None for a user without a home, as in a container that
    gives its own number to nobody it knows."""
    try:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:
        return None
    return home / "dispose_jax"


CACHE = _cache()


def run(main: Callable[[object], None]) -> None:
    """Parse the command line, call main with the config that its flag --config names, and exit."""
    ending.say_at_once()
    if {"--help", "-help", "-h"} & {*sys.argv[1:]}:
        print(_usage())
        return
    try:
        overrides, arguments = settings.take_overrides(settings.at_home(sys.argv))
        rest = _parse(arguments)[1:]
        if rest:
            raise ValueError(f"unexpected argument {rest[0]!r}; options start with --")
        _refuse_empty()
        given = {f"--{name}": flags.FLAGS[name].value for name in flags.FLAGS}
        given |= {f"--config.{name}": text for name, text in overrides}
        settings.refuse_addresses(given)
        config = settings.load(flags.FLAGS.config)
        for name, text in overrides:
            settings.override(config, name, text)
        settings.refuse_void(config, dict(overrides))
    except flags.IllegalFlagValueError as error:
        fail(_told(error), 2)
    except (flags.Error, ValueError, OSError) as error:
        fail(error, 2)
    use_compile_cache()
    for name in ("absl", "asyncio"):  # of libraries; what they raise is told here
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        with ending.interruptible():
            main(config)
    except (ValueError, OSError) as error:
        fail(error, 1)
    except RuntimeError as error:
        if memory.is_exhausted(error):
            fail(OUT_OF_MEMORY, 1)
        if not any(words in str(error) for words in _NO_DEVICE):
            raise
        fail(
            f"JAX_PLATFORMS is {os.environ.get('JAX_PLATFORMS', '')!r}, and JAX cannot use that "
            "here: install the extra for the device (cuda or tpu), or unset the variable",
            1,
        )
    except MemoryError:
        fail(OUT_OF_MEMORY, 1)
    except KeyboardInterrupt:
        fail("interrupted", 130)


def program(main: Callable[[object], None]) -> None:
    """`run` for a program of its own: one that fails or is interrupted while a thread still
    compiles ends at once and does not wait for what nobody needs any more."""
    try:
        run(main)
    except SystemExit as end:
        if end.code and ahead.is_compiling():
            for stream in filter(None, (sys.stdout, sys.stderr)):  # one may be closed
                stream.flush()
            os._exit(end.code)
        raise


def parse_shard(text: str) -> tuple[int, int]:
    """ "3/8" -> (3, 8). Raises ValueError for anything else, counting from 0."""
    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal() and int(number) < int(count)):
        raise ValueError(
            f"--shard {text}: expected i/n with i from 0 to n - 1, such as 0/8 for the first of 8"
        )
    return int(number), int(count)


def fail(error: Exception | str, code: int) -> None:
    """Print one sentence on one line and exit."""
    print(f"{Path(sys.argv[0]).name}: {' '.join(str(error).split())}", file=sys.stderr)
    sys.exit(code)


def use_compile_cache() -> None:
    """Keep compiled programs between runs, in a folder of the user's own: it is trusted code."""
    # JAX alone keeps those of a second or more: dozens of small ones were compiled in every run.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    if CACHE is None:
        return
    try:
        CACHE.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError:
        return  # a read-only home costs compile time, nothing else
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(CACHE))


def _parse(arguments: Sequence[str]) -> list[str]:
    """What of the arguments is no flag, after the program's name. Raises ValueError for a flag that
    there is not, with the setting of that name if there is one."""
    try:
        return flags.FLAGS(arguments)
    except flags.UnrecognizedFlagError as error:
        config = settings.load(flags.FLAGS["config"].value)
        same = " or ".join(f"--config.{name}" for name in settings.like(config, error.flagname))
        unlike, guess, _ = str(error).partition(". Did you mean")  # a flag of nearly that name
        if guess and not same:
            raise
        hint = (
            f"did you mean {same}?"
            if same
            else "settings are given as --config.NAME=VALUE, what chooses among configurations as "
            "--config FILE:NAME=VALUE"
        )
        raise ValueError(f"{unlike}; {hint}") from error


def _told(error: flags.IllegalFlagValueError) -> str:
    """What is wrong with a flag's value, which absl tells in Python's words."""
    wanted = {
        "('Non-boolean": "true or false",
        "invalid literal for int": "a whole number",
        "could not convert string to float": "a number",
    }
    for words, expected in wanted.items():
        given, found, _ = str(error).partition(f": {words}")
        if found:
            return f"{given.removeprefix('flag ')}: expected {expected}"
    return str(error)


def _refuse_empty() -> None:
    """Raise ValueError for a flag without a value, or a list with an empty part, as of a shell's
    variable that is not set: the bundled figure, or this folder, in its place would be a
    surprise."""
    for name in flags.FLAGS:
        flag = flags.FLAGS[name]
        if flag.present and flag.value in ("", []) and flag.default != flag.value:
            raise ValueError(f"--{name} is empty: give it a value, or leave it out")
        if isinstance(flag.value, list) and "" in flag.value:
            raise ValueError(
                f"--{name} is {','.join(flag.value)!r}: a part of it is empty; give it a value, or "
                "leave its comma out"
            )


def _usage() -> str:
    """What the entry point says of itself, and its flags."""
    return (
        f"{sys.modules['__main__'].__doc__}\n{flags.FLAGS.main_module_help()}\n\n"
        "  --config.KEY=VALUE: changes a value of the configuration, such as "
        "--config.sample.steps=10;\n    the configuration's file explains them all."
    )
