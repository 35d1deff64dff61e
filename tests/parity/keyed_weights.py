"""Deterministic weights for parity tests, derived from a manifest alone.

A manifest lists the tensors of a PyTorch state dict. Every value depends only
on (salt, key, shape), so a 6 GB checkpoint need not be stored to be
reproduced: the reference outputs under goldens/ were computed by the original
PyTorch implementations loaded with exactly these weights.

    from keyed_weights import load_manifest, state_dict
    weights = state_dict(load_manifest("manifests/cmp.full.json"), salt="public")

Manifest: {"about": str, "config": {...}, "tensors": {key: [shape, dtype]}},
with dtype a NumPy name. Values are float32 (or int64 for counters).
"""

import json
import math
import zlib
from pathlib import Path

import numpy as np


def load_manifest(path):
    return json.loads(Path(path).read_text())


def tensor(key, shape, dtype="float32", salt="public"):
    """One tensor: fan-in scaled for matrices and kernels, near identity for norms."""
    shape = tuple(shape)
    if "int" in dtype:
        return np.zeros(shape, dtype)
    rng = np.random.default_rng(zlib.crc32(f"{salt}:{key}".encode()))
    noise = rng.standard_normal(shape, dtype=np.float32)
    leaf = key.rsplit(".", 1)[-1]
    if leaf == "running_var":
        return 1 + 0.2 * np.abs(noise)
    if leaf == "running_mean":
        return 0.1 * noise
    if leaf == "mix_factor":
        return 0.7 * noise
    if leaf == "scale":  # PoseNet's learned output scale
        return 2 + 0.1 * noise
    if len(shape) >= 2:  # dense (out, in), conv (out, in, *kernel), embedding (rows, width)
        if "position_embedding" in key or "token_embedding" in key:
            return 0.5 * noise
        return noise / math.sqrt(max(1, math.prod(shape[1:])))
    if leaf == "weight":  # norm gain
        return 1 + 0.1 * noise
    return 0.05 * noise  # bias, class embedding, other vectors


def state_dict(manifest, salt="public"):
    return {
        key: tensor(key, shape, dtype, salt) for key, (shape, dtype) in manifest["tensors"].items()
    }


def write_manifest(path, about, config, torch_state_dict):
    """Record a PyTorch module's state dict (tensors may live on the meta device)."""
    tensors = {
        key: [list(value.shape), str(value.dtype).removeprefix("torch.")]
        for key, value in torch_state_dict.items()
    }
    body = {"about": about, "config": config, "tensors": tensors}
    Path(path).write_text(json.dumps(body, indent=0) + "\n")
