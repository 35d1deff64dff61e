"""What running out of memory is, and what is told of it."""

import jax
import pytest

from dispose_jax import memory

FULL = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.")


@pytest.mark.parametrize("error", [FULL, MemoryError("host")])
def test_a_full_memory_is_one_sentence_of_its_stage(error):
    with pytest.raises(ValueError) as told:
        with memory.explained("baking", "take a smaller cake"):
            raise error
    assert str(told.value) == (
        "out of memory while baking: take a smaller cake; --dry_run tells the needs"
    )
    assert memory.is_exhausted(error) and memory.is_exhausted(told.value)
    assert told.value.__cause__ is error


@pytest.mark.parametrize(
    "error",
    [jax.errors.JaxRuntimeError("INTERNAL: x"), ValueError("RESOURCE_EXHAUSTED"), KeyError()],
)
def test_other_errors_stay_what_they_are(error):
    with pytest.raises(type(error)) as same:
        with memory.explained("baking", "take a smaller cake"):
            raise error
    assert same.value is error and not memory.is_exhausted(error)


def test_the_innermost_stage_is_the_one_that_is_told():
    with pytest.raises(memory.OutOfMemory, match="while stirring: stop"):
        with memory.explained("baking", "wait"), memory.explained("stirring", "stop"):
            raise FULL
