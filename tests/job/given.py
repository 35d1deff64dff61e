"""A small job with the demo's files, and what it may run into."""

import sample
from dispose_jax import job
from dispose_jax.inputs.sources import Sources
from tests import small

DEMO = Sources(*sample.DEMO)


def config(variant="base", **values):
    config = small.config(variant, guidance=values.pop("guidance_scale", 1.0))
    config.sample.update(
        {"resolution": 64, "max_frames": 3, "window": 4, "overlap": 2, "steps": 2, **values}
    )
    config.motion.update({"kernel": 9, "sigma": 1.5, "cmp_size": 64, "chunk": 3})
    return config


def prepared(folder, changed=None, explain=False, sources=DEMO):
    said = []
    work = job.Job(
        changed or config(), ("random",), sources, folder / "a.mp4", explain, said.append
    )
    return work, said


def names(folder):
    return {path.name for path in folder.iterdir()}


def refuse(*_, **__):
    raise OSError("broken")
