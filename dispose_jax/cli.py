"""What the entry points share: flags, a private compile cache, and errors as one sentence.

A user's mistake is a ValueError (or an OSError of the files they named) anywhere below; it ends the
program with its message and exit code 1, wrong flags with 2. Anything else is a defect and keeps
its traceback.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import jax
from absl import flags

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dispose_jax"


def run(main: Callable[[], None]) -> None:
    """Parse the command line, call main and exit."""
    try:
        rest = flags.FLAGS(sys.argv)[1:]
        if rest:
            raise flags.Error(f"unexpected argument {rest[0]!r}; options start with --")
    # Overrides such as --config.sample.steps=x surface as whatever their parser raises.
    except (flags.Error, AttributeError, KeyError, ValueError, TypeError, OSError) as error:
        fail(error, 2)
    use_compile_cache()
    try:
        main()
    except (ValueError, OSError) as error:
        fail(error, 1)
    except KeyboardInterrupt:
        fail("interrupted", 130)


def fail(error: Exception | str, code: int) -> None:
    """Print one sentence and exit."""
    message = error.args[0] if isinstance(error, KeyError) and error.args else error
    print(f"{Path(sys.argv[0]).name}: {message}", file=sys.stderr)
    sys.exit(code)


def use_compile_cache() -> None:
    """Keep compiled programs between runs, in a folder of the user's own: it is trusted code."""
    try:
        CACHE.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError:
        return  # a read-only home costs compile time, nothing else
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(CACHE))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)
