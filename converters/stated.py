"""What the config.json beside a released network says of it that no tensor shows (host code).

Heads, activations, groups and epsilons of norms change what a network computes, and the scale of an
autoencoder's latents what is diffused, but neither names nor shapes of its tensors: with another
number of heads a file would fit and give wrong results.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from converters.mapping import ConversionError
from converters.releases import Release
from dispose_jax.models import sharing
from dispose_jax.models.network import Network
from dispose_jax.networks.clip import TextTransformer, VisionTransformer
from dispose_jax.networks.unet import UNet
from dispose_jax.networks.vae import VAE

FILE = "config.json"  # of diffusers and transformers, one in the folder of each network


def check(row: Release, path: Path, networks: Mapping[str, Network], model: Mapping) -> None:
    """Raise ConversionError if the FILE beside a release says otherwise than its networks are.

    path: of the release's file; model: `config.model`, which the networks are built from. Without
    such a file, or an entry in it, these are believed. Raises ValueError if it cannot be read.
    """
    beside = path.with_name(FILE)
    if not row.has_config or not beside.is_file():
        return
    found = _read(beside)
    for name in row.networks:
        for key, expected in told(name, networks[name].module, model).items():
            stated = found.get(key)
            if stated is not None and not _same(stated, expected):
                raise ConversionError(
                    f"{beside}: {key} is {stated}, expected {expected} for the network {name}; "
                    "these weights are of another model than --config names"
                )


def told(name: str, module, model: Mapping) -> dict[str, Any]:
    """What such a file says of a network's module, by its names; a tuple has an entry for each
    level. model: `config.model`."""
    match module:
        case UNet() if module.flavour.temporal == "mixed":
            return {"num_attention_heads": module.heads}
        case UNet():  # a head count in spite of its name
            groups = module.flavour.groups
            return {
                "attention_head_dim": module.heads,
                "norm_num_groups": groups,
                "norm_eps": 1e-5,
                "act_fn": "silu",
            }
        case VAE():
            scale = model[sharing.SECTIONS[name]]["scale"]  # SDXL's differs, and fits by its shapes
            return {"norm_num_groups": module.groups, "act_fn": "silu", "scaling_factor": scale}
        case VisionTransformer() | TextTransformer():
            return {
                "num_attention_heads": module.heads,
                "hidden_act": module.activation,
                "layer_norm_eps": 1e-5,
            }
    raise TypeError(f"nothing is known of the config.json of a {type(module).__name__}")


def _same(stated: Any, expected: Any) -> bool:
    """Whether a value of JSON means the expected one; one number may stand for all levels."""
    if isinstance(expected, tuple):
        each = stated if isinstance(stated, list) else [stated] * len(expected)
        return each == list(expected)
    return stated == expected


def _read(path: Path) -> dict[str, Any]:
    """The entries of a JSON file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path}: cannot be read as JSON ({error}); get it again") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: a list or a value, expected entries by name; get it again")
    return content
