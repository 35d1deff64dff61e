"""Batches of drawn people: a function of seed and position, and true."""

from __future__ import annotations

import json
import multiprocessing

import jax
import numpy as np
import pytest

from configs import svd
from dispose_jax.synthetic import batches
from dispose_jax.synthetic.batches import HELD_OUT, MEASURED, DrawnBatches

CLIPS, FRAMES = 4, 3


def config(stage: str = "cmp", **train):
    made = svd.get_config(f"size=tiny,stage={stage}")
    made.train.update(batch=CLIPS, frames=FRAMES, **train)
    return made


@pytest.fixture(scope="module")
def whole():
    """The first two batches."""
    source = DrawnBatches(config())
    return [next(source), next(source)]


def assert_equal(one, other):
    """The same pictures to a grey level, and the same truth to rounding."""
    for ours, theirs in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        if ours.dtype == np.uint8:
            difference = np.abs(ours.astype(int) - theirs)
            # Strokes of a skeleton end at rounded pixels.
            assert np.median(difference) == 0 and (difference > 1).mean() < 1e-3
        elif ours.dtype == bool:
            assert (ours != theirs).mean() < 1e-3
        else:
            close = np.isclose(ours, theirs, atol=1e-3)
            assert close.mean() > 0.999


def test_clips_are_the_same_however_many_processes_share_them(whole):
    for rows in ([0, 1], [3, 0]):
        source = DrawnBatches(config(), rows)
        for batch in whole:
            assert_equal(next(source), jax.tree.map(lambda x, rows=rows: x[rows], batch))


def test_clips_are_the_same_whoever_paints_their_skeletons(whole):
    settings = config()
    settings.data.workers = 2
    source = DrawnBatches(settings, [0, 3, 1])
    try:
        for batch in whole:
            assert_equal(next(source), jax.tree.map(lambda x: x[[0, 3, 1]], batch))
        started = multiprocessing.active_children()
        assert len(started) == 2
        started[0].kill()
        started[0].join()
        with pytest.raises(ValueError, match=r"was killed.*data\.workers \(now 2\)"):
            for _ in range(100):  # the other may paint a batch alone before it is noticed
                next(source)
    finally:
        source.close()
    assert not any(process.is_alive() for process in started)


def test_people_are_those_that_the_config_wants(whole):
    taller = config()
    taller.data.heights = (1.2, 1.2)
    other = next(DrawnBatches(taller))
    assert other.figure.mean() > 1.5 * whole[0].figure.mean()
    assert batches.people(config()) == {"apart": 0.5, "heights": (0.68, 0.92)}


def test_a_restored_source_goes_on_where_the_other_would(whole):
    first = DrawnBatches(config())
    next(first)
    position = json.loads(json.dumps(first.state()))
    second = DrawnBatches(config())
    second.restore(position)
    again = next(second)
    jax.tree.map(np.testing.assert_array_equal, again, whole[1])
    assert second.state() == {"next": 2}


def test_every_batch_seed_and_group_has_people_of_its_own(whole):
    other_seed = config()
    other_seed.seed += 1
    groups = [next(DrawnBatches(config(), people=people)) for people in (HELD_OUT, MEASURED)]
    others = [whole[1], *groups, next(DrawnBatches(other_seed))]
    pictures = np.concatenate([batch.frames[:, 0] for batch in (whole[0], *others)])
    assert len(np.unique(pictures.reshape(len(pictures), -1), axis=0)) == 5 * CLIPS


def test_joints_count_as_a_detector_finds_them_but_in_the_reference_only_where_seen():
    points = np.full((2, 18, 2), 0.5)
    visible = np.ones((2, 18), bool)
    points[1, 4] = (1.2, 0.5)  # outside
    points[1, 5] = (0.0, 1.0)  # on the border
    visible[:, 6] = False  # behind another part
    pose = batches.pose_of(points, visible)
    expected = np.ones((2, 18), bool)
    expected[1, 4] = expected[0, 6] = False
    np.testing.assert_array_equal(pose.visible[:, 0], expected)
    np.testing.assert_array_equal(pose.body[:, 0], points)
    assert not pose.hands_score.any() and not pose.face_score.any()


def test_joints_guide_as_in_sampling(whole):
    for batch in whole:
        pixels, vectors, valid = batch.guides
        assert not valid[:, 0].any() and pixels.shape == (CLIPS, FRAMES, 18, 2)
        clip, frame, _ = np.nonzero(valid)
        column, row = pixels[valid].T
        error = np.linalg.norm(vectors[valid] - batch.flow[clip, frame, row, column], axis=-1)
        on_person = batch.figure[clip, 0, row, column]
        # A hidden joint of the reference guides nothing, so the flow under a joint is its own.
        assert on_person.mean() > 0.9 and np.median(error[on_person]) < 0.5


def test_flow_guides_with_exact_vectors_at_its_watershed():
    batch = next(DrawnBatches(config(guides="flow")))
    pixels, vectors, valid = batch.guides
    assert pixels.shape[2] == svd.get_config("size=tiny").data.max_guides
    count = valid[:, 1:].sum(-1)
    assert not valid[:, 0].any() and count.min() >= 1 and count.max() > 1
    clip, frame, _ = np.nonzero(valid)
    column, row = pixels[valid].T
    np.testing.assert_allclose(
        vectors[valid], batch.flow[clip, frame, row, column], atol=1e-4
    )  # CMP's square is as large as the picture
    assert batch.figure[clip, 0, row, column].any(), "the person is guided, not the room alone"


def test_truth_that_only_some_objectives_need_is_left_out_of_the_others(whole):
    assert whole[0].flow is not None and whole[0].figure is not None
    vae = next(DrawnBatches(config("vae")))
    assert vae.flow is None and vae.figure is not None and vae.face is not None
    settings = config("dispose")
    settings.data.apart = 0.5  # as the others, to have the same people
    dispose = next(DrawnBatches(settings))
    assert dispose.flow is None and dispose.figure is None and dispose.face is None
    np.testing.assert_array_equal(dispose.frames, whole[0].frames)
