"""CMP with the keyed weights of a case: its sizes come from the manifest that the case names."""

from functools import cache

import jax
import jax.numpy as jnp

from converters import mapping
from dispose_jax.networks.cmp import CMP
from tests.parity.cases import Case, load_manifest, weights

_ready: dict = {}


@cache
def module(manifest: str) -> CMP:
    """The network of a manifest."""
    config = load_manifest(manifest)["config"]
    return CMP(
        layers=tuple(config["layers"]),
        image_features=config["img_enc_dim"],
        sparse_features=config["sparse_enc_dim"],
        bins=config["nbins"],
        fmax=config["fmax"],
    )


def entries(network: CMP) -> dict:
    """The derived key map, with the prefix of the released file."""
    picture = jnp.zeros((1, 64, 64, 3))
    arguments = (jax.random.key(0), picture, picture[..., :2], picture[..., 0])
    shapes = jax.eval_shape(network.init, *arguments)["params"]
    return mapping.derive(shapes, [("^", "module.")])


def network(case: Case) -> tuple[CMP, dict]:
    """(module, params) of a case; those of equal weights are made once."""
    (manifest,) = case.about["manifest"]
    identity = (manifest, case.about["salt"], str(case.config.get("weight_gain")))
    if identity not in _ready:
        tensors = weights(case)
        tensors = {k: v for k, v in tensors.items() if not k.endswith("num_batches_tracked")}
        keys = entries(module(manifest))
        mapping.accounting({e.key: e.shape for e in keys.values()}, tensors, manifest)
        _ready[identity] = jax.tree.map(jnp.asarray, mapping.to_flax(keys, tensors))
    return module(manifest), _ready[identity]
