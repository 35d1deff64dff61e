"""What make says and does before anything is installed."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# `make test` is around these tests, and hands what it was given on to any make below.
ALONE = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")}
OLD = "#!/bin/sh\ncase $1 in --version) echo Python 3.9.18;; *) exit 1;; esac\n"


@pytest.fixture
def demo(tmp_path):
    """demo(PYTHON) -> exit code, standard error of `make demo` in a folder without .venv."""
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)

    def run(python):
        command = ["make", "demo", f"PYTHON={python}"]
        ran = subprocess.run(command, cwd=tmp_path, env=ALONE, capture_output=True, text=True)
        assert not (tmp_path / ".venv").exists()
        return ran.returncode, ran.stderr

    return run


@pytest.mark.parametrize("python", ["no_such_python", "old"])
def test_a_python_that_cannot_be_used_is_named_in_one_sentence(demo, tmp_path, python):
    if python == "old":
        (tmp_path / "old").write_text(OLD)
        (tmp_path / "old").chmod(0o755)
        python, found = str(tmp_path / "old"), "(Python 3.9.18)"
    else:
        found = "command not found)"
    code, err = demo(python)
    sentence = err.splitlines()[0]
    assert code != 0
    assert sentence.startswith(f"make: PYTHON={python} is no Python 3.11 or newer (")
    assert sentence.endswith(f"{found}; name one: make PYTHON=/path/to/python3")


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize(
    ("given", "video"),
    [
        ([], "output/demo_svd.mp4"),
        (["BASE=sd15", "EXAMPLE=second"], "output/second_sd15.mp4"),
        (["BASE=", "EXAMPLE="], "output/demo_svd.mp4"),
    ],
)
def test_a_demo_of_an_empty_name_is_the_usual_one(given, video):
    command = ["make", "--dry-run", "demo", *given]
    environment = {**ALONE, "BASE": "other", "EXAMPLE": "other"}  # not meant for this
    ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert ran.stdout.rstrip().endswith(f"--output {video}")
