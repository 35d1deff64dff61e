"""Animate a reference picture with the motion of a driving video.

python sample.py                                     # the bundled figure, small model
python sample.py --config configs/svd.py --weights DIR --reference ref.png --driving dance.mp4
python sample.py --config configs/svd.py --weights DIR --jobs jobs.jsonl --shard 0/2
"""

from pathlib import Path

from absl import flags

from dispose_jax import cli, job, jobs, weights
from dispose_jax.inputs.sources import Sources

DEMO = (
    weights.ASSETS / "reference.png",
    weights.ASSETS / "reference.poses.json",
    None,
    weights.ASSETS / "driving.poses.json",
)

flags.DEFINE_string("config", "configs/svd.py:size=small", "Configuration file and its argument.")
WEIGHTS = flags.DEFINE_list(
    "weights", None, "Bundle folders; a later one overrides an earlier one. Or 'random'."
)
REFERENCE = flags.DEFINE_string("reference", None, "Picture of the person to animate.")
REFERENCE_POSE = flags.DEFINE_string("reference_pose", None, "Pose file of the reference.")
DRIVING = flags.DEFINE_string("driving", None, "Video with the motion.")
POSES = flags.DEFINE_string("poses", None, "Pose file of the video, beside it or in its place.")
OUTPUT = flags.DEFINE_string("output", "output/animation.mp4", "Video to write.")
JOBS = flags.DEFINE_string("jobs", None, "Many clips: JSON lines that name files as flags do.")
SHARD = flags.DEFINE_string("shard", "0/1", cli.SHARD)
EXPLAIN = flags.DEFINE_bool("explain", False, "Also show what controlled each frame.")
DRY_RUN = flags.DEFINE_bool("dry_run", False, "Print parameters, memory and FLOPs, then stop.")


def main(config):
    files = [
        Path(f.value) if f.value else None for f in (REFERENCE, REFERENCE_POSE, DRIVING, POSES)
    ]
    if SHARD.present and not JOBS.value:
        raise ValueError("--shard is given without --jobs: it takes a share of a file of jobs")
    if JOBS.value:
        if any(files) or OUTPUT.present or DRY_RUN.value:
            raise ValueError(
                "--jobs: its lines name the files; leave out other inputs, --output and --dry_run"
            )
        index, count = cli.parse_shard(SHARD.value)
        lines = jobs.read(Path(JOBS.value))[index::count]
        jobs.run(config, weights.choose(WEIGHTS.value, config), lines, EXPLAIN.value)
        return
    if not any(files) and not DEMO[0].is_file():
        raise ValueError(
            "no picture to animate: give --reference, and --driving, --poses or both; the bundled "
            "figure is in the repository's assets/, not in an installed package"
        )
    sources = Sources(*(files if any(files) else DEMO))
    if DRY_RUN.value:
        print(job.needs(config, sources))
        return
    given = weights.choose(WEIGHTS.value, config)
    work = job.Job(config, given, sources, Path(OUTPUT.value), EXPLAIN.value)
    print(f"wrote {job.run(work)} and what it was made with: {work.path('.json')}")


if __name__ == "__main__":
    cli.program(main)
