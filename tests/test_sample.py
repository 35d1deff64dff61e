"""The command: every mistake of a user is one clear line, and leaves nothing behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import sample
from dispose_jax.media import image, video
from dispose_jax.models import bundle
from dispose_jax.pose import files
from tests import small
from tests.pose.poses import standing

ROOT = Path(__file__).parents[1]
REFERENCE, REFERENCE_POSE, _, POSES = sample.DEMO
CONFIG = """
from tests import small

def get_config(argument):
    config = small.config(argument)
    config.bundled = ("nothing",)  # no such folder: without --weights they are random
    config.sample.update({"resolution": 64, "max_frames": 2, "window": 4, "overlap": 1, "steps": 1})
    return config
"""


@pytest.fixture
def folder(tmp_path):
    """A video with its poses, a bundle, and broken things of every kind."""
    rng = np.random.default_rng(0)
    (tmp_path / "small.py").write_text(CONFIG)
    video.write(tmp_path / "dance.mp4", rng.integers(0, 256, (6, 80, 64, 3), np.uint8), 30)
    files.write(tmp_path / "dance.json", standing(6), width=64, height=80)
    files.write(tmp_path / "one.json", standing(1), width=64, height=80)
    image.write_png(tmp_path / "tiny.png", np.zeros((9, 9, 3), np.uint8))
    whole = (tmp_path / "dance.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "cut.png").write_bytes(REFERENCE.read_bytes()[:3000])
    (tmp_path / "text").write_text("hello")
    (tmp_path / "pth").mkdir()
    (tmp_path / "pth" / "DisPose.pth").write_bytes(b"")
    return tmp_path


@pytest.fixture
def start(command, folder):
    """start("--flag=x ...") -> exit code, stdout, stderr; FOLDER stands for the test's folder."""
    defaults = f"--config={folder}/small.py:base", f"--output={folder}/out/a.mp4"
    return lambda line: command(
        sample.main, "sample.py", *defaults, *line.replace("FOLDER", str(folder)).split()
    )


PICTURE = f"--reference={REFERENCE}"
DRIVEN = f"{PICTURE} --reference_pose={REFERENCE_POSE}"
MISTAKES = [  # arguments, what the line says
    # references
    ("--reference=FOLDER/absent.png --poses=FOLDER/dance.json", "absent.png: no such picture"),
    ("--reference=FOLDER/text --poses=FOLDER/dance.json", "text: not a picture"),
    ("--reference=FOLDER/cut.png --poses=FOLDER/dance.json", "cut.png: cannot read this picture"),
    ("--reference=FOLDER/tiny.png --poses=FOLDER/dance.json", "tiny.png: 9 x 9 pixels, too small"),
    ("--reference=FOLDER/dance.mp4 --poses=FOLDER/dance.json", "dance.mp4: not a picture"),
    (f"{PICTURE} --reference_pose=FOLDER/text --poses=FOLDER/dance.json", "not JSON"),
    (
        f"--reference={REFERENCE} --poses=FOLDER/dance.json",
        "pass a pose file with --reference_pose",
    ),
    (PICTURE, "give --driving video, --poses file, or both"),
    ("--driving=FOLDER/dance.mp4", "no picture to animate: give --reference"),
    # what drives
    (f"{DRIVEN} --driving=FOLDER/absent.mp4", "absent.mp4: no such video"),
    (f"{DRIVEN} --driving=FOLDER/text", "text: not a video"),
    (f"{DRIVEN} --driving=FOLDER/cut.mp4 --poses=FOLDER/dance.json", "cut.mp4: "),
    (f"{DRIVEN} --driving=FOLDER/dance.mp4", "pass a pose file with --poses"),
    (
        f"{DRIVEN} --driving=FOLDER/dance.json",
        "dance.json: holds no video stream, expected a video",
    ),
    (f"{DRIVEN} --poses=FOLDER/absent.json", "absent.json: cannot read this pose file"),
    (f"{DRIVEN} --poses=FOLDER/one.json", "one.json: holds 1 frame"),
    (f"{DRIVEN} --driving=FOLDER/dance.mp4 --poses=FOLDER/one.json", "1 entries, but"),
    # numbers
    ("--config.sample.height=100 --config.sample.width=64", "64 x 96 is the nearest"),
    ("--config.sample.height=0", "give both, or neither and sample.resolution"),
    (
        "--config.sample.height=0 --config.sample.width=0 --config.sample.resolution=100",
        "must be multiples of 16",
    ),
    ("--config.sample.overlap=4", "sample.overlap is 4: expected less than sample.window, 4"),
    ("--config.sample.overlap=0 --config.sample.max_frames=9", "sample.overlap is 0: frame"),
    ("--config.sample.window=1", "sample.window is 1: expected 2 or more"),
    ("--config.sample.steps=0", "sample.steps is 0: expected 1 or more"),
    ("--config.sample.max_frames=-3", "sample.max_frames is -3: expected 0 (all), 2 or more"),
    ("--config.sample.guidance_scale=1,2,3", "sample.guidance_scale is (1, 2, 3): expected"),
    ("--config.sample.guidance_scale=high", "expected a number, or a pair such as 1,3"),
    ("--config.sample.stepz=3", "did you mean --config.sample.steps?"),
    ("--config.sample.steps=abc", "--config.sample.steps is 'abc': expected a whole number"),
    ("--config.sample.dtype=half", "sample.dtype is 'half': expected one of 'auto', 'float32'"),
    # the config and other flags
    ("--config=configs/svd.py:size=huge", "'size=huge': size is one of full, tiny"),
    ("--config=FOLDER/absent.py", "absent.py: no such file"),
    ("--config=configs/svd.py", "configs/svd.py needs --weights"),
    ("--outptu=a.mp4", "Unknown command line flag 'outptu'. Did you mean: output ?"),
    ("stray.mp4", "unexpected argument 'stray.mp4'"),
    ("--explain=perhaps", "perhaps"),
    (
        "--config=FOLDER/small.py:full --config.dift.prompt=cat",
        "prompt 'cat' needs CLIP's tokenizer",
    ),
    ("--jobs=FOLDER/text", "leave out other inputs, --output and --dry_run"),
    # weights
    ("--weights=FOLDER/absent", "absent: no such folder"),
    ("--weights=FOLDER/pth", "no bundle.json in it, so it is no weights bundle"),
    ("--weights=FOLDER/pth,random", "'random' comes first"),
    # the output
    ("--output=FOLDER/out.avi", "out.avi: this output's name ends in '.avi', expected .mp4"),
    ("--output=FOLDER/text/out.mp4", "out.mp4: cannot make its folder"),
    ("--output=FOLDER", "is a folder, expected the name of a file to write"),
    ("--output=FOLDER/out", "out: this output's name has no ending, expected .mp4"),
    (
        f"{DRIVEN} --driving=FOLDER/dance.mp4 --poses=FOLDER/dance.json --output=FOLDER/dance.mp4",
        "dance.mp4 and the files beside it would replace it; choose another --output",
    ),
    (f"{DRIVEN} --poses=FOLDER/dance.json --output=FOLDER/dance.mp4", "would replace it"),
]


