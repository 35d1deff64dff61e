"""The command that measures: every mistake is one clear line, and what it writes is whole."""

import json
import sys

import jax
import numpy as np
import pytest

import evaluate
from dispose_jax import provenance
from dispose_jax.evaluation import report as table
from dispose_jax.evaluation.ablation import report, run
from dispose_jax.evaluation.ablation.metrics import METRICS
from dispose_jax.models import bundle
from tests import small
from tests.evaluation import folders

CONFIG = """
from tests import small

def get_config(argument):
    config = small.config(base=argument)
    config.bundled = ("nothing",)  # no such folder
    config.sample.update({"window": 4, "steps": 1})
    return config
"""


@pytest.fixture
def start(command, tmp_path):
    """start("--flag=x ...") -> exit code, stdout, stderr; FOLDER stands for the test's folder."""
    (tmp_path / "small.py").write_text(CONFIG)
    (tmp_path / "file").write_text("hello")
    (tmp_path / "empty").mkdir()

    def run(line, base="svd"):
        defaults = f"--config=FOLDER/small.py:{base} --output=FOLDER/out {line}"
        return command(
            evaluate.main, "evaluate.py", *defaults.replace("FOLDER", str(tmp_path)).split()
        )

    return run


RANDOM = "--weights=random"
MISTAKES = [  # exit code, arguments, what the line says
    (1, RANDOM, "or videos to measure with --fake FOLDER"),
    (1, f"{RANDOM} --arms=best", "'best' is no variant; expected VARIANT or VARIANT=BUNDLE"),
    (1, f"{RANDOM} --arms=full:FOLDER/b", "is no variant; expected VARIANT or VARIANT=BUNDLE"),
    (1, f"{RANDOM} --arms=base --arms=full=", "no folder after 'full='; name a bundle"),
    (1, f"{RANDOM} --arms=base,base", "'base' comes twice"),
    (1, f"{RANDOM} --arms=full=FOLDER/absent", "absent: no such folder, so it is no weights"),
    (1, f"{RANDOM} --arms=full=FOLDER/empty", "no bundle.json in it, so it is no weights bundle"),
    (1, "--arms=base", "arm base: its bundles (none) lack networks: stage=vae makes vae; stage=b"),
    (1, "--arms=base --weights=FOLDER/absent", "absent: no such folder"),
    (1, f"{RANDOM} --arms=base --clips=1", "--clips is 1: expected 2 or more"),
    (
        1,
        f"{RANDOM} --arms=base --config.data.source=FOLDER",
        "only drawn people have true frames to compare with; use a config of the small world or",
    ),
    (1, f"{RANDOM} --arms=base --config.sample.steps=0", "sample.steps is 0: expected 1 or more"),
    (1, f"{RANDOM} --arms=base --stride=2", "--stride is for videos: name their folder with --fa"),
    (1, "--fake=FOLDER --clips=2", "--clips belongs to the ablation (--arms)"),
    (1, f"{RANDOM} --arms=base --output=FOLDER/file", "cannot make its folder"),
    (2, f"{RANDOM} --arms=base --clips=some", "--clips=some: expected a whole number"),
    (2, f"{RANDOM} --arms=base --fps=fast", "--fps=fast: expected a number"),
    (2, f"{RANDOM} --amrs=base", "Unknown command line flag 'amrs'"),
    (2, f"{RANDOM} --arms=base more", "unexpected argument 'more'"),
]


@pytest.mark.parametrize("code, line, message", MISTAKES)
def test_a_mistake_is_one_line_and_leaves_nothing_behind(start, tmp_path, code, line, message):
    ended, out, err = start(line)
    assert ended == code and out == ""
    assert message in err and err.startswith("evaluate.py: ") and err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_the_flags_reach_the_run(start, monkeypatch, tmp_path):
    made = small.build("full")
    about = bundle.ModelDescription(
        "svd", made.config.model, made.config.quirks, "configs/svd.py:size=tiny"
    )
    for factor, name in enumerate(("one", "two"), start=1):
        origin = {"motion_encoder": bundle.Origin("a test", "none")}
        scaled = jax.tree.map(lambda x, factor=factor: factor * x, made.params["motion_encoder"])
        bundle.write(tmp_path / name, {"motion_encoder": scaled}, about, origin)
    runs = []
    monkeypatch.setattr(run, "run", lambda *given: runs.append(given))
    monkeypatch.setattr(report, "write", lambda folder, _: [f"{folder}/table.md"])
    code, out, _ = start(
        f"{RANDOM} --arms=base --arms=full=FOLDER/one,full=FOLDER/two --arms=no_cmp --clips=5 "
        "--config.seed=7"
    )
    ((arms, clips),) = runs
    assert code == 0 and clips == 5 and out == f"wrote {tmp_path}/out/table.md\n"
    assert [arm.variant for arm in arms] == ["base", "full", "full", "no_cmp"]
    assert [arm.given[1:] for arm in arms] == [
        (),
        (str(tmp_path / "one"),),
        (str(tmp_path / "two"),),
        (),
    ]
    assert [tuple(arm.config.control.motion) for arm in arms] == [
        (),
        ("sparse", "dense"),
        ("sparse", "dense"),
        ("sparse",),
    ]
    assert {arm.config.seed for arm in arms} == {7}
    assert "motion_encoder" not in arms[1].weights.random
    assert arms[1].model == arms[2].model and hash(arms[1].model) == hash(arms[2].model), (
        "seeds of a variant share their compiled programs"
    )
    assert arms[1].recipe.dift == arms[2].recipe.dift and arms[1].recipe.cmp == arms[2].recipe.cmp


