"""The first losses of a run of real networks, on each of several meshes: one line of JSON each.

    python -m tests.training.everywhere STAGE FOLDER MESH ... [--coordinator HOST:PORT ...]

A mesh is written data,fsdp,frames; "single" is one device. As train.py does it, with a small
model; everything that can be is sharded.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import jax
import numpy as np

from configs.common import control
from dispose_jax.training import loop, metrics, multihost
from tests import small


def config(stage: str, mesh: str):
    """Three steps of two frames, eight clips, every network trained that the stage trains."""
    from configs import svd

    made = small.config("base" if stage == "base" else "full")
    made.quirks.update(svd.TEXTBOOK)
    made.control = control("base" if stage == "base" else "full")
    made.train.trainable, made.train.objective = svd.STAGES[stage]
    made.train.stage = stage
    made.bundled = ()
    made.dift.ensemble = made.dift.chunk = 1
    sizes = {"steps": 3, "batch": 8, "frames": 2, "log_every": 1, "save_every": 0, "warmup": 1}
    made.train.update({**sizes, "sample_every": 0, "validate_every": 0, "learning_rate": 1e-3})
    made.data.source = "synthetic"
    axes = (1, 1, 1) if mesh == "single" else map(int, mesh.split(","))
    made.train.mesh.update(dict(zip(("data", "fsdp", "frames"), axes)) | {"smallest": 0.0})
    return made


def losses(stage: str, folder: Path, mesh: str) -> list[tuple[float, float]]:
    """Loss and gradient norm of every step."""
    made = config(stage, mesh)
    frozen = () if stage in ("vae", "cmp") else ("random",)
    loop.train(loop.Run(made, frozen, folder, say=lambda _: None))
    lines = map(json.loads, (folder / metrics.FILE).read_text().splitlines())
    return [(line["loss"], line["gradient_norm"]) for line in lines]


def main(stage: str, folder: str, *rest: str) -> None:
    meshes = [word for word in rest if word[0].isdigit() or word == "single"]
    if "--coordinator" in rest:
        coordinator, count, index = rest[rest.index("--coordinator") + 1 :][:3]
        multihost.start(coordinator, int(count), int(index), False)
        meshes = [mesh for mesh in meshes if mesh not in (count, index)]
    everyone, device_count, make_mesh = jax.devices(), jax.device_count, jax.make_mesh
    for mesh in meshes:
        alone = mesh == "single"
        jax.device_count = (lambda: 1) if alone else device_count
        some = everyone[:1] if alone else everyone
        jax.make_mesh = lambda shape, *a, some=some, **k: make_mesh(shape, *a, devices=some, **k)
        found = losses(stage, Path(folder) / mesh, mesh)
        if multihost.is_lead():
            print(json.dumps({"mesh": mesh, "losses": np.array(found).tolist()}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
