"""The bundled reference and dance: whole, self-consistent, and what their script makes."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from assets import make_demo
from assets.make_demo import EXAMPLES
from configs import sd15, svd
from dispose_jax.media import image
from dispose_jax.models import bundle, networks
from dispose_jax.pose import files, retarget
from dispose_jax.pose.retarget import mimicmotion

ASSETS = Path(__file__).parents[1] / "assets"


@pytest.fixture(scope="module", params=EXAMPLES)
def folder(request):
    return ASSETS / request.param


@pytest.fixture(scope="module")
def reference(folder):
    return files.read(folder / "reference.poses.json")


@pytest.fixture(scope="module")
def dance(folder):
    return files.read(folder / "driving.poses.json")


@pytest.fixture(scope="module")
def fitted(reference, dance):
    sizes = {
        "video_size": (dance.width, dance.height),
        "target_size": (reference.width, reference.height),
    }
    found = retarget.to_reference("mimicmotion", reference.pose, dance.pose, **sizes)
    return found.fit, found.pose


def test_the_reference_is_a_picture_of_its_poses_canvas(folder, reference):
    picture = image.read(folder / "reference.png")
    assert picture.shape == (reference.height, reference.width, 3)
    sample = svd.get_config("size=small").sample  # whole in the small model's picture
    assert picture.shape[0] * sample.width == picture.shape[1] * sample.height


def test_joints_lie_on_the_figure_not_on_the_wall():
    reference = files.read(ASSETS / "reference.poses.json")
    picture = image.read(ASSETS / "reference.png").astype(int)
    green_trousers, skin = (194, 236, 132), (197, 151, 126)
    size = np.array([reference.width, reference.height])
    for joints, color in (((9, 10, 12, 13), green_trousers), ((0, 3, 4, 6, 7), skin)):
        for joint in joints:
            column, row = (reference.pose.body[0, 0, joint] * size).astype(int)
            patch = picture[row - 2 : row + 3, column - 2 : column + 3].reshape(-1, 3).mean(0)
            # Shading changes the brightness, hardly the hue; the wall is grey, a third of each.
            ratio = patch / patch.sum() - np.array(color) / sum(color)
            assert np.abs(ratio).max() < 0.03, (joint, patch)


def test_the_dance_fits_the_reference_without_a_warning(fitted):
    fit, _ = fitted
    assert mimicmotion.warnings(fit) == []
    assert fit.missing == () and fit.residual < 0.15


def test_the_dance_stays_in_the_picture(fitted):
    _, pose = fitted
    assert pose.body.min() > 0 and pose.body.max() < 1


def test_the_dance_is_lively_and_its_steps_are_smooth(fitted):
    _, pose = fitted
    wrists = pose.body[1:, 0, [4, 7]] * (512, 512)
    ankles = pose.body[1:, 0, [10, 13]] * (512, 512)
    assert np.ptp(wrists, axis=0)[:, 1].min() > 60
    assert np.ptp(ankles, axis=0)[:, 1].min() > 20
    loop = np.concatenate([wrists, wrists[:1]])  # the last frame leads to the first
    assert np.linalg.norm(np.diff(loop, axis=0), axis=-1).max() < 20


def test_the_dancer_has_other_proportions_than_the_reference(reference, dance):
    def arms_to_torso(file):
        body = file.pose.body[0, 0] * (file.width, file.height)
        arm = np.linalg.norm(body[3] - body[2]) + np.linalg.norm(body[4] - body[3])
        return arm / np.linalg.norm(body[1] - body[[8, 11]].mean(0))

    assert abs(arms_to_torso(dance) / arms_to_torso(reference) - 1) > 0.03


@pytest.mark.full
def test_the_script_makes_the_bundled_files_again(tmp_path):
    command = [sys.executable, "-m", "assets.make_demo", tmp_path]
    subprocess.run(command, check=True, cwd=ASSETS.parent)
    for folder in EXAMPLES:
        made, kept = tmp_path / folder, ASSETS / folder
        for name in ("reference.poses.json", "driving.poses.json"):
            assert json.loads((made / name).read_text()) == json.loads((kept / name).read_text())
        again, bundled = image.read(made / "reference.png"), image.read(kept / "reference.png")
        # Drawing libraries differ in the last level from version to version.
        assert np.abs(again.astype(int) - bundled).mean() < 1


def test_the_script_explains_itself_before_it_writes(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="0"):
        make_demo.main(["--help"])
    assert "FOLDER" in capsys.readouterr().out and not list(tmp_path.iterdir())


def test_an_example_is_small(folder):
    bundled = ("reference.png", "reference.poses.json", "driving.poses.json")
    assert sum((folder / name).stat().st_size for name in bundled) < 150_000


@pytest.mark.parametrize(("base", "limit"), [(svd, 40e6), (sd15, 25e6)])
def test_a_bundled_model_is_whole_and_small(base, limit):
    config = base.get_config("size=small")
    folders = [ASSETS / name for name in config.bundled]
    belongs = {"model": config.model, "quirks": config.quirks}
    built = networks.build(config)
    shapes = {name: network.shapes for name, network in built.items()}
    params = bundle.load(folders, shapes, **belongs, verify=True)
    assert params.keys() == built.keys()
    assert sum(file.stat().st_size for file in folders[-1].iterdir()) < limit
