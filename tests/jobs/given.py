"""Files of jobs, and what stands for the work of one."""

import json

import numpy as np

import sample
from dispose_jax import job, jobs, provenance
from dispose_jax.media import video

REFERENCE, REFERENCE_POSE, _, POSES = map(str, sample.DEMO)


def write(folder, *lines):
    path = folder / "jobs.jsonl"
    path.write_text("\n".join(x if isinstance(x, str) else json.dumps(x) for x in lines))
    return path


def asked(folder, name, **more):
    files = {"reference": REFERENCE, "reference_pose": REFERENCE_POSE, "poses": POSES}
    return {**files, "output": str(folder / name), **more}


WRITTEN = np.zeros((2, 64, 64, 3), np.uint8)


class Fake:
    """Stands for the work of a job: a video of its seed's shade and its record; counts them."""

    def __init__(self, monkeypatch):
        self.made, self.animators, self.die = [], [], None
        monkeypatch.setattr(job, "run", self.run)

    def run(self, work):
        if work.output.name == self.die:
            raise KeyboardInterrupt
        if "defect" in work.output.name:
            raise KeyError("defect")
        if "bad" in work.output.name:
            raise ValueError("these files do not go\ntogether")
        self.made.append(work.output.name)
        self.animators.append(work.animator)
        video.write(work.output, WRITTEN + work.config.seed % 256, 15)
        record = jobs.provenance.asked(work.config, work.sources, work.given)
        record["files"] = provenance.stamps(work.sources)
        work.path(".json").write_text(json.dumps(record))


def go(config, path, said=None):
    jobs.run(config, ("random",), jobs.read(path), say=(said if said is not None else []).append)
