"""Reading of parity cases: reference outputs of the original PyTorch implementations, and their
keyed weights.

A case is `<name>.json` (what was run, tolerance) and `<name>.safetensors` (`in.*`, `out.*` in the
original layout). The directory is `DISPOSE_GOLDENS` if set, else this folder's `goldens`; manifests
are looked for in `../manifests` of that directory first, then here. Weights are made from the
manifest's keys (`keyed_weights.py`).
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cache, partial
from pathlib import Path

import jax
import numpy as np
from safetensors.numpy import load_file

from converters import mapping
from dispose_jax.types import Pose
from tests.parity import keyed_weights

HERE = Path(__file__).parent
GOLDENS = Path(os.environ.get("DISPOSE_GOLDENS", HERE / "goldens"))


@dataclass(frozen=True)
class Case:
    """One golden: `about` is the JSON, `inputs` and `outputs` are the tensors without their
    in./out. prefix."""

    name: str
    about: dict
    inputs: dict[str, np.ndarray] = field(repr=False)
    outputs: dict[str, np.ndarray] = field(repr=False)

    @property
    def config(self) -> dict:
        return self.about.get("config", {})


def load_case(name: str) -> Case:
    """Read a case by name; one without tensors has only its JSON."""
    about = json.loads((GOLDENS / f"{name}.json").read_text())
    file = GOLDENS / f"{name}.safetensors"
    tensors = load_file(file) if file.exists() else {}
    inputs = {k.removeprefix("in."): v for k, v in tensors.items() if k.startswith("in.")}
    outputs = {k.removeprefix("out."): v for k, v in tensors.items() if k.startswith("out.")}
    return Case(name, about, inputs, outputs)


def load_manifest(name: str) -> dict:
    """A manifest beside the goldens in use, else the repository's copy."""
    for folder in (GOLDENS.parent / "manifests", HERE / "manifests"):
        if (folder / f"{name}.json").exists():
            return keyed_weights.load_manifest(folder / f"{name}.json")
    raise FileNotFoundError(f"no manifest {name}.json beside {GOLDENS} or in {HERE / 'manifests'}")


@cache
def _state_dict(manifest: str, salt: str, prefix: str) -> dict[str, np.ndarray]:
    tensors = load_manifest(manifest)["tensors"]
    return {
        key: keyed_weights.tensor(key, shape, dtype, salt)
        for key, (shape, dtype) in tensors.items()
        if key.startswith(prefix)
    }


def weights(
    case: Case, manifest: str | None = None, prefix: str | None = None
) -> dict[str, np.ndarray]:
    """The PyTorch-named weights of a case (of its first manifest unless named), with its gains and
    overrides.

    prefix: only keys that start so, kept whole; defaults to the case's own `prefix`.
    """
    names = case.about["manifest"]
    manifest = manifest or (names if isinstance(names, str) else names[0])
    prefix = case.about.get("prefix", "") if prefix is None else prefix
    tensors = dict(_state_dict(manifest, case.about.get("salt", "public"), prefix))
    config = case.config
    gains = config.get("weight_gain", [])
    for gain in [gains] if isinstance(gains, dict) else gains:
        if gain.get("manifest", manifest) == manifest:
            for key in tensors:
                if fnmatchcase(key, gain["keys"]):  # a shell pattern
                    tensors[key] = tensors[key] * np.float32(gain["factor"])
    if "weight_scale" in config:
        for key, value in tensors.items():
            if value.ndim >= 2 or key.endswith(".bias"):
                tensors[key] = value * np.float32(config["weight_scale"])
    for key, value in config.get("overrides", {}).get(manifest, {}).items():
        if key in tensors:
            tensors[key] = np.full_like(tensors[key], value)
    return tensors


_MEASURED: list[tuple[str, str, float, float]] = []


def record(case: str, output: str, difference: float, tolerance: float) -> None:
    """Keep a measured difference for the table that `DISPOSE_PARITY_TABLE=file` asks for, then
    check it."""
    _MEASURED.append((case, output, float(difference), float(tolerance)))
    if path := os.environ.get("DISPOSE_PARITY_TABLE"):
        with open(path, "a") as table:
            table.write(f"{case}\t{output}\t{difference:.3e}\t{tolerance:.3e}\n")
    assert difference <= tolerance, (
        f"{case} {output}: difference {difference:.3e} > {tolerance:.3e}"
    )


def assert_close(case: Case, output: str, ours, tolerance: float, *, reference=None, relative=True):
    """max|ours - reference|, divided by the reference's standard deviation unless not relative, is
    in tolerance.

    ours is in the layout of the golden; reference defaults to the case's output of that name.
    """
    reference = case.outputs[output] if reference is None else reference
    ours = np.asarray(ours, np.float64)
    assert ours.shape == reference.shape, f"{case.name} {output}: {ours.shape} != {reference.shape}"
    assert np.isfinite(ours).all(), f"{case.name} {output}: not finite"
    difference = np.abs(ours - reference.astype(np.float64)).max()
    record(case.name, output, difference / (reference.std() if relative else 1.0), tolerance)


def requantised(picture: np.ndarray, dtype: np.typing.DTypeLike = np.float16) -> np.ndarray:
    """What reaches CLIP and the autoencoder in the released code: levels to -1..1 in dtype and
    back, truncated.

    uint8 -> uint8. 20 of 256 levels drop by one in float16 (the release), 63 in float32. Ours does
    not do this; cases that compare bit by bit need it.
    """
    scale = np.asarray(127.5, dtype)
    table = ((np.arange(256).astype(dtype) / scale - 1 + 1) * scale).astype(np.uint8)
    return table[picture]


def body_pose(candidate: np.ndarray, subset: np.ndarray) -> Pose:
    """Body keypoints of one person as cases give them: (f, 18, 2), (f, 18) with -1 for missing."""
    f = len(candidate)
    return Pose(
        body=candidate[:, None],
        body_score=np.where(subset == -1, 0.0, 1.0)[:, None],
        hands=np.zeros((f, 1, 2, 21, 2)),
        hands_score=np.zeros((f, 1, 2, 21)),
        face=np.zeros((f, 1, 68, 2)),
        face_score=np.zeros((f, 1, 68)),
    )


def convert(tensors, spelling, module, *inputs, prefix: str = "", **named) -> dict:
    """PyTorch-named weights -> parameters of a module, through the converters and strictly.

    spelling: converters.rules.Spelling; inputs and named: a call of the module that makes all its
    parameters (`method=` too); prefix: that of the module's keys, others are left alone.
    """
    shapes = jax.eval_shape(partial(module.init, **named), jax.random.key(0), *inputs)["params"]
    entries = mapping.derive(shapes, *spelling)
    own = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    mapping.accounting({e.key: e.shape for e in entries.values()}, own, type(module).__name__)
    return mapping.to_flax(entries, own)
