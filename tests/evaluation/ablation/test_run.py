"""The whole protocol with arms that answer from the truth: rows, contrasts, verdicts, files."""

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest

from dispose_jax.evaluation.ablation import contact_sheet, report, run
from dispose_jax.evaluation.ablation.metrics import METRICS
from dispose_jax.evaluation.ablation.run import CODEC, COPY, DRIVING, SILHOUETTE, TRUTH
from dispose_jax.evaluation.ablation.variants import (
    OTHER_FLOW,
    OTHER_POSES,
    OTHER_REFERENCE,
    SHUFFLED,
)
from dispose_jax.media import montage, video
from tests.evaluation.ablation.conftest import CLIPS, FRAMES, config


class Oracle:
    """An arm whose frames are the truth with noise: more of it, the worse the variant."""

    ROWS = {
        "full": {"full": 4, SHUFFLED: 40, OTHER_FLOW: 40},
        "no_point": {"no_point": 40},
        "base": {"base": 60, OTHER_POSES: 90, OTHER_REFERENCE: 90},
    }

    def __init__(self, variant, seed=0):
        self.variant, self.seed, self.config = variant, seed, config()
        self.given, self.parameters, self.added = ("b",), {"unet": 5}, 12_345
        self.frames = FRAMES
        self.weights = SimpleNamespace(digests={"unet": "x"}, random=())

    def sample(self, clips):
        for i, clip in enumerate(clips):
            for row, level in self.ROWS[self.variant].items():
                yield row, i, self.noisy(clip.truth.frames, level, i)

    def through_codec(self, clips):
        for i, clip in enumerate(clips):
            yield self.noisy(clip.truth.frames, 2, i)

    def noisy(self, frames, level, i):
        rng = np.random.default_rng([self.seed, i])
        return np.clip(frames + rng.integers(-level, level + 1, frames.shape), 0, 255).astype("u1")


@pytest.fixture(scope="module")
def results(sets):
    arms = [Oracle("base"), Oracle("full", 1), Oracle("full", 2), Oracle("no_point", 3)]
    arms.append(Oracle("no_point", 4))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run.drawn_clips, "draw", lambda config, count, frames: sets)
        said = []
        yield run.run(arms, CLIPS, said.append)
        assert len(said) == 1 + 2 * len(arms)


def test_every_arm_control_and_bound_is_a_row_with_its_seeds(results):
    for rows in results.scores.values():
        seeds = {row: values.shape for row, values in rows.items()}
        single = [OTHER_POSES, OTHER_REFERENCE, "base", COPY, SILHOUETTE, CODEC, TRUTH, DRIVING]
        double = ["full", SHUFFLED, OTHER_FLOW, "no_point"]
        shape = (CLIPS, len(METRICS))
        expected = dict.fromkeys(single, (1, *shape)) | dict.fromkeys(double, (2, *shape))
        assert seeds == expected


def test_bounds_are_where_they_must_be(results):
    mean = lambda row, metric, kind="same": np.nanmean(results.of(kind, row, metric))
    assert mean(TRUTH, "figure_l1") == mean(TRUTH, "joint_error") == 0
    assert mean(CODEC, "figure_l1") == pytest.approx(1.2 / 255, rel=0.1)
    assert mean(SILHOUETTE, "picture_l1") < mean(SILHOUETTE, "figure_l1")
    assert mean(COPY, "joint_error") > 1 and mean(COPY, "figure_l1") > 0.05
    assert mean(DRIVING, "joint_error") < 1e-3 < 0.3 < mean(DRIVING, "joint_error", "cross")
    assert np.isnan(results.of("same", DRIVING, "identity")).all()


def test_full_is_compared_with_every_other_row_that_a_model_made(results):
    found = {(one.kind, one.row, one.metric): one for one in run.contrasts(results)}
    assert {row for _, row, _ in found} == {"base", "no_point", SHUFFLED, OTHER_FLOW}
    one = found["same", "no_point", "identity"]
    expected = results.of("same", "full", "identity") - results.of("same", "no_point", "identity")
    assert one.difference.mean == pytest.approx(expected.mean()) and one.difference.seeds == 2
    assert one.adjusted == 2 * one.difference.p, "two such tests: same and cross"
    assert one.verdict == "separated, full better"
    assert found["same", "base", "identity"].adjusted is None
    assert found["same", "base", "figure_psnr"].difference.seeds == 2, "the base serves all seeds"
    assert found["cross", "base", "figure_psnr"].verdict == "separated, full better"


