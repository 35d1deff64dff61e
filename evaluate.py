"""Measure generated videos, or what was learnt of drawn people.

Real videos: folders with a video or a folder of frames per clip, paired by name. Without --real
only what needs no truth is measured; networks come from a bundle (docs/evaluation.md).

python evaluate.py --real DIR --fake DIR --weights BUNDLE --metrics all --output output/measured
python evaluate.py --fake DIR --metrics flickering

Drawn people that no training saw: the ablation.

python evaluate.py --weights A,B --arms base --arms full=runs/full1/bundle --output output/ablation
python evaluate.py ... --arms full=S1,full=S2 --arms no_motion=M1,no_motion=M2   # two seeds of each
"""

import math
import sys
from functools import partial
from pathlib import Path

from absl import flags

from configs import common
from dispose_jax import cli, limits, settings, weights
from dispose_jax.evaluation import measure, report, videos
from dispose_jax.evaluation.ablation import report as ablation_report
from dispose_jax.evaluation.ablation import run, variants
from dispose_jax.evaluation.metrics import METRICS
from dispose_jax.media import output

SHARED = {"allow_override": True}  # the other commands have the same flags
CONFIG, DEFAULT = "Configuration file and its argument (ablation).", "configs/svd.py:size=small"
flags.DEFINE_string("config", DEFAULT, CONFIG, **SHARED)
WEIGHTS = flags.DEFINE_list(
    "weights", None, "Bundle folders; a later one overrides an earlier one. Or 'random'.", **SHARED
)
OUTPUT = flags.DEFINE_string("output", "output/evaluation", "Folder to write.", **SHARED)
ARMS = flags.DEFINE_multi_string(
    "arms", [], "VARIANT or VARIANT=BUNDLE, with commas or again; one again is another seed of it."
)
CLIPS = flags.DEFINE_integer("clips", 32, "Clips of each of the two sets (ablation).")
FAKE = flags.DEFINE_string("fake", None, "Folder of generated clips.")
REAL = flags.DEFINE_string("real", None, "Folder of true clips.")
NAMES = flags.DEFINE_string("metrics", "all", f"Some of {','.join(METRICS)}; or all that can be.")
SIZE = flags.DEFINE_string(
    "size", "", "HEIGHTxWIDTH to measure at, or real: the true frames', for what compares frames."
)
STRIDE = flags.DEFINE_integer("stride", 1, "Frames between the windows of Fréchet metrics.")
FPS = flags.DEFINE_float(
    "fps", 15.0, "Frames per second of folders of frames without a video to pair with (dynamic)."
)
VBENCH = flags.DEFINE_string("vbench", None, "Result file of VBench to put into the table.")


def main(config):
    if FAKE.value or REAL.value:
        measured(config)
    else:
        ablation(config)


def measured(config):
    """Real videos."""
    if ARMS.value or not FAKE.value:
        raise ValueError(
            "--fake, with or without --real, measures videos, --arms the ablation: give one of them"
        )
    if CLIPS.present:
        raise ValueError(
            "--clips belongs to the ablation (--arms); of --fake every clip is measured"
        )
    if config != settings.load(DEFAULT):
        raise ValueError(
            "--config and its values belong to the ablation (--arms); of --fake the frames alone "
            "are measured, as --metrics, --size, --stride and --fps say"
        )
    if STRIDE.value < 1 or not 0 < FPS.value < math.inf:
        raise ValueError(
            f"--stride {STRIDE.value} --fps {FPS.value:g}: expected 1 or more, and a number above 0"
        )
    extra = report.read_vbench(Path(VBENCH.value)) if VBENCH.value else {}
    request = measure.Request(
        fake=Path(FAKE.value),
        real=Path(REAL.value) if REAL.value else None,
        weights=tuple(WEIGHTS.value or ()),
        metrics=NAMES.value,
        size=videos.parse_size(SIZE.value),
        stride=STRIDE.value,
        fps=FPS.value,
        lenient="all" in NAMES.value.split(","),
    )
    say = partial(print, file=sys.stderr, flush=True)
    plan = measure.check(request, say)
    for name in report.FILES:
        output.prepare(Path(OUTPUT.value) / name)
    results = measure.run(plan, say)
    written = report.write(OUTPUT.value, results, extra)  # before what reads the table goes away
    print(report.table(results, extra))
    for path in written:
        print(f"wrote {path}")


def ablation(config):
    """Drawn people."""
    for flag in (NAMES, SIZE, STRIDE, FPS, VBENCH):
        if flag.present:
            raise ValueError(f"--{flag.name} is for videos: name their folder with --fake")
    limits.check(config)
    run.check(config, CLIPS.value)
    wanted = variants.parse(ARMS.value, common.CONTROL)
    given = weights.choose(WEIGHTS.value, config)
    if not WEIGHTS.value:  # what was not asked to be random is an error here
        given = tuple(folder for folder in given if folder != weights.RANDOM)
    compared = []
    for variant, folder in wanted:
        own = config.copy_and_resolve_references()
        own.control.update(common.control(variant))
        compared.append(variants.Arm(variant, own, (*given, *([folder] if folder else []))))
    variants.check_bundles(compared, [folder for _, folder in wanted])
    output.prepare(Path(OUTPUT.value) / ablation_report.FILES[-1])
    results = run.run(compared, CLIPS.value)
    for path in ablation_report.write(OUTPUT.value, results):
        print(f"wrote {path}")


if __name__ == "__main__":
    cli.run(main)
