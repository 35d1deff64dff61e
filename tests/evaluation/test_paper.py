"""The paper's tables on small data: resuming, shards, costs, and the printed table."""

import json
import re
from types import SimpleNamespace

import numpy as np
import pytest

from configs import sd15, svd
from dispose_jax import weights
from dispose_jax.evaluation import paper, sequences
from dispose_jax.evaluation.paper_tables import TABLES
from dispose_jax.media import image, video
from dispose_jax.pose import estimate, files
from tests import small
from tests.pose.poses import standing

SIZE = small.SIZE


def config_of():
    config = small.config()
    config.sample.update({"window": 4, "overlap": 1, "steps": 1})
    config.sample.update({"height": SIZE[0], "width": SIZE[1]})
    return config


class Killed(Exception):
    """What stops a run in these tests, wherever it is."""


class Stub:
    """Stands for an animator: the truth with noise, less of it with DisPose."""

    calls = 0
    killed_at: tuple[int, ...] = ()

    def __init__(self, config, given, say, recent):
        self.config, self.given = config, given
        self.noise = 5 if config.control.points else 40

    def prepare(self, reference, *, poses, reference_pose, fps):
        Stub.calls += 1
        if Stub.calls in Stub.killed_at:
            raise Killed
        assert reference_pose.num_frames == 1 and fps == 30
        count = poses.pose.num_frames
        return SimpleNamespace(reference=reference, num_frames=count, shown=reference.shape[:2])

    def __call__(self, clip):
        rng = np.random.default_rng(int(clip.reference.sum()) + self.noise)
        for _ in range(clip.num_frames):
            noise = rng.integers(-self.noise, self.noise + 1, clip.reference.shape)
            yield (clip.reference + noise).clip(0, 255).astype(np.uint8)[None]


@pytest.fixture
def stub(monkeypatch):
    monkeypatch.setattr(paper, "Animator", Stub)
    monkeypatch.setattr(Stub, "calls", 0)
    monkeypatch.setattr(Stub, "killed_at", ())
    return Stub


def run_of(workdir, data, table=6, **more):
    return paper.TableRun(
        config_of(), table, data, ("random",), workdir, say=lambda line: None, **more
    )


def table_of(workdir, data, table=6, **more):
    run = run_of(workdir, data, table, **more)
    run.make()
    return run.text()


@pytest.mark.parametrize("text", ["", "[1]", '{"config": ', b"\xff"])
def test_what_an_earlier_run_wrote_is_named_if_it_is_damaged(stub, tiktok, tmp_path, text):
    run = run_of(tmp_path / "run", tiktok, 7)
    for name in ("plan.json", "costs/full.json"):
        path = tmp_path / "run" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=r"costs/full.json: .*delete it and run again"):
        run.costs("full")
    with pytest.raises(ValueError, match=r"run/plan.json: .*delete it and run again"):
        run_of(tmp_path / "run", tiktok, 7)


def test_keypoints_of_a_clip_are_found_once_for_all_rows(tiktok, tmp_path, monkeypatch):
    looked, run = [], run_of(tmp_path / "run", tiktok)
    monkeypatch.setattr(weights.Weights, "pose_folder", tmp_path)
    monkeypatch.setattr(estimate, "open_models", lambda folder: None)
    monkeypatch.setattr(
        estimate, "estimate", lambda *_, num_frames, **__: looked.append(0) or standing(num_frames)
    )
    undetected = run.sequences[0]._replace(poses=None)
    for variant in ("base", "full"):
        sequences.prepared(run.animator(variant), undetected, 0)
    assert len(looked) == 2, "the reference and the clip"


def test_a_run_that_was_killed_three_times_gives_the_same_table(stub, tiktok, tmp_path):
    expected = table_of(tmp_path / "whole", tiktok)
    assert stub.calls == 12
    stub.calls, stub.killed_at = 0, (3, 7, 12)
    for _ in range(3):
        with pytest.raises(Killed):
            table_of(tmp_path / "killed", tiktok)
    assert table_of(tmp_path / "killed", tiktok) == expected
    assert stub.calls == 12 + 3  # a clip that was finished is never made again
    assert "| MimicMotion | paper | 0.749 | 18.32 |" in expected
    assert "| MimicMotion | ours |" in expected.replace("**", "")
    assert "definitions are inferred" in expected and "no vgg16" in expected


