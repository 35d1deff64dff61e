"""Looking on while a run learns: losses and pictures of clips that nothing is learnt from."""

import json

import jax
import numpy as np
import pytest

from dispose_jax import memory
from dispose_jax.training import loop, multihost, objectives, sources
from tests.training import toy
from tests.training.conftest import losses

pytestmark = pytest.mark.usefixtures("one_device")


def test_pictures_of_the_progress_appear_when_they_are_due(run, tmp_path):
    run(sample_every=3)
    names = sorted(path.name for path in (tmp_path / "run" / "samples").iterdir())
    assert names == ["0000003.png", "0000006.png"]


def validated(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["validation_loss"] for line in lines if "validation_loss" in line}


def test_a_loss_of_clips_that_are_not_learnt_from_has_the_same_noise_every_time(
    run, tmp_path, monkeypatch
):
    run("still", validate_every=2, learning_rate=0.0, log_every=5)
    found = validated(tmp_path / "still")
    assert [*found] == [2, 4, 6] and len({*found.values()}) == 1
    run("learns", steps=30, validate_every=10, learning_rate=0.02, save_every=0)
    run("blind", steps=30, learning_rate=0.02, save_every=0)
    assert losses(tmp_path / "learns") == losses(tmp_path / "blind"), "it changes nothing"
    found = [*validated(tmp_path / "learns").values()]
    assert found[-1] < found[0] < [*validated(tmp_path / "still").values()][0]
    none = lambda config: config.data.update({"held_out": 0})
    run("none", validate_every=2, change=none)
    assert validated(tmp_path / "none") == {}


def test_what_is_held_out_is_decided_once(run, tmp_path, monkeypatch):
    """Each is a listing of a prepared set, which may still be growing."""
    opened, held_out = [], toy.held_out
    count = lambda *given: opened.append(given) or held_out(*given)
    monkeypatch.setattr(sources, "held_out", count)
    run(steps=6, validate_every=1, sample_every=2, learning_rate=0.0)
    assert len(opened) == 2  # of what is measured, and of what is shown
    assert len({*validated(tmp_path / "run").values()}) == 1, "the same clips again"


def test_the_loss_of_held_out_clips_is_the_mean_of_whole_batches_on_any_mesh(
    run, tmp_path, devices
):
    def ten(**mesh):
        return lambda config: (config.data.update(held_out=10), config.train.mesh.update(mesh))

    run("one", validate_every=3, change=ten())
    devices(8)
    run("eight", validate_every=3, change=ten(data=2, fsdp=2, frames=2, smallest=0.0))
    one, eight = (validated(tmp_path / name) for name in ("one", "eight"))
    np.testing.assert_allclose([*eight.values()], [*one.values()], rtol=1e-5)
    made = toy.held_out(toy.config(), clips=8)
    first = np.stack([next(made).frames for _ in range(2)])
    assert len(np.unique(first.reshape(16, -1), axis=0)) == 16, "two batches of other clips"


def test_a_picture_is_made_of_the_arrays_that_lie_on_the_mesh(run, tmp_path, monkeypatch, devices):
    seen = []

    def build(config, networks, *rest):
        made = toy.objective(config, networks)
        return made._replace(
            show=lambda params, *rest: seen.append(share(params)) or made.show(params, *rest)
        )

    def share(params):
        return params["vae"]["inner"]["kernel"].addressable_shards[0].data.shape

    devices(8)
    monkeypatch.setattr(objectives, "build", build)
    mesh = {"data": 4, "fsdp": 2, "smallest": 0.0}
    on_host = multihost.on_host
    copied = []
    monkeypatch.setattr(multihost, "on_host", lambda tree: copied.append(1) or on_host(tree))
    run(sample_every=3, change=lambda config: config.train.mesh.update(mesh))
    assert seen == [(96, 16), (96, 16)], "half of its 192 rows on each device"
    assert len(copied) == 1, "for the bundle alone"


def failing(monkeypatch, error):
    """Pictures that raise an error."""

    def show(*_):
        raise error

    made = lambda config, networks, *share: toy.objective(config, networks)._replace(show=show)
    monkeypatch.setattr(objectives, "build", made)


def test_a_picture_that_does_not_fit_is_said_once_and_the_run_goes_on(monkeypatch, run, tmp_path):
    failing(monkeypatch, toy.exhausted())
    said = run(sample_every=2)
    (line,) = [line for line in said if "needs more memory" in line]
    assert line.endswith("the run goes on without pictures")
    assert max(losses(tmp_path / "run")) == 6 and not (tmp_path / "run" / "samples").exists()
    failing(monkeypatch, jax.errors.JaxRuntimeError("INTERNAL: a defect"))
    with pytest.raises(jax.errors.JaxRuntimeError, match="a defect"):
        run("defect", sample_every=2)


def test_a_step_that_does_not_fit_names_what_helps(run, tmp_path, monkeypatch):
    def full(*_):
        raise toy.exhausted()

    monkeypatch.setattr(loop.Metrics, "add", full)
    with pytest.raises(memory.OutOfMemory) as error:
        run(accumulate=2)
    message = str(error.value)
    assert message.startswith("out of memory while training: raise --config.train.accumulate (now")
    for help in ("accumulate (now 2)", "mesh.fsdp (now 1)", "train.remat=layer", "--dry_run"):
        assert help in message
    with pytest.raises(memory.OutOfMemory) as error:
        run("layer", remat="layer")
    assert "remat" not in str(error.value)
