"""A small config for jobs, and work that takes no time."""

import pytest

from tests import small
from tests.jobs.given import Fake


@pytest.fixture(scope="module")
def config():
    made = small.config("base", guidance=1.0)
    made.sample.update({"resolution": 64, "max_frames": 2, "window": 4, "overlap": 2, "steps": 1})
    return made


@pytest.fixture
def fake(monkeypatch):
    return Fake(monkeypatch)