def test_shards_make_their_own_clips_and_the_last_run_finds_all(stub, tiktok, tmp_path):
    whole = table_of(tmp_path / "whole", tiktok)
    run = run_of(tmp_path / "parts", tiktok)
    run.make((0, 2))
    assert {one.name for kind, one in run.missing() if kind == "full"} == {
        "00336",
        "00338",
        "00340",
    }
    run.make((1, 2))
    assert run.missing() == [] and run.text() == whole


def test_closer_clips_score_better_and_variants_need_their_weights(stub, tiktok, tmp_path):
    text = table_of(tmp_path / "run", tiktok)
    rows = dict(re.findall(r"\*\*(.*?)\*\* \| ours \| (.*) \|", text))
    psnr = {row: float(cells.split(" | ")[1]) for row, cells in rows.items()}
    assert psnr["MimicMotion+DisPose"] > psnr["MimicMotion"]
    bundled = described(tmp_path / "A", "one")
    run = run_of(tmp_path / "three", tiktok, 3, ablation={"no_motion": bundled})
    assert run.variants == ["no_motion", "full"]
    assert run.animator("no_motion").given == ("random", bundled)
    assert not run.animator("no_motion").config.control.motion
    run.make()
    assert "w/o keypoint correspondence: not measured, give --ablation no_point" in run.text()


def test_the_hybrid_controlnet_stands_beside_both_ways_round_it(stub, tiktok, tmp_path):
    encoders = "motion_encoder", "point_encoder"
    arms = {
        "exp1": described(tmp_path / "C", "one", "controlnet", *encoders),
        "exp2": described(tmp_path / "D", "two", *encoders),
    }
    run = run_of(tmp_path / "run", tiktok, 4, ablation=arms)
    assert run.variants == ["exp1", "exp2", "full"]
    entered = {}
    for variant in run.variants:
        control = run.animator(variant).config.control
        entered[variant] = control.motion_into, control.points_into
    assert entered == {
        "exp1": ("unet", "controlnet"),
        "exp2": ("unet", "unet"),
        "full": ("controlnet", "controlnet"),
    }
    run.make()
    text = run.text().replace("**", "")
    for row, printed in {"Exp1": "10.43 | 514.83", "Exp2": "10.94 | 551.32"}.items():
        assert f"| {row} | paper | {printed} |\n| {row} | ours |" in text
    with pytest.raises(ValueError, match="--ablation exp2=.*C: .*holds controlnet"):
        run_of(tmp_path / "new", tiktok, 4, ablation={"exp2": arms["exp1"]})


def described(folder, config: str, *names: str) -> str:
    """A bundle that says it has these networks, those of no_motion by default."""
    folder.mkdir(exist_ok=True)
    entry = {"sha256": "0", "bytes": 0, "tensors": 0, "dtype": "float32", "source": "drawn"}
    networks = {
        name: {**entry, "file": f"{name}.safetensors"}
        for name in names or ("controlnet", "point_encoder")
    }
    about = {"format": 1, "base": "svd", "model": {}, "quirks": {}, "config": config}
    (folder / "bundle.json").write_text(json.dumps({**about, "networks": networks}))
    return str(folder)


def test_clips_of_other_weights_are_not_taken_for_these(stub, tiktok, tmp_path):
    arms = lambda: {"no_motion": described(tmp_path / "A", config)}
    config = "first"
    run_of(tmp_path / "run", tiktok, 3, ablation=arms())
    run_of(tmp_path / "run", tiktok, 3, ablation=arms())
    (tmp_path / "run" / "no_motion" / "00335").mkdir(parents=True)  # a clip
    config = "trained again"
    with pytest.raises(ValueError, match="other ablation; choose another --workdir"):
        run_of(tmp_path / "run", tiktok, 3, ablation=arms())
    with pytest.raises(ValueError, match="absent: no such folder"):
        run_of(tmp_path / "new", tiktok, 3, ablation={"no_motion": str(tmp_path / "absent")})
    full = described(tmp_path / "full", "svd", "controlnet", "motion_encoder", "point_encoder")
    with pytest.raises(ValueError, match="--ablation no_motion=.*full: .*holds motion_encoder"):
        run_of(tmp_path / "new", tiktok, 3, ablation={"no_motion": full})
    assert not (tmp_path / "new").exists(), "nothing is written down before all is checked"


