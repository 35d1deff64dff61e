"""What the tests of reading inputs begin with."""

import pytest

from tests.inputs import given


@pytest.fixture
def sources(tmp_path):
    """A whole set of files."""
    return given.write(tmp_path)
