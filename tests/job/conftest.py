"""One job that went well, for all tests of jobs to compare with."""

import pytest

from dispose_jax import job
from dispose_jax.models import networks
from tests.job.given import prepared


@pytest.fixture(autouse=True, scope="package")
def built_once():
    """Jobs of equal networks share them: tracing them anew takes longer than all else in a job."""
    build, kept = networks.build, {}

    def once(config, *rest):
        parts = config.base, *map(str, (config.model, config.control, config.quirks))
        key = *parts, networks.context_group(config), *rest
        if key not in kept:
            kept[key] = build(config, *rest)
        return kept[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(networks, "build", once)
        yield


@pytest.fixture(scope="package")
def whole(tmp_path_factory):
    """A job that went well: its folder."""
    folder = tmp_path_factory.mktemp("whole")
    job.run(prepared(folder)[0])
    return folder
