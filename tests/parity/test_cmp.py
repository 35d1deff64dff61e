"""CMP against the original network, every stage."""

import jax
import numpy as np
import pytest

from dispose_jax.networks.cmp import CMP, expected_flow
from tests.parity.cases import Case, assert_close, load_case, load_manifest
from tests.parity.cmp_network import entries, module, network

CASES = ["cmp_tiny", "cmp_full_small", "cmp_full_384"]


def _guidance(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Vectors (b, h, w, 2) and mask (b, h, w) of the case's points."""
    points, vectors = case.inputs["points"], case.inputs["vectors"]
    shape = (len(points), case.config["height"], case.config["width"])
    sparse, mask = np.zeros((*shape, 2), np.float32), np.zeros(shape, bool)
    for b, (rows, columns) in enumerate(points.transpose(0, 2, 1)):
        sparse[b, rows, columns] = vectors[b]
        mask[b, rows, columns] = True
    return sparse, mask


@pytest.mark.parametrize("name", CASES)
def test_every_stage_of_cmp_equals_the_original(name):
    case = load_case(name)
    model, params = network(case)
    image = case.inputs["image_u8"].transpose(0, 2, 3, 1).astype(np.float32) / 255
    image = image * 2 - 1
    sparse, mask = _guidance(case)

    @jax.jit  # one program compiles sooner than a hundred operations
    def run(params, image, sparse, mask):
        inside = {"capture_intermediates": True, "mutable": ["intermediates"]}
        features, encoder = model.apply(params, image, method=CMP.encode_image, **inside)
        flow, decoder = model.apply(params, features, sparse, mask, method=CMP.complete, **inside)
        return features, flow, encoder["intermediates"], decoder["intermediates"]

    features, flow, encoder, decoder = run({"params": params}, image, sparse, mask)
    encoder = encoder["image_encoder"]
    logits = decoder["flow_decoder"]["__call__"][0]
    last = lambda stage: encoder[f"layer{stage}_{model.layers[stage - 1] - 1}"]["__call__"][0]
    ours = {
        "layer1": last(1),
        "layer3": last(3),
        "image_enc": features.deep,
        "sparse_enc": decoder["flow_encoder"]["__call__"][0],
        "logits": logits,
        "flow_half": expected_flow(logits, model.fmax),
        "flow": flow,
    }
    ours |= {f"fusion{n}": decoder["flow_decoder"][f"fusion{n}"]["__call__"][0] for n in (8, 4, 2)}
    for output in case.outputs:
        stride = case.about["stats"][output]["stride"]
        value = np.asarray(ours[output]).transpose(0, 3, 1, 2)[..., ::stride, ::stride]
        assert_close(case, output, value, case.about["tolerance"][output], relative=False)


@pytest.mark.parametrize("manifest", ["cmp.tiny", "cmp.full"])
def test_derived_keys_and_shapes_of_cmp_equal_the_manifest(manifest):
    derived = {e.key: list(e.shape) for e in entries(module(manifest)).values()}
    counters = "num_batches_tracked"
    tensors = load_manifest(manifest)["tensors"]
    expected = {k: shape for k, (shape, _) in tensors.items() if not k.endswith(counters)}
    assert derived == expected
