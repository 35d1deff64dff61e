"""RAFT against torchvision and against its authors' code: encoders, lookup, every stored update."""

import re
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from converters import checkpoints, releases
from dispose_jax.networks.raft import RAFT, RecurrentState, lookup, pyramid
from tests.converters import built
from tests.parity.cases import Case, assert_close, load_case, record, weights

CASES = ["raft_large", "eval.raft"]


@cache
def network(name: str) -> tuple[Case, RAFT, dict]:
    """A case, its module, and its weights through the converters."""
    case = load_case(name)
    shapes = built.shapes_of("raft_large.full")
    params, _ = checkpoints.to_flax(releases.release("raft"), weights(case), shapes, name)
    return case, RAFT(), {"params": jax.tree.map(jnp.asarray, params["raft"])}


def pictures(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """The pair as RAFT wants it: (b, h, w, 3) float32 in -1..1, sides multiples of 8."""
    first, second = case.inputs["image1"], case.inputs["image2"]
    if first.dtype != np.uint8:
        return first.transpose(0, 2, 3, 1), second.transpose(0, 2, 3, 1)
    missing = [-side % 8 for side in first.shape[:2]]
    sides = [(n // 2, n - n // 2) for n in missing] + [(0, 0)]
    padded = lambda picture: np.pad(picture, sides, mode="edge")[None] / np.float32(127.5) - 1
    return padded(first), padded(second)


def updates_of(output: str) -> int:
    """The number of updates after which an output was stored; 0 for what is no flow."""
    found = re.fullmatch(r"flow_(?:iter|low_|up_)(\d+)", output)
    return int(found[1]) if found else 0


@cache
def states(name: str) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """{n: flow after n updates in cells, and in pixels} for all n that the case stores."""
    case, model, params = network(name)
    first, second = pictures(case)
    run = lambda method: jax.jit(lambda *inputs: model.apply(params, *inputs, method=method))
    reference = run(RAFT.encode_reference)(first)
    levels = run(RAFT.correlate)(reference, second)
    update, upsample = run(RAFT.update), run(RAFT.upsample)
    state = RecurrentState(reference.hidden, jnp.zeros((*reference.hidden.shape[:3], 2)))
    stored, found = {updates_of(output) for output in case.outputs} - {0}, {}
    for n in range(1, max(stored) + 1):
        state = update(state, reference.context, levels)
        if n in stored:
            found[n] = np.asarray(state.flow), np.asarray(upsample(state))
    return found


def compare(case: Case, output: str, ours, tolerance: float) -> None:
    """ours (b, h, w, c) with an output that holds all values, every so many, or 400 of them."""
    ours, reference = np.asarray(ours).transpose(0, 3, 1, 2), case.outputs[output]
    if reference.ndim == 1:
        flat = ours.ravel()
        few = flat[:: flat.size // len(reference)][: len(reference)]
        assert_close(case, output, few, tolerance)
        total = np.array([flat.mean(), flat.std(), np.abs(flat).max()])
        assert_close(case, f"{output}_stats", total, tolerance * flat.std(), relative=False)
        return
    strides = [-(-size // kept) for size, kept in zip(ours.shape, reference.shape)]
    assert_close(case, output, ours[tuple(slice(None, None, s) for s in strides)], tolerance)


def tolerance_of(case: Case, updates: int) -> float:
    """In units of the output's deviation."""
    if isinstance(case.about["tolerance"], dict):
        return case.about["tolerance"]["value"]
    # "fmap1/cnet 1e-4 of std; flow_low_1 1e-4, flow_low_4 5e-4, flow_low_20 2e-3 of std"
    return 1e-4 if updates <= 1 else 5e-4 if updates <= 4 else 2e-3


@pytest.mark.parametrize("name", CASES)
def test_both_encoders_equal_the_original(name):
    case, model, params = network(name)
    encode = lambda net, image: (net.feature_encoder(image), net.context_encoder(image))
    features, context = model.apply(params, pictures(case)[0], method=encode)
    tolerance = tolerance_of(case, 0)
    compare(case, "fmap1", features, tolerance)
    compare(case, "context" if "context" in case.outputs else "cnet", context, tolerance)


@pytest.mark.parametrize("name", CASES)
def test_the_flow_after_every_stored_update_equals_the_original(name):
    case = network(name)[0]
    for output in case.outputs:
        if n := updates_of(output):
            cells, pixels = states(name)[n]
            compare(case, output, cells if "_low_" in output else pixels, tolerance_of(case, n))


def test_the_lookup_equals_the_original_channel_by_channel():
    case, model, params = network("raft_large")
    encode = lambda net, image: net.feature_encoder(image)
    features = [model.apply(params, image, method=encode) for image in pictures(case)]
    found = lookup(pyramid(*features), case.inputs["lookup_coords"].transpose(0, 2, 3, 1))
    compare(case, "corr_features", found, tolerance_of(case, 0))


@pytest.mark.full
def test_all_updates_in_one_program_give_the_last_flow():
    case, model, params = network("raft_large")
    last = max(updates_of(output) for output in case.outputs)
    assert last == case.config["iterations"]
    run = jax.jit(lambda params, *pair: model.apply(params, *pair, last))
    compare(case, f"flow_iter{last}", run(params, *pictures(case)), tolerance_of(case, last))


def test_the_largest_motions_have_the_original_size():
    case = network("eval.raft")[0]
    flow = states("eval.raft")[max(states("eval.raft"))][1]
    length = np.sort(np.linalg.norm(flow, axis=-1).ravel())[::-1]
    ours, reference = length[: int(0.05 * length.size)].mean(), case.outputs["top5_radius"][0]
    record(case.name, "top5_radius", abs(ours / reference - 1), 2e-3)
