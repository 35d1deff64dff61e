"""The command that measures: every mistake is one clear line, and what it writes is whole."""

import json
import sys

import jax
import numpy as np
import pytest
from absl.testing import flagsaver

import evaluate
from dispose_jax import cli
from dispose_jax.evaluation.ablation import report, run
from dispose_jax.evaluation.ablation.metrics import METRICS
from dispose_jax.models import bundle
from tests import small

CONFIG = """
from tests import small

def get_config(argument):
    config = small.config(base=argument)
    config.bundled = ("nothing",)  # no such folder
    config.sample.update({"window": 4, "steps": 1})
    return config
"""


@pytest.fixture
def start(monkeypatch, capsys, tmp_path):
    """start("--flag=x ...") -> exit code, stdout, stderr; FOLDER stands for the test's folder."""
    monkeypatch.setattr(cli, "use_compile_cache", lambda: None)
    (tmp_path / "small.py").write_text(CONFIG)
    (tmp_path / "file").write_text("hello")
    (tmp_path / "empty").mkdir()

    def run(line, base="svd"):
        defaults = f"--config=FOLDER/small.py:{base} --output=FOLDER/out {line}"
        arguments = [part.replace("FOLDER", str(tmp_path)) for part in defaults.split()]
        monkeypatch.setattr(sys, "argv", ["evaluate.py", *arguments])
        with flagsaver.flagsaver():
            try:
                cli.run(evaluate.main)
                code = 0
            except SystemExit as ended:
                code = ended.code
        return code, *capsys.readouterr()

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
