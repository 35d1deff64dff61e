"""What a run measures, and how its file survives being cut off."""

import json
import math

import jax.numpy as jnp
import pytest

from dispose_jax.training.metrics import FILE, VALIDATION, Metrics


@pytest.fixture
def metrics(tmp_path):
    """metrics(start) -> measurements of a run of 10 steps of 4 clips and 1 GFLOP, closed after."""
    made = []

    def make(start=0, folder=tmp_path):
        made.append(Metrics(folder, start, 10, 4, 1e9))
        return made[-1]

    yield make
    for each in made:
        each.close()


def lines(folder):
    return [json.loads(line) for line in (folder / FILE).read_text().splitlines()]


def test_a_line_holds_the_means_of_its_steps_and_their_speed(metrics, tmp_path):
    measured = metrics()
    for step, loss in ((1, 1.0), (2, 3.0), (3, 5.0)):
        measured.add(step, {"loss": jnp.array(loss), "gradient_norm": jnp.array(2 * loss)})
    assert measured.write(picture=7.0) == {
        k: v for k, v in lines(tmp_path)[0].items() if k != "step"
    }
    (line,) = lines(tmp_path)
    assert (line["step"], line["loss"], line["gradient_norm"], line["picture"]) == (3, 3, 6, 7)
    assert line["clips_per_second"] == pytest.approx(4 * line["steps_per_second"])
    assert line["tflops_per_second"] == pytest.approx(1e-3 * line["steps_per_second"])


def test_nothing_is_written_of_no_steps(metrics, tmp_path):
    assert metrics().write() == {} and not (tmp_path / FILE).exists()


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_the_first_step_that_is_not_finite_is_named_and_not_written(metrics, tmp_path, wrong):
    measured = metrics()
    for step in (1, 2, 3):
        measured.add(step, {"loss": jnp.array(1.0 if step < 2 else wrong), "entropy": jnp.array(1)})
    with pytest.raises(FloatingPointError, match=f"^step 2: loss {wrong}$"):
        measured.write()
    assert not (tmp_path / FILE).exists()


def test_a_loss_of_other_clips_that_is_not_finite_is_named_too(metrics, tmp_path):
    """JSON has no such number, and the step's own loss shows it one step later."""
    measured = metrics()
    for step in (1, 2):
        measured.add(step, {"loss": jnp.array(1.0)})
    with pytest.raises(FloatingPointError, match=f"^step 2: {VALIDATION} nan$"):
        measured.write(**{VALIDATION: math.nan})
    assert not (tmp_path / FILE).exists()


def test_lines_of_steps_that_come_again_and_broken_ones_are_dropped(metrics, tmp_path):
    good = [json.dumps({"step": step, "loss": 1.0}) for step in (2, 4, 6)]
    text = "\n".join([good[0], "not json", '"text"', good[1], good[2], '{"step": 8, "lo'])
    (tmp_path / FILE).write_bytes(text.encode() + b"\xff\x00")
    measured = metrics(start=4)
    measured.add(5, {"loss": jnp.array(2.0)})
    measured.write()
    assert [(line["step"], line["loss"]) for line in lines(tmp_path)] == [(2, 1), (4, 1), (5, 2)]


def test_pauses_do_not_count(metrics, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    measured = metrics()
    with measured.paused():
        now[0] = 100.0
    now[0] = 102.0
    measured.add(1, {"loss": jnp.array(1.0)})
    with measured.paused():
        now[0] = 103.0
    assert measured.write()["steps_per_second"] == 0.5


def test_all_processes_but_one_write_nothing(metrics, tmp_path, capfd):
    measured = metrics(folder=None)
    measured.add(1, {"loss": jnp.array(1.0)})
    assert measured.write()["loss"] == 1
    assert not [*tmp_path.iterdir()] and capfd.readouterr() == ("", "")


def test_tensorboard_shows_the_same_numbers(metrics, tmp_path):
    pytest.importorskip("tensorboardX", reason="extra train")
    measured = metrics()
    measured.add(1, {"loss": jnp.array(1.5)})
    measured.write()
    measured.close()
    (file,) = (tmp_path / "tensorboard").iterdir()
    assert b"steps_per_second" in file.read_bytes()
