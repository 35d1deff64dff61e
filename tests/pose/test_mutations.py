"""Pose files changed at random end in poses or in one sentence, through everything that reads
them."""

import json

import numpy as np
import pytest

from dispose_jax.pose import checks, files, follow
from tests import mutations
from tests.pose.test_cases import CASES

pytestmark = pytest.mark.full

NAMES = sorted(path.name for path in CASES.iterdir())
ODD = (None, True, -1, 0, 0.5, 2.4, 1e308, -1e308, 10**400, "0.5", [], {}, [[]], float("nan"))


def trusted(path):
    """All that happens to a pose file before it is drawn."""
    pose, width, height, _ = files.read(path)
    followed = follow.follow(pose, aspect=width / height).pose
    checks.sentences(
        checks.look(followed, aspect=width / height, times=np.arange(pose.num_frames) / 30)
    )
    for leaf in (pose.body, pose.hands, pose.face, followed.body):
        assert np.isfinite(leaf).all()


@pytest.mark.parametrize("seed", range(300))
def test_bytes_of_a_pose_file(tmp_path, seed):
    rng = np.random.default_rng(seed)
    path = tmp_path / "a.poses.json"
    path.write_bytes(mutations.mutated((CASES / rng.choice(NAMES)).read_bytes(), rng))
    said = mutations.answer(lambda: trusted(path))
    assert said is None or ("\n" not in said and "a.poses.json" in said)


def places(node, found):
    """Every container with a place in it."""
    items = node.items() if isinstance(node, dict) else enumerate(node)
    for key, value in items:
        found.append((node, key))
        if isinstance(value, (dict, list)) and value:
            places(value, found)
    return found


@pytest.mark.parametrize("seed", range(300))
def test_values_of_a_pose_file(tmp_path, seed):
    rng = np.random.default_rng(seed)
    content = json.loads((CASES / rng.choice(NAMES)).read_text())
    for _ in range(rng.integers(1, 20)):
        found = places(content, [])
        node, key = found[rng.integers(len(found))]
        node[key] = ODD[rng.integers(len(ODD))]
    path = tmp_path / "a.poses.json"
    path.write_text(json.dumps(content))
    said = mutations.answer(lambda: trusted(path))
    assert said is None or ("\n" not in said and "a.poses.json" in said)


def test_a_crowd_is_followed_in_time(tmp_path):
    rng = np.random.default_rng(0)
    person = lambda: {"pose_keypoints_2d": rng.uniform(5, 400, 54).tolist()}
    entry = lambda: {
        "people": [person() for _ in range(60)],
        "canvas_width": 540,
        "canvas_height": 960,
    }
    path = tmp_path / "crowd.poses.json"
    path.write_text(json.dumps([entry() for _ in range(200)]))
    assert mutations.answer(lambda: trusted(path)) is None
