"""Batches from a prepared set: their order, their shares, their resumption, their content."""

import json
import multiprocessing
import os
import signal

import jax
import numpy as np
import pytest

from dispose_jax.correspondence import keypoints
from dispose_jax.data import loader, prepare, records
from dispose_jax.motion import tracks
from dispose_jax.types import Batch
from tests.data import clipped
from tests.data.test_records import record


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A set of 9 clips of 3 videos."""
    base = tmp_path_factory.mktemp("clips")
    for i in range(3):
        clipped.film(base / "videos", f"{i}.mp4", 18, seed=i)
    prepare.prepare(clipped.config(), base / "videos", base / "set", say=lambda _: None)
    return base / "set"


@pytest.fixture
def start(folder):
    """start(rows, workers=, ...) -> PreparedBatches, closed after the test."""
    started = []

    def make(rows=None, **values):
        config = clipped.config(**{k: v for k, v in values.items() if k in ("workers", "prefetch")})
        config.train.update({k: v for k, v in values.items() if k in ("batch", "frames")})
        config.seed = values.get("seed", config.seed)
        started.append(loader.PreparedBatches(folder, config, rows))
        return started[-1]

    yield make
    for source in started:
        source.close()


def take(source, count):
    return [next(source) for _ in range(count)]


def same(first: Batch, second: Batch):
    jax.tree.map(np.testing.assert_array_equal, first, second)


def identities(batches, folder):
    """The numbers of the clips in batches, told by their keypoints."""
    every = records.PreparedClips(folder)
    known = {keypoints.cells(every[i].pose, (64, 128))[0].tobytes(): [] for i in range(len(every))}
    for i in range(len(every)):
        known[keypoints.cells(every[i].pose, (64, 128))[0].tobytes()].append(i)
    assert all(len(found) == 1 for found in known.values())
    return [known[cells.tobytes()][0] for batch in batches for cells in batch.cells]


def test_a_batch_holds_what_its_records_hold(start, folder):
    batch = next(start(batch=9))
    assert batch.frames.shape == (9, 4, 64, 128, 3) and batch.frames.dtype == np.uint8
    assert batch.skeletons.shape == batch.frames.shape and batch.skeletons.max() > 100
    every = records.PreparedClips(folder)
    for row, i in enumerate(identities([batch], folder)):
        record = every[i]
        np.testing.assert_array_equal(batch.frames[row], record.frames)
        for name in ("pixels", "vectors", "valid"):
            np.testing.assert_array_equal(
                getattr(batch.guides, name)[row], getattr(record.guides, name)
            )
        steps = tracks.steps(record.pose, (64, 128), "drop")
        np.testing.assert_allclose(batch.steps.vectors[row], steps.vectors, rtol=1e-6)
    assert batch.point_features is None and batch.posterior is None


def test_an_epoch_shows_every_clip_once_and_the_next_one_in_another_order(start, folder):
    order = identities(take(start(batch=3), 9), folder)
    epochs = [order[:9], order[9:18], order[18:]]
    for epoch in epochs:
        assert sorted(epoch) == [*range(9)]
    assert epochs[0] != epochs[1] != epochs[2]
    assert epochs[0] != [*range(9)]


def test_the_order_follows_the_seed(start, folder):
    first, again, other = (identities(take(start(seed=s), 4), folder) for s in (1, 1, 2))
    assert first == again != other


@pytest.mark.parametrize("parts", [((0, 1), (2, 3)), ((0,), (1,), (2,), (3,)), ((1, 2), (0, 3))])
def test_processes_share_the_rows_of_the_same_batches(start, parts):
    whole = take(start(), 3)
    order = np.argsort(np.concatenate(parts))
    for batch, *shares in zip(whole, *(take(start(rows), 3) for rows in parts)):
        same(batch, jax.tree.map(lambda *leaves: np.concatenate(leaves)[order], *shares))


def test_whole_videos_are_kept_back_and_never_learnt_from(folder):
    learnt, seen = set(), set()
    config = clipped.config(held_out=2)
    config.train.batch = 2
    source = loader.PreparedBatches(folder, config)
    learnt.update(identities(take(source, 9), folder))
    source.close()
    for batch in (1, 2):
        config.train.batch = batch
        source = loader.PreparedBatches(folder, config, held_out=True)
        found = identities(take(source, 6 // batch), folder)
        source.close()
        assert found == sorted(found[:3]) * 2, "in the set's order, over and over"
        seen.update(found)
    assert learnt | seen == {*range(9)} and not learnt & seen
    video = lambda i: records.PreparedClips(folder)[i].video
    assert len({video(i) for i in seen}) == 1 and len(seen) == 3, "at least two: a video's clips"


def test_which_videos_are_kept_back_does_not_depend_on_the_seed(folder):
    clips = records.PreparedClips(folder)
    counts = [loader.kept_back(clips, count).sum() for count in (0, 1, 3, 4, 7, 100)]
    assert counts == [0, 3, 3, 6, 9, 9]
    fewer, more = (loader.kept_back(clips, count) for count in (1, 4))
    assert not (fewer & ~more).any(), "more keep back what fewer do"


def test_a_set_that_keeps_back_too_much_says_so(folder):
    config = clipped.config(held_out=7)
    with pytest.raises(ValueError, match="9 clips, of which 9 are kept back .*data.held_out"):
        loader.PreparedBatches(folder, config)
    config.data.held_out = 0
    source = loader.PreparedBatches(folder, config, held_out=True)
    assert len(identities([next(source)], folder)) == 4, "without any kept back, the set's own"
    source.close()


@pytest.mark.parametrize("done", [0, 1, 5])
def test_a_restored_source_continues_as_the_first_would_have(start, done):
    source = start()
    take(source, done)
    state = json.loads(json.dumps(source.state()))
    expected = take(source, 3)
    fresh = start()
    fresh.restore(state)
    assert fresh.state() == state
    for batch, other in zip(expected, take(fresh, 3)):
        same(batch, other)


def test_the_position_does_not_depend_on_how_many_processes_read(start):
    """A run may continue on another number of machines."""
    source = start()
    take(source, 2)
    state = source.state()
    expected = next(source)
    halves = [start(rows) for rows in ((0, 1), (2, 3))]
    for half in halves:
        half.restore(state)
    same(expected, jax.tree.map(lambda *x: np.concatenate(x), *map(next, halves)))


def test_a_source_goes_back_in_place(start):
    source = start(prefetch=1)
    state = source.state()
    first = take(source, 3)
    source.restore(state)
    for batch, again in zip(first, take(source, 3)):
        same(batch, again)


def test_a_state_of_other_data_is_refused(start):
    with pytest.raises(ValueError, match="cannot continue .*seed was 3, now 4; give it the same"):
        start(seed=4).restore(start(seed=3).state())
    with pytest.raises(ValueError, match="batch was 4, now 2"):
        start(batch=2).restore(start().state())


def test_longer_clips_serve_shorter_ones(start):
    long, short = next(start()), next(start(frames=3))
    same(short, jax.tree.map(lambda x: x if x.ndim < 3 or x.shape[1] != 4 else x[:, :3], long))


def test_what_a_set_cannot_serve_is_refused(start, folder, tmp_path):
    with pytest.raises(ValueError, match="holds 9 clips, less than a batch of 10; prepare more"):
        start(batch=10)
    with pytest.raises(ValueError, match="other settings .*frames is 4 there, 5 here"):
        start(frames=5)
    with pytest.raises(ValueError, match="no meta.json in it, so it is no prepared set"):
        loader.PreparedBatches(tmp_path, clipped.config())
    (tmp_path / "meta.json").write_text((folder / "meta.json").read_text())
    with pytest.raises(ValueError, match="holds no clips"):
        loader.PreparedBatches(tmp_path, clipped.config())


def test_a_damaged_clip_stops_the_batch_that_needs_it(folder, tmp_path):
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    broken = sorted(tmp_path.glob("*.arrayrecord"))[1]
    content = broken.read_bytes()
    broken.write_bytes(content[:70_000] + bytes(len(content) - 70_000))
    source = loader.PreparedBatches(tmp_path, clipped.config())
    with pytest.raises(ValueError, match=f"{broken.name}: clip . cannot be read"):
        take(source, 3)


@pytest.mark.full  # every process imports the program
def test_processes_that_read_give_what_threads_give(start):
    threads, processes = start(), start(workers=2)
    expected = take(threads, 4)
    for batch, other in zip(expected, take(processes, 4)):
        same(batch, other)
    state = processes.state()
    processes.restore(state)
    same(next(processes), next(threads))


@pytest.mark.full  # a process, as above
def test_processes_that_read_go_on_when_all_are_told_to_end_and_one_that_is_killed_is_told(start):
    threads, processes = start(), start(workers=1)
    expected = take(threads, 12)
    same(next(processes), expected[0])
    (reader,) = multiprocessing.active_children()
    for number in (signal.SIGINT, signal.SIGTERM):  # as a terminal or a batch system sends them
        os.kill(reader.pid, number)
    for batch in expected[1:]:  # more than were read ahead
        same(next(processes), batch)
    reader.kill()
    with pytest.raises(ValueError, match=r"reads clips was killed.*data\.workers \(now 1\)"):
        take(processes, 12)


def test_features_and_latents_reach_the_batch_only_where_they_are_used():
    config = clipped.config()
    clip = _record()
    layout = loader.examples.layout(config)
    without = loader.ExampleMaker(layout, 4, use_guides=True, use_features=False)(clip)
    assert without.point_features is None
    np.testing.assert_array_equal(without.posterior, clip.posterior)
    assert without.frames.shape == (1, 64, 128, 3) and without.skeletons.shape[0] == 4
    with_features = loader.ExampleMaker(layout, 3, use_guides=True, use_features=True)(clip)
    assert with_features.point_features.dtype == np.float32
    np.testing.assert_array_equal(with_features.point_features, clip.point_features)
    assert with_features.posterior.shape[0] == with_features.skeletons.shape[0] == 3


def _record():
    rng = np.random.default_rng(0)
    posterior = rng.normal(size=(4, 8, 16, 8)).astype(np.float16)
    clip = record(frames=4, posterior=posterior)
    return clip._replace(frames=clip.frames[:1])
