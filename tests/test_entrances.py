"""benchmarks.entrances measures what it says, on a model whose error is known."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import entrances
from configs import sd15
from dispose_jax.correspondence import keypoints
from dispose_jax.diffusion.samplers import Ddim
from dispose_jax.evaluation.ablation import clips
from dispose_jax.types import Conditioning

CLIPS, F, SIDE, C = 2, 3, 64, 4


@dataclass(frozen=True)
class Listens:
    """A model of latents that are zero, so that what it sees tells the target. It errs by one, less
    what is added after its input convolution; points after a level it does not hear. Told all, it
    does not err."""

    schedule: Ddim = Ddim()
    generates_reference = False
    unet = SimpleNamespace(channels=(C, C))

    def encode(self, params, frames):
        return jnp.zeros((*frames.shape[:2], SIDE // 8, SIDE // 8, 2 * C))

    def latents(self, posterior, key):
        return posterior[..., :C]

    def condition_reference(self, params, reference, key):
        return Conditioning(context=jnp.ones((len(reference), 1, 1)))

    def condition_frames(self, params, skeletons, signals):
        return {"pose_features": jnp.ones((CLIPS, F - 1, SIDE // 8, SIDE // 8, C))}

    def unconditional(self, conditioning, drop):
        return conditioning.replace(pose_features=jnp.zeros_like(conditioning.pose_features))

    def denoise(self, params, x, t, conditioning):
        alpha = self.schedule.alpha(t).reshape(-1, 1, 1, 1, 1)
        return jnp.sqrt(alpha) * x / jnp.sqrt(1 - alpha) + 1 - conditioning.pose_features


@pytest.fixture(scope="module")
def drawn():
    return clips.draw(sd15.get_config("size=tiny"), CLIPS, F)["same"]


@pytest.fixture(scope="module")
def trial(drawn):
    return entrances.trial(Listens(), {}, drawn, jax.random.key(0))


def test_numbers_are_written_to_the_cells_of_the_joints_alone(drawn, trial):
    occupied = np.zeros(trial.occupied.shape, bool)
    for i, clip in enumerate(drawn):
        cells, visible = keypoints.cells(clip.pose, (SIDE, SIDE))
        for frame in range(1, F):
            for column, row in cells[frame][visible[frame]]:
                occupied[i, frame - 1, row, column] = True
    np.testing.assert_array_equal(trial.occupied, occupied)
    told = trial.told
    _, tell = entrances.before_the_first(told, trial, (C,), times=1)
    added = tell(jnp.ones_like(told.pose_features)).pose_features - told.pose_features
    np.testing.assert_array_equal(added[..., 0] > 0, occupied.repeat(2, 2).repeat(2, 3))
    numbers, tell = entrances.after_each_level(told, trial, (C, C))
    first, second = tell(jax.tree.map(jnp.ones_like, numbers)).points
    np.testing.assert_array_equal(first[..., 0] > 0, occupied)
    assert second.shape == first.shape  # the last level does not halve


def test_only_an_entrance_that_the_base_hears_lowers_its_loss(trial):
    train = sd15.get_config("size=tiny").train
    rows = list(entrances.measure(Listens(), train, {}, trial, steps=40))
    names, numbers, losses = zip(*rows)
    assert names[2:] == tuple(entrances.PLACES)
    everything, nothing, levels, per_cell, per_latent = losses
    np.testing.assert_allclose(everything, 0, atol=1e-6)
    np.testing.assert_allclose(levels, nothing, rtol=1e-5)
    covered = trial.occupied.repeat(2, 2).repeat(2, 3)
    left = 1 - (covered * trial.share).sum() / trial.share.sum()
    np.testing.assert_allclose(np.array([per_cell, per_latent]) / nothing, left, atol=0.02)
    assert numbers[:3] == (0, 0, 0)  # what nothing depends on stays zero
    in_figure = (covered & (np.asarray(trial.share) > 0)).sum() * C / (CLIPS * (F - 1))
    np.testing.assert_allclose(numbers[4], in_figure)


@pytest.mark.parametrize(
    ("flags", "message"),
    [(["--weights", "nowhere"], "nowhere: no such folder"), (["--frames", "0"], "expected 1 or")],
)
def test_what_cannot_be_measured_is_one_sentence(monkeypatch, flags, message):
    monkeypatch.setattr("sys.argv", ["entrances", *flags])
    with pytest.raises(SystemExit, match=message):
        entrances.main()