@pytest.mark.parametrize("changed", ["00335.poses.json", "00335.png", "00335.reference.poses.json"])
def test_clips_of_other_poses_or_pictures_are_not_taken_for_these(stub, tiktok, tmp_path, changed):
    data = tmp_path / "data"
    data.mkdir()
    (data / "00335").symlink_to(tiktok / "00335" / "images")
    for ending in (".poses.json", ".reference.poses.json"):
        (data / f"00335{ending}").write_bytes((tiktok / "00335.poses.json").read_bytes())
    first = (tiktok / "00335" / "images" / "0001.png").read_bytes()
    (data / "00335.png").write_bytes(first)
    run_of(tmp_path / "run", data, 2)
    (tmp_path / "run" / "base" / "00335").mkdir(parents=True)  # a clip
    run_of(tmp_path / "run", data, 2)
    other = tiktok / "00336.poses.json"
    if changed == "00335.png":
        other = tiktok / "00336" / "images" / "0001.png"
    (data / changed).write_bytes(other.read_bytes())
    with pytest.raises(ValueError, match="other videos, pose files or ref.*; choose another"):
        run_of(tmp_path / "run", data, 2)


def test_other_options_in_a_used_folder_are_an_error(stub, tiktok, tmp_path):
    run_of(tmp_path / "run", tiktok, limit=3)
    run_of(tmp_path / "run", tiktok)  # after a mistake, before any clip was made
    run_of(tmp_path / "run", tiktok, 1).make()  # another table of the same clips is fine
    with pytest.raises(ValueError, match="other config, frames; choose another --workdir"):
        run_of(tmp_path / "run", tiktok, limit=3)


def test_a_run_whose_folder_another_one_took_before_its_first_clip_puts_none_there(
    stub, tiktok, tmp_path
):
    """As of two machines whose shards were given other options by mistake."""
    first = run_of(tmp_path / "run", tiktok, 1, limit=3)
    (tmp_path / "run" / "truth").mkdir()  # which a clip that failed leaves
    second = run_of(tmp_path / "run", tiktok, 1)
    with pytest.raises(ValueError, match="other config, frames; choose another --workdir"):
        first.make()
    assert not [*(tmp_path / "run" / "truth").iterdir()]
    (tmp_path / "run" / "truth" / ".00335.partial-1").mkdir()  # of a first clip, while it is made
    with pytest.raises(ValueError, match="other config, frames; choose another --workdir"):
        run_of(tmp_path / "run", tiktok, 1, limit=3)
    second.make()


def test_what_is_made_of_unseen_videos_is_measured_at_their_rate(stub, tmp_path, monkeypatch):
    frames = np.zeros((6, *SIZE, 3), np.uint8)
    for name, rate in (("slow", 12), ("fast", 60)):
        video.write(tmp_path / "unseen" / f"{name}.mp4", frames, rate)
        image.write_png(tmp_path / "unseen" / f"{name}.png", frames[0])
        for ending in ("", ".reference"):
            path = tmp_path / "unseen" / f"{name}{ending}.poses.json"
            files.write(path, standing(1), width=SIZE[1], height=SIZE[0])
    run = run_of(tmp_path / "run", tmp_path / "unseen", 2)
    for one in run.sequences:
        sequences.write_frames(run.folder("full", one), iter(frames))
    monkeypatch.setattr(paper.measure, "run", lambda plan, say: plan)
    found = run.measured("full").fake
    assert {name: round(one.fps) for name, one in found.items()} == {"slow": 12, "fast": 60}


