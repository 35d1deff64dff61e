"""Batches made ahead: their order, position, errors and end; and which source a config names."""

import multiprocessing
import threading
import time

import jax
import numpy as np
import pytest

from dispose_jax.data import loader, prepare
from dispose_jax.training import sources
from tests.data import clipped
from tests.pose.poses import standing


class Counting:
    """Gives 0, 1, 2, ...; `broken` raises, `gate` waits."""

    def __init__(self, broken=None, gate=None):
        self.next, self.broken, self.gate, self.closed = 0, broken, gate, False

    def __next__(self):
        if self.gate is not None:
            self.gate.wait(20)
        if self.next == self.broken:
            raise ValueError("clip 3 cannot be read")
        self.next += 1
        return self.next - 1

    def state(self):
        return {"next": self.next}

    def restore(self, state):
        self.next = state["next"]

    def close(self):
        self.closed = True


def test_batches_come_in_order_and_the_position_is_that_of_the_last_one_taken():
    source = Counting()
    ahead = sources.Prefetcher(source)
    assert ahead.position == {"next": 0}
    for i in range(20):
        assert next(ahead) == i and ahead.position == {"next": i + 1}
    ahead.close()
    assert source.closed


def test_no_more_is_made_ahead_than_said():
    source = Counting()
    ahead = sources.Prefetcher(source)
    deadline = time.monotonic() + 20
    while source.next < sources.AHEAD + 1 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.1)
    assert source.next == sources.AHEAD + 1  # the last one waits for room
    ahead.close()
    assert threading.active_count() < 50 and not ahead._thread.is_alive()


def test_an_error_is_raised_where_its_batch_is_missed_and_again_after_that():
    ahead = sources.Prefetcher(Counting(broken=2))
    assert [next(ahead), next(ahead)] == [0, 1]
    for _ in range(2):
        with pytest.raises(ValueError, match="clip 3 cannot be read"):
            next(ahead)
    assert ahead.position == {"next": 2}
    ahead.close()


def test_closing_waits_for_the_batch_that_is_being_made():
    gate = threading.Event()
    source = Counting(gate=gate)
    ahead = sources.Prefetcher(source)
    threading.Timer(0.2, gate.set).start()
    ahead.close()
    assert source.closed and source.next <= 1


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    base = tmp_path_factory.mktemp("set")
    clipped.film(base / "videos", "a.mp4", 18)
    prepare.prepare(clipped.config(), base / "videos", base / "set", say=lambda _: None)
    return base / "set"


def test_a_source_that_is_not_there_is_named(tmp_path):
    config = clipped.config()
    with pytest.raises(ValueError, match="data.source is empty: name a set made by"):
        sources.open_source(config)
    config.data.source = str(tmp_path / "absent")
    with pytest.raises(ValueError, match="absent: no such folder; name a set made by"):
        sources.open_source(config)
    config.data.source = str(tmp_path)
    with pytest.raises(ValueError, match="no meta.json in it, so it is no prepared set"):
        sources.open_source(config)


def test_a_process_gets_its_rows(folder):
    config = clipped.config(source=str(folder))
    config.train.batch = 3
    whole, part = (sources.open_source(config, rows) for rows in (None, (2, 0)))
    expected, found = next(whole), next(part)
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(x[[2, 0]], y), expected, found)
    whole.close()
    part.close()


@pytest.mark.parametrize("stored, network", [("posterior", "vae"), ("point_features", "dift_unet")])
def test_results_of_other_networks_are_refused(folder, stored, network):
    config = clipped.config(source=str(folder))
    config.train.batch, config.control.points = 2, True
    source = loader.PreparedBatches(folder, config)
    made_with = {network: {"sha256": "a" * 64, "source": "other.pth"}}
    source.meta = {"posterior": None, "point_features": None, "weights": made_with, stored: {}}
    sources.check_weights(source, config, {network: "a" * 64})
    for held in ({network: "b" * 64}, {network: "random"}, {}):
        with pytest.raises(ValueError, match=f"its stored {stored} come from another {network}"):
            sources.check_weights(source, config, held)
    source.meta[stored] = None
    sources.check_weights(source, config, {})
    source.close()


@pytest.mark.parametrize("has_hands", [False, True])
def test_a_region_that_no_video_shows_is_doubted(tmp_path, has_hands):
    """Pose files of the body alone left the loss as it is without a region, and nobody said so."""
    for i in range(3):
        pose = standing(18, seed=i)
        if not (has_hands and i == 2):
            pose = pose.replace(hands_score=np.zeros_like(pose.hands_score))
        clipped.film(tmp_path / "videos", f"{i}.mp4", seed=i, num_frames=18, pose=pose)
    config = clipped.config()
    prepare.prepare(config, tmp_path / "videos", tmp_path / "set", say=lambda _: None)
    config.data.source = str(tmp_path / "set")
    for region, weight in (("hands", 4.2), ("hands", 0.5), ("face", 4.2), ("none", 4.2)):
        config.train.region, config.train.region_weight = region, weight
        source = sources.open_source(config)
        told = sources.region_in_doubt(source, config)
        source.close()
        if region == "hands" and not has_hands:
            assert told.startswith(f"train.region is 'hands', but no clip of {tmp_path / 'set'}")
            assert np.ptp(next(source).region) == 0, "as it says"
        else:
            assert told is None


def test_drawn_people_show_every_region_that_may_be_asked_of_them():
    config = clipped.config(source="synthetic")
    config.train.update({"region": "limbs", "guides": "joints"})
    source = sources.open_source(config)
    assert sources.region_in_doubt(source, config) is None
    source.close()


@pytest.mark.full
def test_held_out_people_are_not_those_of_training():
    config = clipped.config(source="synthetic")
    config.train.update({"batch": 1, "frames": 1, "guides": "joints"})
    first = next(sources.open_source(config))
    config.data.workers = 2
    assert not np.array_equal(first.frames, next(sources.held_out(config, 1)).frames)
    assert not multiprocessing.active_children(), "a few clips are sooner made than processes"


def test_held_out_clips_come_in_parts_of_their_own_size(folder):
    config = clipped.config(source=str(folder))
    config.train.batch = 3
    whole, part = sources.held_out(config, 2), sources.held_out(config, 2, rows=(1,))
    expected, found = next(whole), next(part)
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(x[[1]], y), expected, found)
    assert len(expected.frames) == 2 and config.train.batch == 3
    whole.close()
    part.close()