@pytest.mark.full
def test_arms_and_controls_are_measured_and_the_same_again_when_run_again(start, tmp_path):
    line = f"{RANDOM} --arms=base --arms=full --clips=2"
    contents = []
    for name in ("one", "two"):
        code, out, err = start(f"{line} --output=FOLDER/{name}")
        assert code == 0, err
        assert [f"wrote {tmp_path}/{name}/{file}" in out for file in report.FILES] == [True] * 4
        contents.append(json.loads((tmp_path / name / "results.json").read_text()))
    assert contents[0]["git"] == provenance.git_revision()
    scores = contents[0]["scores"]
    assert scores == contents[1]["scores"]
    full, shuffled, flow, base = (
        np.array([scores["same"][row][name] for name in METRICS])
        for row in ("full", "full, shuffled point features", "full, another clip's flow", "base")
    )
    assert full.shape == (len(METRICS), 1, 2) and np.isfinite(full).all()
    # Random weights use every signal, so that nothing may be equal.
    for other in (shuffled, flow, base):
        assert (full[0] != other[0]).all()


@pytest.mark.full
def test_the_second_base_is_measured_without_its_reference(start, tmp_path):
    code, out, err = start(f"{RANDOM} --arms=base --clips=2", base="sd15")
    assert code == 0, err
    assert "drawing 2 clips of 5 frames" in out, "a window of 4 and the reference"
    written = json.loads((tmp_path / "out" / "results.json").read_text())
    for rows in written["scores"].values():
        base, codec = rows["base"], rows["truth through the autoencoder"]
        assert np.isfinite(base["figure_l1"]).all() and np.isfinite(codec["figure_l1"]).all()


@pytest.fixture
def measured(command, tmp_path):
    """As start, beside a folder of real clips and one of generated ones; without a config."""
    folders.pairs(tmp_path)
    output = f"--output={tmp_path}/out"
    return lambda line: command(
        evaluate.main, "evaluate.py", output, *line.replace("FOLDER", str(tmp_path)).split()
    )


def test_measuring_videos_writes_a_table_and_every_number(measured, tmp_path):
    code, out, err = measured("--real=FOLDER/real --fake=FOLDER/fake")
    assert code == 0, err
    assert "PSNR ↑ (dB)" in out and "Skipped: FVD: no i3d in --weights" in out
    assert "psnr of fake a (12 frames)" in err
    assert {path.name for path in (tmp_path / "out").iterdir()} == set(table.FILES)
    about = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert about["git"] == provenance.git_revision() and about["versions"]["jax"]


def test_what_was_measured_is_kept_though_nobody_reads_the_table(measured, tmp_path, monkeypatch):
    def closed(*_, file=sys.stdout, **__):
        if file is sys.stdout:
            raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr(evaluate, "print", closed, raising=False)
    code, _, err = measured("--real=FOLDER/real --fake=FOLDER/fake --metrics=mae")
    assert code == 1 and "Broken pipe" in err
    assert {path.name for path in (tmp_path / "out").iterdir()} == {*table.FILES}


def test_everything_that_is_wrong_is_one_sentence_before_any_network(measured, tmp_path):
    fake = tmp_path / "fake"
    (fake / "c").rename(fake / "d")
    (fake / "a" / "frame_5.png").write_bytes(b"no picture")
    (fake / "a" / "frame_8.png").write_bytes(b"")
    (fake / "b" / "frame_11.png").unlink()
    code, out, err = measured("--real=FOLDER/real --fake=FOLDER/fake --metrics=psnt,fvd,psnr")
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
def test_a_mistake_about_videos_is_one_line(measured, tmp_path, line, message):
    code, _, err = measured(line)
    assert code == 1 and message.replace("FOLDER", str(tmp_path)) in err
    assert not (tmp_path / "out").exists()
