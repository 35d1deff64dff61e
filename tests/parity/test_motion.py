"""Motion fields and flow colours against the original code."""

import numpy as np
import pytest

from dispose_jax.motion import color, field, tracks
from dispose_jax.ops import resize
from dispose_jax.types import Pose
from tests.parity.cases import Case, assert_close, load_case, record
from tests.parity.cmp_network import network

CASES = ["motion_small", "motion_square384", "motion_full"]
SIDE = 384  # of CMP's picture, in the names of these cases' outputs


def _pose(case: Case) -> Pose:
    candidate, subset = case.inputs["candidate"][:, None], case.inputs["subset"][:, None]
    f = len(candidate)
    return Pose(
        body=candidate,
        body_score=np.where(subset == -1, 0.0, 1.0),
        hands=np.zeros((f, 1, 2, 21, 2)),
        hands_score=np.zeros((f, 1, 2, 21)),
        face=np.zeros((f, 1, 68, 2)),
        face_score=np.zeros((f, 1, 68)),
    )


def _size(case: Case) -> tuple[int, int]:
    return case.config["height"], case.config["width"]


def _image(case: Case) -> np.ndarray:
    """The reference (h, w, 3) float32 in 0..1."""
    return case.inputs["image_u8"][0].transpose(1, 2, 0).astype(np.float32) / 255


def _stored(ours, reference: np.ndarray) -> np.ndarray:
    """ours (n, h, w, c) as the golden stores it: channels first, every so many rows and columns."""
    ours = np.asarray(ours).transpose(0, 3, 1, 2)
    rows, columns = (-(-ours.shape[i] // reference.shape[i]) for i in (-2, -1))
    return ours[..., ::rows, ::columns]


def _cells(impulses: tracks.Impulses, keep: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(step, row, column) in row-major order and the vectors there; step 0 is frame 1."""
    frame, joint = np.nonzero(impulses.valid & keep)
    index = np.stack([frame - 1, *impulses.pixels[frame, joint].T[::-1]], -1)
    order = np.lexsort(index.T[::-1])
    return index[order], impulses.vectors[frame, joint][order]


def _assert_same_cells(case: Case, name: str, impulses: tracks.Impulses, keep: np.ndarray):
    index, value = _cells(impulses, keep)
    tolerance = case.about["tolerance"]
    assert_close(case, f"{name}_index", index, tolerance[f"{name}_index"], relative=False)
    assert_close(case, f"{name}_value", value, tolerance[f"{name}_value"], relative=False)


@pytest.mark.parametrize("name", CASES)
def test_trajectories_and_steps_equal_the_original(name):
    case = load_case(name)
    pose, size = _pose(case), _size(case)
    points = tracks.positions(pose, size).transpose(1, 0, 2)
    tolerance = case.about["tolerance"]["track_points"]
    assert_close(case, "track_points", points, tolerance, relative=False)
    impulses = tracks.steps(pose, size, "released")
    _assert_same_cells(case, "drag", impulses, (impulses.vectors != 0).any(-1))
    impulses = tracks.from_reference(pose, size, SIDE, "released")
    _assert_same_cells(case, "pd", impulses, np.True_)


@pytest.mark.parametrize("name", CASES)
def test_sparse_field_equals_the_filtered_original(name):
    case = load_case(name)
    size = _size(case)
    kernel = case.about["stats"]["kernel"]
    impulses = tracks.steps(_pose(case), size, "released")
    ours = field.sparse(impulses, size, kernel=kernel["size"], sigma=kernel["sigma"])
    assert ours.shape == (case.config["frames"], *size, 2) and not ours[0].any()
    stride = case.about["stats"]["field"]["stride"]
    tolerance = case.about["tolerance"]["field"]
    assert_close(case, "field", ours[1:, ::stride, ::stride], tolerance, relative=False)


@pytest.mark.parametrize("name", CASES)
def test_picture_for_cmp_equals_the_original(name):
    case = load_case(name)
    ours = _stored(resize.nearest(_image(case), (SIDE, SIDE))[None], case.outputs["image_384"])
    assert_close(case, "image_384", ours, case.about["tolerance"]["image_384"], relative=False)


def test_dense_field_equals_the_original():
    case = load_case("motion_full")
    model, params = network(case)
    size = _size(case)
    impulses = tracks.from_reference(_pose(case), size, SIDE, "released")
    reference = _image(case) * 2 - 1
    ours = field.dense(model, params, reference, impulses, SIDE, chunk=1)
    assert not ours[0].any()
    tolerance = case.about["tolerance"]
    flow = _stored(ours[1:], case.outputs["flow"][0])[None]
    assert_close(case, "flow", flow, tolerance["flow"], relative=False)
    # A picture of CMP's own size is neither resized nor scaled.
    square = resize.nearest(reference, (SIDE, SIDE))
    ours = field.dense(model, params, square, impulses, SIDE)
    flow = _stored(ours[1:], case.outputs["flow_384"][0])[None]
    assert_close(case, "flow_384", flow, tolerance["flow_384"], relative=False)


def test_flow_colours_equal_the_original():
    case = load_case("flow_vis")
    assert_close(case, "wheel", color.wheel(), case.about["tolerance"]["wheel"], relative=False)
    for output, picture in case.outputs.items():
        if output == "wheel":
            continue
        name, floor = output.split("_floor")
        ours = color.picture(case.inputs[name], least=float(floor))
        assert ours.dtype == np.uint8 and ours.shape == picture.shape
        difference = np.abs(ours.astype(int) - picture).max()
        record(case.name, output, difference, 1)  # "at most 1 grey level"
