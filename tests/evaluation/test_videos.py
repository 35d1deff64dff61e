"""Which files are clips, and what is told of them before they are measured."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dispose_jax.evaluation import report, videos
from dispose_jax.evaluation.ablation import report as ablation_report
from dispose_jax.media import video
from tests.evaluation.test_measure import clip, results_of, write
from tests.media import films


def test_clips_are_all_that_is_a_video_whatever_wrote_it(tmp_path):
    for side in ("real", "fake"):
        write(tmp_path / side / "a.mp4", clip(0))  # frames in a folder that kept the video's name
        for ending in (".m4v", ".MTS"):
            video.write(tmp_path / "b.mp4", clip(1), 24)
            (tmp_path / "b.mp4").rename(tmp_path / side / f"b{ending[-1]}{ending}")
    (tmp_path / "fake" / "a.mp4").rename(tmp_path / "fake" / "a")
    for i, frame in enumerate(clip(2)):
        (tmp_path / "real" / "d").mkdir(exist_ok=True)
        Image.fromarray(frame).save(tmp_path / "real" / "d" / f"{i}.tif")
    write(tmp_path / "fake" / "d", clip(2))
    results, _ = results_of(tmp_path / "real", tmp_path / "fake", metrics="mae")
    assert results.fake["mae"].by_clip == {"a": 0, "bS": 0, "bv": 0, "d": 0}


def test_what_is_transparent_is_white_as_it_is_to_the_models(tmp_path):
    """What lies hidden in a cut-out figure's background was compared with the other's."""
    frames = clip(0, 3)
    alpha = np.zeros(frames.shape[:3], np.uint8)
    alpha[:, 4:20, 6:30], alpha[:, 10, 10] = 255, 102
    share = alpha[..., None] / 255
    seen = np.rint(share * frames + (1 - share) * 255).astype(np.uint8)
    (tmp_path / "fake" / "a").mkdir(parents=True)
    for i, frame in enumerate(np.concatenate([frames, alpha[..., None]], -1)):
        Image.fromarray(frame, "RGBA").save(tmp_path / "fake" / "a" / f"{i}.png")
    found = videos.frames(videos.open_clip(tmp_path / "fake" / "a", 15))
    assert max(np.abs(one.astype(int) - other).max() for one, other in zip(found, seen)) <= 1


def test_what_explains_a_clip_is_none(tmp_path):
    for name in ("a.mp4", "a.explain.mp4", "other.explain.mp4"):
        video.write(tmp_path / "set" / name, clip(0, 3), 24)
    assert [*videos.find(tmp_path / "set", 15).clips] == ["a", "other.explain"]


def test_what_a_measurement_wrote_among_the_clips_is_none(tmp_path):
    """The second measurement of a folder with the --output of the first in it found a clip without
    frames; the ablation's even has a picture."""
    write(tmp_path / "set" / "a", clip(0, 3))
    (tmp_path / "set" / "a" / "metrics.json").write_text("{}")  # of whatever made the frames
    results, _ = results_of(None, tmp_path / "set", metrics="flickering")
    report.write(tmp_path / "set" / "evaluation", results, {})
    write(tmp_path / "set" / "ablation", clip(0, 1))
    for name in ablation_report.FILES:
        (tmp_path / "set" / "ablation" / name).touch()
    again, _ = results_of(None, tmp_path / "set", metrics="flickering")
    assert [*again.fake["flickering"].by_clip] == ["a"]


def test_pairs_of_videos_at_other_rates_are_told(tmp_path, capsys):
    rates = {"real": {"a": 30, "b": 30, "c": 24}, "fake": {"a": 15, "b": 29.97, "c": 24}}
    for side, clips in rates.items():
        for name, fps in clips.items():
            video.write(tmp_path / side / f"{name}.mp4", clip(0, 4), fps)
        write(tmp_path / side / "d", clip(0, 4))
    results, _ = results_of(tmp_path / "real", tmp_path / "fake", metrics="mae")
    told = "Frames a second differ of a (real 30, fake 15); those compared are paired by position"
    assert len(results.notes) == 1 and results.notes[0].startswith(told)
    assert told in report.table(results, {}) and report.numbers(results, {})["notes"]


def test_a_video_that_lacks_frames_is_not_measured(tmp_path):
    for side in ("real", "fake"):
        (tmp_path / side).mkdir()
        video.write(tmp_path / side / "film.mp4", clip(1, 30), 24)
    path = films.write(tmp_path / "fake" / "cut.mkv", films.numbered(60), gop=6)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    _, problems, _ = videos.find(tmp_path / "fake", 15)
    assert len(problems) == 1 and "cut.mkv" in problems[0] and "truncated" in problems[0]
    with pytest.raises(ValueError, match="nothing was measured: .*cut.mkv.*truncated"):
        results_of(tmp_path / "real", tmp_path / "fake", metrics="mae")


def test_generated_frames_take_the_true_size_only_when_asked(tmp_path):
    write(tmp_path / "real" / "a", clip(0))
    write(tmp_path / "fake" / "a", clip(0, size=(20, 16)))
    told = re.escape("sizes differ of a (real 32 x 40, fake 16 x 20): --size real resizes")
    with pytest.raises(ValueError, match=told):
        results_of(tmp_path / "real", tmp_path / "fake", metrics="mae")
    for size in ("real", (20, 16)):
        results, _ = results_of(tmp_path / "real", tmp_path / "fake", metrics="mae", size=size)
        assert results.fake["mae"].value > 0


def test_frames_of_other_shapes_are_told_to_be_stretched(tmp_path):
    sizes = {"wide": (40, 64), "alike": (40, 32), "nearly": (64, 52)}
    for name, size in sizes.items():
        write(tmp_path / "real" / name, clip(0, size=(40, 32)))
        write(tmp_path / "fake" / name, clip(0, size=size))
    results, _ = results_of(tmp_path / "real", tmp_path / "fake", metrics="mae", size="real")
    (note,) = results.notes
    assert note.startswith("Shapes differ of wide (real 32 x 40, fake 64 x 40); frames that are ")
    # Told too where none is compared, and then no frame is stretched.
    results, _ = results_of(tmp_path / "real", tmp_path / "fake", metrics="flickering")
    assert results.notes == [note] and "frames that are compared are stretched onto" in note


TRUTH = re.search(
    r"```python\n(.*?)```", (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text(), re.S
)[1]


def test_the_truth_of_ones_own_video_is_made_as_the_page_on_evaluation_says(tmp_path, monkeypatch):
    """A video of 192 x 96 at 60 frames a second, and what a square model made of its frames."""
    monkeypatch.chdir(tmp_path)
    video.write("dance.mp4", films.numbered(40), 60)
    made = films.numbered(40)[::4, :, 48:144]  # stride 2 is 4 at this rate; the middle is cut out
    video.write(Path("fake/dance.mp4"), made, 15)
    exec(TRUTH, {})
    results, _ = results_of(Path("real"), Path("fake"), metrics="mae,psnr")
    assert results.fake["mae"].value < 0.01 and not results.notes
    assert min(results.fake["psnr"].by_clip.values()) > 35
