"""What an installed wheel holds and can do, and that importing the package alone costs nothing."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = ("dispose_jax", "configs", "converters")
FILES = ("pyproject.toml", "README.md", "LICENSE", "MANIFEST.in")
SDIST = "from setuptools import build_meta; build_meta.build_sdist('dist')"
WHEEL = "from setuptools import build_meta; build_meta.build_wheel('dist')"
HEAVY = ("jax", "cv2", "av", "PIL", "scipy", "grain", "optax", "orbax", "transformers")


def python(*arguments, folder, **environment):
    """What a program prints on stdout, run in a folder with these changes of the environment."""
    ran = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    return ran.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel of the archive of the sources, built without touching them or the network."""
    folder = tmp_path_factory.mktemp("sources")
    ignored = shutil.ignore_patterns("__pycache__")
    for path in [*ROOT.glob("*.py"), *(ROOT / name for name in (*SOURCES, *FILES))]:
        if path.is_dir():
            shutil.copytree(path, folder / path.name, ignore=ignored)
        else:
            shutil.copy(path, folder)
    python("-c", SDIST, folder=folder)
    (archive,) = (folder / "dist").glob("*.tar.gz")
    unpacked = folder / "unpacked"
    with tarfile.open(archive) as content:
        content.extractall(unpacked, filter="data")
    (source,) = unpacked.iterdir()
    python("-c", WHEEL, folder=source)
    (built,) = (source / "dist").glob("*.whl")
    return zipfile.ZipFile(built)


def test_a_wheel_puts_nothing_but_the_package_at_the_top(wheel):
    names = wheel.namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"dispose_jax"}
    files = {"py.typed", "configs/svd.py", "page/page.css"}
    assert {f"dispose_jax/{name}" for name in files} <= set(names)
    for folder in SOURCES:
        for path in (ROOT / folder).rglob("*.py"):
            place = path.relative_to(ROOT).as_posix()
            assert (place if folder == "dispose_jax" else f"dispose_jax/{place}") in names


def test_a_wheel_calls_every_command_by_the_name_it_has_there(wheel):
    sources = [name for name in wheel.namelist() if name.endswith(".py")]
    texts = {name: wheel.read(name).decode() for name in sources}
    old = r"python -m (converters\.|\W*$)|(?<!dispose_jax\.)converters\.\w+ --|python \w+\.py --"
    assert not [name for name, text in texts.items() if re.search(old, text, re.MULTILINE)]


def test_the_metadata_says_where_the_method_comes_from(wheel):
    (name,) = (name for name in wheel.namelist() if name.endswith("METADATA"))
    metadata = wheel.read(name).decode()
    for line in (
        "Project-URL: Paper, https://arxiv.org/abs/2412.09349",
        "Classifier: Typing :: Typed",
        "License-Expression: Apache-2.0",
    ):
        assert line in metadata.splitlines()


def test_an_installed_package_finds_its_configs_and_has_the_commands(wheel, tmp_path):
    site, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    wheel.extractall(site)
    elsewhere.mkdir()
    run = lambda *arguments: python(*arguments, folder=elsewhere, PYTHONPATH=str(site))
    load = "from dispose_jax import settings; print(settings.load('configs/sd15.py').name)"
    assert run("-c", load).strip() == "configs/sd15.py"
    said = run("-m", "dispose_jax.converters.download", "--to", "weights")
    assert "stable-diffusion-v1-5" in said
    for command in ("sample", "train", "evaluate"):
        text = (site / "dispose_jax" / f"{command}.py").read_text()
        assert f"python -m dispose_jax.{command} " in text
    assert "python -m dispose_jax.evaluate " in run("-m", "dispose_jax.evaluate", "--help")


def test_an_installed_package_says_that_it_has_no_bundled_figure_and_no_bundled_weights(
    wheel, tmp_path
):
    wheel.extractall(tmp_path / "site")
    for arguments, message in (
        ((), "give --reference, and --driving, --poses or both; the bundled figure is in the"),
        (("--reference", "me.png"), "svd.py:size=small needs --weights here: its bundled weights"),
    ):
        ran = subprocess.run(
            [sys.executable, "-m", "dispose_jax.sample", *arguments],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(tmp_path / "site")},
            capture_output=True,
            text=True,
        )
        assert (ran.returncode, ran.stdout, ran.stderr.count("\n")) == (1, "", 1)
        assert message in ran.stderr
    assert not (tmp_path / "output").exists()


def test_configs_are_found_from_any_folder_where_the_checkout_is_not_on_the_path(tmp_path):
    shutil.copytree(ROOT / "dispose_jax", tmp_path / "checkout" / "dispose_jax")
    shutil.copytree(ROOT / "configs", tmp_path / "checkout" / "configs")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path / 'checkout')!r})\n"
        "from dispose_jax import settings; sys.path.pop(0)\n"
        "print(settings.load('configs/svd.py').name)"
    )
    assert python("-c", code, folder=tmp_path).strip() == "configs/svd.py"


def test_the_package_offers_what_it_has_before_it_is_imported():
    code = "import dispose_jax, sys; print('Animator' in dir(dispose_jax), 'jax' in sys.modules)"
    assert python("-c", code, folder=ROOT).split() == ["True", "False"]


def test_importing_the_package_imports_nothing_heavy_and_touches_no_device():
    code = f"import sys, dispose_jax; print([name for name in {HEAVY} if name in sys.modules])"
    assert python("-c", code, folder=ROOT).strip() == "[]"
    # No such platform: whatever asks for a device fails.
    python("-c", "from dispose_jax import Animator", folder=ROOT, JAX_PLATFORMS="none_such")
