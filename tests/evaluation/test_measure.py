"""Measuring folders of videos: pairing, windows, caches, tables, and every mistake at once."""

import os
import sys
import weakref

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import flagsaver

import evaluate
from dispose_jax import cli
from dispose_jax.evaluation import features, frame_metrics, frechet, measure, report, videos
from dispose_jax.evaluation.features import Feature
from dispose_jax.evaluation.metrics import METRICS
from dispose_jax.media import image, video
from dispose_jax.models import bundle, evaluation_networks
from dispose_jax.models.network import Network
from dispose_jax.networks.evaluation import lpips


def clip(seed: int, count: int = 6, size=(40, 32)) -> np.ndarray:
    rng = np.random.default_rng(seed)
    start = rng.integers(0, 200, (*size, 3))
    return np.stack([start + 5 * i for i in range(count)]).clip(0, 255).astype(np.uint8)


def write(folder, frames: np.ndarray) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for i, frame in enumerate(frames):
        image.write_png(folder / f"frame_{i}.png", frame)


@pytest.fixture
def folders(tmp_path):
    """Three real clips and what a model made of them, some 12 frames each."""
    for i, name in enumerate(("a", "b", "c")):
        real = clip(i, 12)
        noise = np.random.default_rng(9 + i).integers(-9, 10, real.shape)
        write(tmp_path / "real" / name, real)
        write(tmp_path / "fake" / name, (0.7 * real + noise).clip(0, 255).astype(np.uint8))
    return tmp_path / "real", tmp_path / "fake"


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


def test_the_frechet_distance_is_of_every_window_of_every_video(folders, weights, capfd):
    real, fake = folders
    results, _ = results_of(real, fake, weights=(weights,), metrics="fvd,subject")
    assert "FVD:   0%" in capfd.readouterr().err, "the interval is not silent"
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


@pytest.fixture
def start(monkeypatch, capsys, tmp_path):
    """start("--flag=x ...") -> exit code, stdout, stderr; FOLDER stands for the test's folder."""
    monkeypatch.setattr(cli, "use_compile_cache", lambda: None)

    def run(line):
        arguments = [part.replace("FOLDER", str(tmp_path)) for part in line.split()]
        monkeypatch.setattr(sys, "argv", ["evaluate.py", "--output", f"{tmp_path}/out", *arguments])
        with flagsaver.flagsaver():
            try:
                cli.run(evaluate.main)
                code = 0
            except SystemExit as ended:
                code = ended.code
        return code, *capsys.readouterr()

    return run


def test_the_command_writes_a_table_and_every_number(start, folders, tmp_path):
    code, out, err = start("--real=FOLDER/real --fake=FOLDER/fake")
    assert code == 0, err
    assert "PSNR ↑ (dB)" in out and "Skipped: FVD: no i3d in --weights" in out
    assert "psnr of fake a (12 frames)" in err
    assert {path.name for path in (tmp_path / "out").iterdir()} == set(report.FILES)


def test_what_was_measured_is_kept_though_nobody_reads_the_table(
    start, folders, tmp_path, monkeypatch
):
    def closed(*_, file=sys.stdout, **__):
        if file is sys.stdout:
            raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr(evaluate, "print", closed, raising=False)
    code, _, err = start("--real=FOLDER/real --fake=FOLDER/fake --metrics=mae")
    assert code == 1 and "Broken pipe" in err
    assert {path.name for path in (tmp_path / "out").iterdir()} == {*report.FILES}


def test_everything_that_is_wrong_is_one_sentence_before_any_network(start, folders, tmp_path):
    real, fake = folders
    (fake / "c").rename(fake / "d")
    (fake / "a" / "frame_5.png").write_bytes(b"no picture")
    (fake / "a" / "frame_8.png").write_bytes(b"")
    (fake / "b" / "frame_11.png").unlink()
    code, out, err = start("--real=FOLDER/real --fake=FOLDER/fake --metrics=psnt,fvd,psnr")
    assert code == 1 and out == "" and err.count("\n") == 2  # progress, then one line
    for part in (
        "--metrics psnt: not one of l1, mae",
        "frame_5.png: not a picture that can be read",
        "frame_8.png: not a picture that can be read",
        "no fake clip named c;",
        "no real clip named d",
        "numbers of frames differ of b (real 12, fake 11)",
        "fvd: no i3d in --weights",
    ):
        assert part in err, part


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--real=FOLDER/real", "give one of them"),
        ("--fake=FOLDER/fake --arms=base", "give one of them"),
        ("--fake=FOLDER/fake --config.sample.steps=4", "--config and its values belong to the"),
        ("--fake=FOLDER/fake --config=configs/sd15.py", "--config and its values belong to the"),
        ("--fake=FOLDER/nothing", "no such folder"),
        (
            "--fake=FOLDER",
            "real: a folder without pictures (.png, .jpg, .jpeg, .webp, .bmp, .tif, .tiff, .avif)",
        ),
        ("--fake=FOLDER/fake --metrics=psnr", "psnr: compares with the truth, and there is no"),
        ("--fake=FOLDER/fake --metrics=,", "--metrics is empty"),
        ("--fake=FOLDER/fake --size=big", "--size big: expected HEIGHTxWIDTH"),
        ("--fake=FOLDER/fake --stride=0", "--stride 0"),
        ("--fake=FOLDER/fake --weights=FOLDER/fake", "no bundle.json in it"),
        ("--fake=FOLDER/fake --vbench=FOLDER/x.json", "not a result file of VBench"),
        ("--fake=FOLDER/fake --fps=inf", "--fps inf: expected"),
        ("--fake=FOLDER/fake --metrics=all,fvdd", "--metrics fvdd: not one of"),
    ],
)
def test_a_mistake_is_one_line(start, folders, weights, tmp_path, line, message):
    (tmp_path / "weights").rename(tmp_path / "elsewhere")
    code, _, err = start(line)
    assert code == 1 and message.replace("FOLDER", str(tmp_path)) in err
    assert not (tmp_path / "out").exists()
