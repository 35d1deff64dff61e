"""Finding a point of one picture in another."""

import jax
import numpy as np
import pytest

from dispose_jax import weights
from dispose_jax.correspondence import nearest, query
from dispose_jax.media import image
from dispose_jax.pose import files, people
from tests.pose.poses import standing

DRIVING = weights.ASSETS / "driving.poses.json"


def grid(h: int, w: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((h, w, 24)).astype(np.float32)


def test_a_point_is_found_where_the_features_were_moved_to():
    source = grid(6, 9)
    target = np.roll(source, (1, 3), (0, 1))
    match = nearest.find(source, ((2 + 0.5) / 9, (1 + 0.5) / 6), target)
    assert match.xy == pytest.approx(((5 + 0.5) / 9, (2 + 0.5) / 6))
    assert match.similarity == pytest.approx(1) and match.map.shape == (6, 9)
    with pytest.raises(ValueError, match="expected fractions"):
        nearest.find(source, (1.2, 0), target)


def test_a_point_between_cells_is_found_between_them():
    source = grid(5, 7)
    match = nearest.find(source, (3.25 / 7, 2.5 / 5), source)
    assert match.xy == pytest.approx((3.25 / 7, 2.5 / 5), abs=1e-3)


def test_the_command_finds_points_of_a_picture_in_itself_and_draws_them(tmp_path, capsys):
    reference = str(weights.ASSETS / "reference.png")
    arguments = [reference, "100,80", reference, "--weights", "random", "--output"]
    pose = ["--explain", "--reference_pose", str(weights.ASSETS / "reference.poses.json")]
    with jax.default_matmul_precision("highest"):
        assert query.main([*arguments, str(tmp_path / "sheet.png"), *pose]) == 0
    out = capsys.readouterr().out
    x, y = (float(v) for v in out.split("point: ")[1].split(" in ")[0].split(","))
    h, w = image.read(reference).shape[:2]
    assert abs(x - 100) <= w / 16 and abs(y - 80) <= h / 16  # within a cell
    assert "nose: " in out and "cosine 1.000" in out
    assert image.read(tmp_path / "sheet.png").shape[0] == 448


def test_joints_are_those_of_the_person_who_would_be_animated(tmp_path, monkeypatch, capsys):
    """Not of a passer-by who stands first in the file, of half the size."""
    monkeypatch.chdir(tmp_path)
    own = files.read(weights.ASSETS / "reference.poses.json")
    small = people.move(own.pose, (0.4, 0.4), (0.0, 0.2))
    both = jax.tree.map(lambda *leaves: np.concatenate(leaves, 1), small, own.pose)
    files.write("both.json", both, width=own.width, height=own.height)
    picture = image.read(weights.ASSETS / "reference.png")
    found = query._joints("both.json", "reference.png", picture)
    np.testing.assert_allclose(found["nose"], own.pose.body[0, 0, 0], atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({1: "left"}, "POINT left: expected X,Y"),
        ({1: "9999,3"}, "POINT 9999,3: outside of"),
        ({2: "absent.png"}, "absent.png: no such picture"),
        ({4: "sheet.jpg"}, "expected .png"),
        ({5: "--explain"}, "give --reference_pose FILE"),
        (
            {5: f"--explain --reference_pose {DRIVING}"},
            "frames, expected one: the keypoints",
        ),
        ({5: "--explain --reference_pose wide.json"}, "on a canvas of 900 x 300, but"),
    ],
)
def test_a_mistake_is_one_line(tmp_path, monkeypatch, capsys, change, message):
    monkeypatch.chdir(tmp_path)
    files.write("wide.json", standing(1), width=900, height=300)
    reference = str(weights.ASSETS / "reference.png")
    arguments = [reference, "10,10", reference, "--output", str(tmp_path / "sheet.png")]
    for place, text in change.items():
        arguments[place : place + 1] = text.split()
    assert query.main(arguments) == 1
    assert message in capsys.readouterr().err