def names(folder):
    """Files below a folder but for Python's own."""
    files = [path for path in folder.rglob("*") if not path.is_dir()]
    return {path.relative_to(folder) for path in files if path.parent.name != "__pycache__"}


@pytest.mark.parametrize(("line", "message"), MISTAKES)
def test_a_mistake_is_one_line_on_stderr_and_leaves_nothing_behind(start, folder, line, message):
    before = names(folder)
    code, _, err = start(line)
    assert code in (1, 2)
    assert err.startswith("sample.py: ")
    assert message in err
    assert err.count("\n") == 1
    assert names(folder) == before


@pytest.mark.parametrize("dry", ["", "--dry_run"])
def test_the_plan_and_the_run_refuse_the_same_numbers(start, dry):
    for line in ("--config.sample.steps=0", "--config.sample.height=100 --config.sample.width=64"):
        assert start(f"{line} {dry}")[0] == 1


def test_a_folder_instead_of_a_file_is_refused(start, folder):
    (folder / "clips.mp4").mkdir()
    assert "is a folder" in start("--output=FOLDER/clips.mp4")[2]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_is_refused(start, folder):
    (folder / "locked").mkdir(mode=0o500)
    assert "not writable" in start("--output=FOLDER/locked/a.mp4")[2]


def test_incomplete_truncated_and_foreign_bundles_are_named(start, folder):
    made = small.build("base")
    about = bundle.ModelDescription(
        "svd", made.config.model, made.config.quirks, "configs/svd.py:size=tiny"
    )
    origins = dict.fromkeys(made.params, bundle.Origin("a test", "none"))
    bundle.write(folder / "b", made.params, about, origins)
    code, _, err = start("--weights=FOLDER/b --config=configs/svd.py:size=tiny")
    assert (code, "belong to another model" in err, err.count("\n")) == (1, True, 1)
    path = folder / "b" / "unet.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    code, _, err = start("--weights=FOLDER/b")
    assert (code, "unet.safetensors: " in err, err.count("\n")) == (1, True, 1)
    code, _, err = start("--weights=FOLDER/b --config=FOLDER/small.py:full")
    assert (code, "which this run needs" in err, err.count("\n")) == (1, True, 1)
    assert not (folder / "out" / "a.mp4").exists()


def program(*arguments, cwd):
    """The program as a user starts it, in a folder of theirs."""
    return subprocess.Popen(
        [sys.executable, str(ROOT / "sample.py"), *arguments],
        cwd=cwd,
        env=os.environ | {"XDG_CACHE_HOME": str(cwd.parent / "cache")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_the_program_explains_itself(tmp_path):
    out, err = program("--help", cwd=tmp_path).communicate(timeout=120)
    assert "python sample.py" in out
    assert "--reference" in out
    assert not err


def test_the_program_finds_its_config_from_any_folder_and_ends_mistakes_in_one_line(tmp_path):
    run = program("--config.sample.stepz=3", cwd=tmp_path)
    out, err = run.communicate(timeout=120)
    assert run.returncode == 2
    assert err == (
        "sample.py: --config.sample.stepz: there is no such setting; "
        "did you mean --config.sample.steps?\n"
    )
    assert not out
    assert not names(tmp_path)


@pytest.mark.usefixtures("foreground")
def test_an_interrupt_ends_the_program_with_one_line_and_no_half_files(tmp_path):
    run = program(f"--output={tmp_path}/a.mp4", "--config.sample.max_frames=3", cwd=tmp_path)
    preview = tmp_path / "a.preview.png"
    deadline = time.monotonic() + 120
    while not preview.exists() and time.monotonic() < deadline and run.poll() is None:
        time.sleep(0.2)
    run.send_signal(signal.SIGINT)
    _, err = run.communicate(timeout=300)
    assert run.returncode == 130
    assert err.strip().splitlines()[-1] == "sample.py: interrupted"
    assert "Traceback" not in err
    assert names(tmp_path) == {Path("a.preview.png")}