def test_keypoints_that_nothing_tells_or_finds_are_missed_before_anything_is_made(
    stub, tiktok, tmp_path
):
    data = tmp_path / "data"
    for path in tiktok.iterdir():
        (data / path.name).parent.mkdir(exist_ok=True)
        (data / path.name).symlink_to(path)
    (data / "00336.poses.json").unlink()
    with pytest.raises(ValueError, match="data: no 00336.poses.json, and no folder of --weights"):
        run_of(tmp_path / "run", data)
    assert not (tmp_path / "run").exists()
    run_of(tmp_path / "timed", data, 7)  # which looks at the first sequence alone
    bundled = described(tmp_path / "A", "one", "unet")
    (tmp_path / "A" / "detector.onnx").touch()
    paper.TableRun(config_of(), 6, data, ("random", bundled), tmp_path / "run")


@pytest.mark.parametrize(
    ("module", "variant", "printed"),
    [(svd, "full", 653.40), (svd, "base", 1454.19), (sd15, "base", 2072.64)],
)
def test_the_papers_numbers_of_parameters_are_met_exactly(module, variant, printed):
    config = module.get_config(f"variant={variant}")
    assert round(paper.parameters(config, variant) / 2**20, 2) == printed
    name = paper.row_name(config.base, 7, variant)
    assert TABLES[7].rows[name][0] == printed


def test_costs_are_counted_and_timed_once(stub, tiktok, tmp_path):
    text = table_of(tmp_path / "run", tiktok, 7)
    assert "compilation apart" in text and "5 frames of 128 x 64" in text
    calls = stub.calls
    assert table_of(tmp_path / "run", tiktok, 7) == text and stub.calls == calls


def test_every_row_of_a_table_has_a_number_for_every_column():
    for table in TABLES.values():
        assert {len(values) for values in table.rows.values()} == {len(table.columns)}


def test_the_full_model_has_the_same_numbers_in_the_tables_of_one_data_set():
    """As printed: the last rows of the ablations on TikTok are those of table 1."""
    columns = [column.metric for column in TABLES[1].columns]
    known = dict(zip(columns, TABLES[1].rows["MimicMotion+DisPose"]))
    for table in (TABLES[3], TABLES[4]):
        expected = tuple(known[column.metric] for column in table.columns)
        assert table.rows["full"] == expected


class Flags(dict):
    """Parsed flags, as absl offers them."""

    def __getattr__(self, name):
        return dict.__getitem__(self, name)

    def __getitem__(self, name):
        return SimpleNamespace(value=getattr(self, name))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--table=8", "--table 8: expected one of 1, 2, 3, 4, 5, 6, 7"),
        ("--table=6 --ablation=best=x", "--ablation best: expected VARIANT=BUNDLE"),
        ("--table=6 --shard=2/2", "--shard 2/2: expected i/n"),
        ("--table=6 --frames=1", "--frames 1: expected 0 for all, or 2 or more"),
        ("--table=6 --frames=-2", "--frames -2: expected 0 for all, or 2 or more"),
        ("--table=6 --data=", "give --data FOLDER"),
    ],
)
def test_a_mistake_is_a_sentence(monkeypatch, tmp_path, line, message):
    given = {"table": 6, "data": "x", "workdir": str(tmp_path), "weights": ["random"]}
    given |= {"ablation": [], "shard": "0/1", "frames": 0}
    for part in line.split():
        name, _, text = part.removeprefix("--").partition("=")
        given[name] = (
            int(text) if name in ("table", "frames") else [text] if name == "ablation" else text
        )
    monkeypatch.setattr(paper.flags, "FLAGS", Flags(given))
    with pytest.raises(ValueError, match=re.escape(message)):
        paper.main(config_of())


@pytest.mark.full
def test_the_small_model_goes_from_drawn_people_to_the_table(tiktok, tmp_path):
    text = table_of(tmp_path / "run", tiktok)
    rows = dict(re.findall(r"\*\*(.*?)\*\* \| ours \| (.*) \|", text))
    assert {"MimicMotion", "MimicMotion+DisPose"} <= rows.keys()
    frames = sorted((tmp_path / "run" / "full" / "00335").iterdir())
    assert len(frames) == 5 and image.read(frames[0]).shape == (*SIZE, 3)
    assert table_of(tmp_path / "run", tiktok) == text
    assert "ours |" in table_of(tmp_path / "run", tiktok, 1)
    assert "compilation apart" in table_of(tmp_path / "run", tiktok, 7)
