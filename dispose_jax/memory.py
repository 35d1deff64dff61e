"""Running out of memory, told in one sentence with what helps in the stage that it happened in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import jax


class OutOfMemory(ValueError):
    """A stage needs more memory than its device, or the host, has; the message says what helps."""


def is_exhausted(error: BaseException) -> bool:
    """Whether an error says that a device's memory, or the host's, was not enough."""
    on_device = isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in str(error)
    return on_device or isinstance(error, (MemoryError, OutOfMemory))


@contextmanager
def explained(stage: str, helps: str) -> Iterator[None]:
    """Turn running out of memory inside into OutOfMemory with one sentence.

    stage: what is being done, such as "decoding"; helps: what to do about it, an imperative.
    """
    try:
        yield
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        if not is_exhausted(error):
            raise
        raise OutOfMemory(
            f"out of memory while {stage}: {helps}; --dry_run tells the needs"
        ) from error
