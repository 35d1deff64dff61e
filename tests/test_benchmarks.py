"""The benchmarks run and compare what they say they compare; how long it takes is not asserted."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import autoencoder, clips, damage, measure, shortcuts, step, tradeoff, train_step
from configs import sd15, svd
from dispose_jax import dry_run
from dispose_jax.training import plan
from tests import small
from tests.test_dry_run import numbers


def test_things_to_be_compared_run_in_turn_and_warm_up_does_not_count():
    order = []
    slow = iter([0.2, 0, 0, 0])  # the warm-up is slow

    def call(name):
        order.append(name)
        if name == "a":
            measure.time.sleep(next(slow))

    taken = measure.alternate({"a": lambda: call("a"), "b": lambda: call("b")}, repeats=3)
    assert order == ["a", "b"] * 4
    assert 0 <= taken["a"].wall < 0.2 and set(taken) == {"a", "b"}


def test_ours_is_compared_with_every_other_way_by_both_clocks_of_a_cpu(monkeypatch):
    taken = {"ours": measure.Seconds(3.0, 2.0), "torch": measure.Seconds(6.0, 8.0)}
    monkeypatch.setattr(measure, "alternate", lambda calls, repeats: taken)
    figures = measure.against(dict.fromkeys(taken), 1)
    assert (figures["ours_wall_s"], figures["torch_cpu_s"]) == (3.0, 8.0)
    assert figures["ours / torch, wall time"] == 0.5 and figures["ours / torch, cpu time"] == 0.25
    assert len(figures) == 6


@pytest.mark.parametrize("program", [clips.main, step.main, tradeoff.main, train_step.main])
@pytest.mark.parametrize(
    ("wrong", "message"),
    [("absent.py", "absent.py: no such file"), ("configs/svd.py:size=big", "size is one of full")],
)
def test_a_configuration_that_there_is_not_is_one_sentence(
    monkeypatch, capsys, program, wrong, message
):
    monkeypatch.setattr(sys, "argv", ["program", "--config", wrong])
    with pytest.raises(SystemExit) as ended:
        program()
    assert ended.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("program", "flags", "message"),
    [
        (tradeoff, ["--output", "a.txt/rows.json"], "a.txt/rows.json: cannot make its folder"),
        (tradeoff, ["--plot", "."], ".: is a folder, expected the name of a file to write"),
        (tradeoff, ["--ways", "2m 4;fastest"], "--ways: 'fastest' is none of exact; euler 4;"),
        (tradeoff, ["--full", "576"], "--full 576: expected HEIGHTxWIDTH such as 576x1024"),
        (damage, ["--output", "a.txt/a.png"], "a.txt/a.png: cannot make its folder"),
    ],
)
def test_what_cannot_be_written_or_compared_is_told_before_it_is_measured(
    monkeypatch, capsys, tmp_path, program, flags, message
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").touch()
    monkeypatch.setattr(program, "run", lambda *_: pytest.fail("the measurement began"))
    monkeypatch.setattr(sys, "argv", ["program", *flags])
    with pytest.raises(SystemExit, match="2"):
        program.main()
    assert message in capsys.readouterr().err


def test_random_weights_keep_the_variance_of_what_passes_them():
    shapes = {
        "kernel": jax.ShapeDtypeStruct((3, 3, 50, 400), jnp.bfloat16),
        "cells": jax.ShapeDtypeStruct((2, 3), jnp.int32),
    }
    made = measure.random_tree(shapes)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), made) == jax.tree.map(
        lambda x: (x.shape, x.dtype), shapes
    )
    assert float(np.float32(made["kernel"]).std()) == pytest.approx(1 / np.sqrt(450), rel=0.02)


def test_the_peak_of_a_device_outside_the_table_is_measured():
    peak, source = measure.peak_flops(jnp.float32)
    assert peak > 1e8 and "measured" in source


@pytest.mark.full
def test_a_step_is_counted_as_the_dry_run_counts_it():
    config = small.config()
    config.sample.window, config.sample.overlap = 3, 1
    figures = step.run(config, 5, *small.SIZE, jnp.dtype("float32"), repeats=2)
    assert figures["windows"] == 2
    text = dry_run.report(config, 5, *small.SIZE, jnp.float32)
    assert figures["tflop_per_step"] * 1e12 == pytest.approx(numbers(text, "one step"), rel=1e-2)
    assert all(np.isfinite(value) and value > 0 for value in figures.values())


# Those that compile two denoisers more take as long as the rest of this file; that these shortcuts
# are exact is also shown beside the modules.
HEAVY = ("one_token", "hoisted_cross", "hoisted_control", "window_batching")
CASES = [pytest.param(c, marks=pytest.mark.full) if c in HEAVY else c for c in shortcuts.CASES]


@pytest.mark.parametrize("case", CASES)
def test_every_shortcut_gives_the_result_of_the_plain_way(case):
    setting = shortcuts.Setting(small.config(), 3, *small.SIZE, jnp.dtype("float32"))
    rows = shortcuts.run(setting, [case], repeats=1)
    assert len(rows) >= 2
    for _, way, wall, cpu, ratio, difference in rows:
        assert difference < 1e-4, way  # of the results' deviation, so they are not all zero
        assert wall > 0 and cpu >= 0 and ratio >= 0


@pytest.mark.full
def test_the_unet_of_pytorch_with_the_same_weights_gives_the_same_result():
    pytest.importorskip("diffusers")
    from benchmarks import against_pytorch

    config = small.config()
    config.model.unet.channels, config.model.unet.heads = (32, 64), (1, 2)
    figures = against_pytorch.run(
        config, 3, *small.SIZE, jnp.dtype("float32"), repeats=1, compiled=False
    )
    assert figures["difference"] < 1e-4
    assert figures["ours / torch, wall time"] > 0


@pytest.mark.full  # compiles a step for eight devices
def test_a_training_step_is_counted_as_its_dry_run_counts_it():
    config = small.config("base")
    config.train.update(frames=3, batch=8, height=64, width=64)
    config.train.update(objective="autoencoder", trainable=("vae",), remat="none")
    figures = train_step.run(config, repeats=2)
    planned = plan.make(config).step_work
    assert figures["useful_tflop_per_step"] * 1e12 == pytest.approx(planned.useful, rel=0.01)
    assert figures["executed_tflop_per_step"] >= figures["useful_tflop_per_step"]
    assert all(np.isfinite(value) and value > 0 for value in figures.values())


def test_the_data_of_drawn_people_are_timed_alone():
    config = svd.get_config("size=tiny,stage=vae")
    config.train.batch, config.train.frames = 2, 2
    made = train_step.pipeline(config, batches=1)
    assert made["clips_per_s"] > 0 and made["cpu_seconds_per_clip"] > 0


@pytest.mark.full
def test_a_training_step_of_pytorch_with_the_same_weights_has_the_same_loss_and_gradient():
    pytest.importorskip("diffusers")
    from benchmarks import train_against_pytorch

    config = small.config("base")
    config.model.unet.channels, config.model.unet.heads = (32, 64), (1, 2)
    config.train.update(frames=3, batch=1, height=64, width=128, remat="layer")
    figures = train_against_pytorch.run(config, repeats=1)
    assert figures["loss, relative difference"] < 1e-5
    assert figures["gradient norm, relative difference"] < 1e-4
    assert figures["ours / torch, wall time"] > 0


def test_a_linear_code_of_all_directions_loses_nothing_and_of_fewer_ones_more_and_more():
    clips = np.random.default_rng(0).random((3, 2, 16, 24, 3), np.float32)
    values = autoencoder.patches(clips)
    np.testing.assert_array_equal(autoencoder.pictures_of(values, clips.shape), clips)
    assert values.shape == (3 * 2 * 2 * 3, 8 * 8 * 3)
    np.testing.assert_array_equal(values[1], clips[0, 0, :8, 8:16].reshape(-1))
    mean, directions = autoencoder.main_directions(values)
    everywhere = np.ones(clips.shape[:-1], bool)
    found = []
    for count in (2, 8, directions.shape[1]):
        kept = directions[:, :count]
        coded = (values - mean) @ kept @ kept.T + mean
        found.append(
            autoencoder.psnr(autoencoder.pictures_of(coded, clips.shape), clips, everywhere)
        )
    levels = [one for one, _ in found]
    assert levels[0] < levels[1] < 20 < 60 < levels[2]


def test_decibels_follow_their_definition():
    true = np.zeros((1, 1, 2, 2, 3))
    made = np.array([[0.1, 0.0], [0.0, 0.0]])[None, None, ..., None] * np.ones(3)
    figure = np.array([[True, False], [False, False]])[None, None]
    everywhere, inside = autoencoder.psnr(made, true, figure)
    assert inside == pytest.approx(20) and everywhere == pytest.approx(20 + 10 * np.log10(4))


def test_a_way_of_sampling_is_compared_with_the_exact_one_clip_by_clip():
    config, ways = svd.get_config("size=tiny"), {"exact": {}, "half": {"steps": 4}}
    psnr = np.array([20.0, 30.0, 25.0])
    figures = {"joint_error": psnr / 10, "distance": 0 * psnr}
    found = {
        "exact": {"sampling_s": psnr, "clip_s": psnr + 10, "figure_psnr": psnr, **figures},
        "half": {"sampling_s": psnr / 2, "clip_s": psnr, "figure_psnr": psnr - 0.1, **figures},
    }
    exact, half = tradeoff.report(config, ways, found, None)
    assert exact["sampling_ratio"] == 1.0 and "figure_psnr_change" not in exact
    assert half["sampling_ratio"] == 0.5 and half["clip_ratio"] == pytest.approx(25 / 35)
    np.testing.assert_allclose(half["figure_psnr_change"], -0.1)
    np.testing.assert_allclose(half["joint_error_change"], 0)


def test_ways_of_sampling_are_values_that_the_configs_take():
    for base in (svd, sd15):
        config = base.get_config("size=tiny")
        for values in tradeoff.ways_of(config.base).values():
            made = tradeoff.changed(config, values).sample
            assert {name: made[name] for name in values} == values