def test_a_metric_that_prefers_the_copy_is_named(results):
    dropped = run.dropped(results)
    assert ("same", "flicker") in dropped, "a copy does not flicker"
    assert ("same", "joint_error") not in dropped
    table = report.table(results, [])
    assert "*same*, a copy of the reference is better than the base by " in table


@pytest.mark.filterwarnings("error")
def test_what_could_not_be_measured_prefers_nothing(results):
    """As the flicker of one frame alone, of windows of two."""
    flicker = [*METRICS].index("flicker")
    scores = {
        kind: {row: values.copy() for row, values in rows.items()}
        for kind, rows in results.scores.items()
    }
    for values in (values for rows in scores.values() for values in rows.values()):
        values[..., flicker] = np.nan
    alone = dataclasses.replace(results, scores=scores)
    others = [place for place in run.dropped(results) if place[1] != "flicker"]
    assert run.dropped(alone) == others
    assert report.table(alone, run.contrasts(alone))


def test_files_hold_all_numbers_and_the_table_says_what_they_mean(results, tmp_path):
    paths = report.write(tmp_path / "new", results)
    assert [path.name for path in paths] == list(report.FILES)
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == sorted(report.FILES)
    content = json.loads(paths[3].read_text())
    for kind, rows in results.scores.items():
        for row, values in rows.items():
            for i, name in enumerate(METRICS):
                kept = np.array(content["scores"][kind][row][name], float)
                np.testing.assert_array_equal(kept, values[..., i])
    assert content["arms"][1]["parameters"] == {"unet": 5}
    assert len(content["contrasts"]) == len(run.contrasts(results))
    table = paths[2].read_text()
    lines = [line for line in table.splitlines() if line.startswith("|")]
    assert table.count("| full |") == 2 and "12,345" in table and "not reproduce" not in table
    assert "**2 training seeds** in some rows" in table and "at least 5 are wanted" in table
    assert any(f"| {SHUFFLED} |" in line and "separated, full better" in line for line in lines)
    for header in (i for i, line in enumerate(lines) if set(line) <= set("|- ")):
        assert lines[header].count("|") == lines[header - 1].count("|")
    clip = video.read(paths[1], 1)
    assert len(clip.frames) == 3 * contact_sheet.TURNS


def test_one_seed_is_said_to_be_one(sets, monkeypatch):
    monkeypatch.setattr(run.drawn_clips, "draw", lambda config, count, frames: sets)
    arms = [Oracle("full"), Oracle("no_point")]
    results = run.run(arms, CLIPS, lambda text: None)
    table = report.table(results, run.contrasts(results))
    assert "**1 training seed**" in table and "is about these weights" in table
    assert run.dropped(results) == [], "no base to compare the copy with"


def test_without_the_full_arm_there_is_a_table_without_differences(sets, monkeypatch):
    monkeypatch.setattr(run.drawn_clips, "draw", lambda config, count, frames: sets)
    results = run.run([Oracle("base")], CLIPS, lambda text: None)
    assert run.contrasts(results) == []
    assert "No arm `full`: no differences to show." in report.table(results, [])


def test_the_sheet_shows_each_row_of_each_clip(results):
    sheet = contact_sheet.sheet(results)
    times = contact_sheet.PICTURE_SIDE // 64
    side = 64 * times + montage.GAP
    rows = len(contact_sheet._pictured(results))
    assert rows == 5 and sheet.shape[1] == contact_sheet.LABEL + 3 * side
    assert sheet.shape[0] == 2 * run.SHOWN * (rows * side + 22)
    first = sheet[22:, contact_sheet.LABEL :][: 64 * times : times, : 64 * times : times]
    np.testing.assert_array_equal(first, results.pictures["same"][TRUTH][0][0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"clips": 1}, "--clips is 1: expected 2 or more"),
        ({"data.source": "SET"}, "data.source is 'SET': only drawn people have true frames"),
        ({"sample.height": 0}, "sample.height is 0: give the size of the drawn pictures"),
        ({"sample.height": 100}, "64"),
    ],
)
def test_what_cannot_be_evaluated_is_one_sentence(change, message):
    made = config()
    clips = change.pop("clips", 2)
    made.update_from_flattened_dict(change)
    with pytest.raises(ValueError, match=message):
        run.check(made, clips)
