"""Measuring folders of videos: pairing, windows, caches, tables, and every mistake at once."""

import io
import os
import sys
import weakref

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dispose_jax.evaluation import features, frame_metrics, frechet, measure, report, videos
from dispose_jax.evaluation.features import Feature
from dispose_jax.evaluation.metrics import METRICS
from dispose_jax.media import image, video
from dispose_jax.models import bundle, evaluation_networks
from dispose_jax.models.network import Network
from dispose_jax.networks.evaluation import lpips
from tests.evaluation.folders import clip, pairs, write


@pytest.fixture
def folders(tmp_path):
    return pairs(tmp_path)


class Tiny(nn.Module):
    """Stands for a network over windows: the mean colour through a matrix."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(4, name="layer")(x.reshape(len(x), -1, 3).mean(1))


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """A bundle whose I3D and DINO are tiny."""
    made = Network(Tiny(), lambda key: Tiny().init(key, jnp.zeros((1, 1, 1, 1, 3))), jnp.float32)
    for name, more in (("i3d", {"window": 4, "least": 2}), ("dino", {"least": 2})):
        monkeypatch.setitem(evaluation_networks._MADE, name, lambda: made)
        forward = lambda p, x, name=name: Tiny().apply({"params": p[name]}, x)
        prepare = lambda x: x.astype(jnp.float32) / 255
        monkeypatch.setitem(features.FEATURES, name, Feature((name,), prepare, forward, **more))
    for cached in (features._forward, features._prepare):
        cached.cache_clear()
    tree = jax.device_get(made.init(jax.random.key(0))["params"])
    belongs = bundle.ModelDescription("svd", {}, {}, "configs/svd.py")
    origins = dict.fromkeys(("i3d", "dino"), bundle.Origin("a test", "none"))
    bundle.write(tmp_path / "weights", {"i3d": tree, "dino": tree}, belongs, origins)
    yield str(tmp_path / "weights")
    for cached in (features._forward, features._prepare):
        cached.cache_clear()


def results_of(real, fake, **more):
    said = []
    request = measure.Request(fake=fake, real=real, **more)
    return measure.run(measure.check(request), said.append), said


def test_frames_are_paired_by_place_and_averaged_over_all_of_them(folders):
    real, fake = folders
    results, _ = results_of(real, fake, metrics="l1,mae,psnr,ssim,ssim_common,flickering")
    clips = {side: videos.find(side, 15)[0] for side in folders}
    pairs = [
        pair
        for name in clips[real]
        for pair in zip(videos.frames(clips[real][name]), videos.frames(clips[fake][name]))
    ]
    assert len(pairs) == 36
    for name, metric in (("psnr", frame_metrics.psnr), ("ssim", frame_metrics.ssim)):
        expected = np.mean([metric(*pair) for pair in pairs])
        assert results.fake[name].value == pytest.approx(expected)
    assert results.real["flickering"].value > results.fake["flickering"].value  # noise flickers
    assert "psnr" not in results.real
    same, _ = results_of(real, real, metrics="mae,psnr,ssim")
    assert (same.fake["mae"].value, same.fake["psnr"].value) == (0, 100)


def test_a_long_video_weighs_more_frame_by_frame(tmp_path):
    for name, count, step in (("long", 9, 0), ("short", 3, 51)):
        write(tmp_path / "real" / name, np.zeros((count, 24, 16, 3), np.uint8))
        write(tmp_path / "fake" / name, np.full((count, 24, 16, 3), step, np.uint8))
    results, _ = results_of(tmp_path / "real", tmp_path / "fake", metrics="mae")
    assert results.fake["mae"].value == pytest.approx(0.2 * 3 / 12)
    assert results.fake["mae"].by_clip == {"long": 0.0, "short": pytest.approx(0.2)}


def test_the_frechet_distance_is_of_every_window_of_every_video(folders, weights, monkeypatch):
    real, fake = folders
    monkeypatch.setattr(sys, "stderr", terminal := io.StringIO())
    monkeypatch.setattr(terminal, "isatty", lambda: True, raising=False)
    results, _ = results_of(real, fake, weights=(weights,), metrics="fvd,subject")
    assert "FVD:   0%" in terminal.getvalue(), "the interval is not silent"
    score = results.fake["fvd"]
    params = bundle.load([weights], ["i3d"], model={}, quirks={})
    rows = []
    for side in folders:
        windows = []
        for one in videos.find(side, 15)[0].values():
            frames = np.stack(list(videos.frames(one))) / np.float32(255)
            windows += [frames[i : i + 4].mean((0, 1, 2)) for i in range(12 - 3)]
        kernel, bias = (params["i3d"]["layer"][leaf] for leaf in ("kernel", "bias"))
        rows.append(np.stack(windows) @ kernel + bias)
    assert (score.clips, score.windows) == (3, 27)
    assert score.value == pytest.approx(frechet.distance(*rows), rel=1e-3)
    assert "not comparable: 3 clips cannot span 4" in score.caution
    assert score.floor is None and score.interval.low <= score.interval.high
    coarse, _ = results_of(real, fake, weights=(weights,), metrics="fvd", stride=4)
    assert coarse.fake["fvd"].windows == 9
    table = report.table(results, {"imaging_quality": 71.0})
    assert "3 clips, 27 windows" in table and "reward stillness" in table
    assert "| imaging quality ↑ (0-100) | 71.00 |" in table


def test_what_looks_at_a_whole_video_sees_its_own_size(tmp_path, weights):
    """DisCo resizes generated frames for what compares them one by one; its FVD reads the files."""
    real, fake = tmp_path / "real", tmp_path / "fake"
    for seed, name in enumerate("abc"):
        write(real / name, clip(seed))
        noise = np.random.default_rng(seed).integers(0, 256, (6, 20, 16, 3), np.uint8)
        write(fake / name, noise)
    own, _ = results_of(None, fake, metrics="flickering")
    given = {"weights": (weights,), "metrics": "fvd,flickering"}
    alone, _ = results_of(real, fake, **given)
    given["metrics"] += ",mae"
    beside, _ = results_of(real, fake, size="real", **given)
    for found in (alone, beside):
        assert found.fake["flickering"].by_clip == own.fake["flickering"].by_clip
        assert found.fake["fvd"].value == alone.fake["fvd"].value
    clips = {side: videos.find(side, 15)[0] for side in (real, fake)}
    expected = [
        frame_metrics.mean_error(one, frame_metrics.resized(other, (40, 32)))
        for name in "abc"
        for one, other in zip(*(videos.frames(clips[side][name]) for side in (real, fake)))
    ]
    assert beside.fake["mae"].value == pytest.approx(np.mean(expected))
    asked, _ = results_of(real, fake, size=(40, 32), **given)
    assert asked.fake["flickering"].value > own.fake["flickering"].value + 0.01


def test_a_stride_between_windows_leaves_out_no_frame_of_other_metrics(tmp_path, weights):
    given = {"weights": (weights,), "metrics": "subject,flickering"}
    found = {}
    for stride in (4, 1):
        frames = np.random.default_rng(0).integers(0, 256, (6, 24, 16, 3), np.uint8)
        write(tmp_path / str(stride) / "a", frames)
        found[stride], _ = results_of(None, tmp_path / str(stride), stride=stride, **given)
    assert found[4].fake == found[1].fake
    again, _ = results_of(None, tmp_path / "4", **given)  # of what was kept beside the clips
    assert again.fake == found[1].fake


def test_features_are_computed_once_and_again_only_where_the_content_changed(folders, weights):
    real, fake = folders
    given = {"weights": (weights,), "metrics": "fvd,psnr"}
    first, said = results_of(real, fake, **given)
    assert len(said) == 6 + 3 and "i3d of real a (12 frames)" in said
    assert sorted(path.name for path in real.parent.glob("*.features")) == [
        "fake.features",
        "real.features",
    ]
    again, said = results_of(real, fake, **given)
    assert said == [] and again.fake["fvd"] == first.fake["fvd"]
    image.write_png(fake / "b" / "frame_3.png", clip(77, 1)[0])
    changed, said = results_of(real, fake, **given)
    assert sorted(said) == ["i3d of fake b (12 frames)", "psnr of fake b (12 frames)"]
    assert changed.fake["fvd"].value != first.fake["fvd"].value
    for broken in (fake.parent / "fake.features").glob("i3d-*"):
        broken.write_bytes(b"cut")
    again, said = results_of(real, fake, **given)
    assert len(said) == 3 and again.fake["fvd"] == changed.fake["fvd"]


def test_videos_and_folders_of_frames_are_both_clips_and_a_window_may_be_short(tmp_path, weights):
    write(tmp_path / "set" / "frames", clip(0, 3))
    video.write(tmp_path / "set" / "film.mp4", clip(1, 6), 24)
    (tmp_path / "set" / "notes.txt").write_text("no clip")
    clips, problems, _ = videos.find(tmp_path / "set", 15)
    assert problems == [] and {n: (c.num_frames, c.fps) for n, c in clips.items()} == {
        "film": (6, 24.0),
        "frames": (3, 15),
    }
    rows = features.extract("i3d", bundle.load([weights], ["i3d"], model={}, quirks={}), clip(0, 3))
    assert rows.shape == (1, 4)
    results, _ = results_of(None, tmp_path / "set", metrics="all", weights=(weights,), lenient=True)
    assert [*results.fake] == ["flickering", "subject"] and results.real == {}
    assert "compares with the truth" in results.skipped["fvd"]
    assert "no raft_things in --weights" in results.skipped["dynamic"]


@pytest.mark.parametrize("filmed", ["real", "fake"])
def test_frames_that_a_video_is_paired_with_have_its_rate(tmp_path, filmed):
    pictures = {"real": "fake", "fake": "real"}[filmed]
    video.write(tmp_path / filmed / "a.mp4", clip(1, 6), 24)
    write(tmp_path / pictures / "a", clip(0, 6))
    write(tmp_path / filmed / "b", clip(1, 6))
    write(tmp_path / pictures / "b", clip(0, 6))
    request = measure.Request(fake=tmp_path / "fake", real=tmp_path / "real", metrics="mae")
    plan = measure.check(request)
    for side in (plan.real, plan.fake):
        assert {name: one.fps for name, one in side.items()} == {"a": 24, "b": 15}
    rates = {"a": 24, "b": 15}
    assert report.numbers(measure.run(plan), {})["rates"] == {"fake": rates, "real": rates}, (
        "--fps alone no longer tells"
    )


def test_every_folder_of_frames_may_have_a_rate_of_its_own(tmp_path):
    for name in ("slow", "fast", "stray"):
        write(tmp_path / name, clip(0, 3))
    found = videos.find(tmp_path, {"slow": 12.5, "fast": 60.0})
    assert {name: one.fps for name, one in found.clips.items()} == {"slow": 12.5, "fast": 60}
    (problem,) = found.problems
    assert "stray: is none of the clips that are measured" in problem


@pytest.mark.parametrize(
    ("changed", "frame"), [("film.mp4", ""), ("b", "frame_3.png"), ("b", "frame_99.png")]
)
def test_what_is_changed_while_it_is_measured_is_told_and_not_kept(folders, changed, frame):
    real, fake = folders
    video.write(real / "film.mp4", clip(5, 4), 15)
    video.write(fake / "film.mp4", clip(6, 4), 15)
    plan = measure.check(measure.Request(fake=fake, real=real, metrics="mae"))
    if changed == "b":
        image.write_png(fake / "b" / frame, clip(77, 1)[0])
    else:
        video.write(fake / "film.mp4", clip(7, 4), 15)
    with pytest.raises(ValueError, match=f"fake/{changed}: was changed after it was found; leave"):
        measure.run(plan)
    kept = [*(fake.parent / "fake.features").iterdir()]
    assert len(kept) == [*plan.fake].index(changed.removesuffix(".mp4"))


def test_what_cannot_be_kept_for_a_next_time_is_measured_nevertheless(folders):
    real, fake = folders
    (fake.parent / "fake.features").write_text("a file where the folder of features would be")
    results, said = results_of(real, fake, metrics="mae,psnr")
    assert results.fake["psnr"].value > 0
    assert [line for line in said if line.startswith("warning: features are not kept")] == said[1:2]


@pytest.mark.parametrize("named", [".", "../fake", "b/.."])
def test_features_are_kept_beside_the_folder_however_it_is_named(folders, monkeypatch, named):
    real, fake = folders
    monkeypatch.chdir(fake)
    results_of(real, named, metrics="mae")
    assert {path.name for path in fake.parent.iterdir()} == {"real", "fake", "fake.features"}
    assert {path.name for path in fake.iterdir()} == {"a", "b", "c"}


def test_a_name_may_hold_what_parts_columns(folders):
    for side in folders:
        (side / "b").rename(side / "b|c")
    results, _ = results_of(*folders, metrics="mae")
    assert r"| b\|c |" in report.table(results, {})


@pytest.mark.parametrize("value", ["NaN", "Infinity"])
def test_what_is_no_score_of_vbench_is_told_before_anything_is_measured(tmp_path, value):
    (tmp_path / "a.json").write_text(f'{{"motion_smoothness": [{value}, []]}}')
    with pytest.raises(ValueError, match="a.json: motion_smoothness is (nan|inf), which is no"):
        report.read_vbench(tmp_path / "a.json")


def test_a_name_that_is_no_text_is_written(folders, tmp_path):
    real, fake = folders
    for folder in folders:
        (folder / "a").rename(folder / os.fsdecode(b"clip\xff"))
    results, _ = results_of(real, fake, metrics="mae")
    table, numbers = report.write(tmp_path / "out", results, {})
    assert "clip\\udcff" in table.read_text() and "clip\\udcff" in numbers.read_text()


@pytest.mark.parametrize(
    ("size", "sides"),
    [
        (6, {"ssim": 7, "ssim_common": 11, "lpips_vgg": 16, "lpips_disco": 16, "lpips_alex": 31}),
        (16, {"lpips_alex": 31}),
        (31, {}),
    ],
)
def test_frames_too_small_for_a_metric_leave_it_out(tmp_path, size, sides):
    for side in ("real", "fake"):
        write(tmp_path / side / "a", clip(0, size=(40, size)))
    held = {name: "" for name in ("vgg16", "lpips_vgg", "alexnet", "lpips_alex")}
    request = measure.Request(fake=tmp_path / "fake", real=tmp_path / "real")
    clips = videos.find(tmp_path / "real", 15).clips
    for name in ("ssim", "ssim_common", "lpips_vgg", "lpips_disco", "lpips_alex"):
        reason = measure._reason(METRICS[name], request, held, clips, clips)
        expected = f"at {size} x 40, a side needs {sides[name]}" if name in sides else None
        assert expected in reason if expected else reason is None


@pytest.mark.parametrize("trunk", ["vgg", "alex"])
def test_the_least_side_leaves_one_cell_of_the_deepest_map(trunk):
    def maps(side: int):
        run = lambda key: lpips.Trunk(trunk).init_with_output(key, jnp.zeros((1, side, side, 3)))
        return jax.eval_shape(run, jax.random.key(0))[0]

    smallest = measure._SMALLEST[f"lpips_{trunk}"]
    assert maps(smallest)[-1].shape[1:3] == (1, 1)
    with pytest.raises(TypeError, match="slice"):  # nothing is left to pool
        maps(smallest - 1)


def test_a_video_without_a_pair_of_frames_has_no_dynamic_degree(tmp_path):
    write(tmp_path / "set" / "a", clip(0, 4, (128, 128)))
    reason = lambda fps: measure._reason(
        METRICS["dynamic"],
        measure.Request(fake=tmp_path / "set", fps=fps),
        {"raft_things": ""},
        videos.find(tmp_path / "set", fps).clips,
        {},
    )
    assert reason(24) is None  # frames 0 and 3
    assert "has 4 frames, it needs 5" in reason(30)  # frame 0 alone


def test_windows_of_one_clip_are_a_set(tmp_path, weights):
    for side in ("real", "fake"):
        write(tmp_path / side / "a", clip(len(side), 5) + len(side[1:]))
    given = {"weights": (weights,), "metrics": "fvd"}
    results, _ = results_of(tmp_path / "real", tmp_path / "fake", **given)
    assert results.fake["fvd"].windows == 2
    assert "not comparable: 1 clip cannot span 4" in results.fake["fvd"].caution
    with pytest.raises(ValueError, match="two windows or more on both sides"):
        results_of(tmp_path / "real", tmp_path / "fake", stride=2, **given)


def test_memory_does_not_grow_with_the_length_of_a_video(weights):
    held = weakref.WeakSet()
    most = 0

    class Frame(np.ndarray):
        """An array that can be counted."""

        __hash__ = object.__hash__

    def frames():
        nonlocal most
        for i in range(1000):
            frame = np.full((32, 32, 3), i % 256, np.uint8).view(Frame)
            held.add(frame)
            yield frame
            most = max(most, len(held))

    params = bundle.load([weights], ["i3d"], model={}, quirks={})
    assert features.extract("i3d", params, frames()).shape == (997, 4)
    assert most <= 20  # two of the chunks that are resized together, not the video
