"""Measure what was learnt, on drawn people that no training saw.

python evaluate.py --weights A,B --arms base --arms full=runs/tiny/bundle --output output/ablation
python evaluate.py ... --arms full=S1,full=S2 --arms no_motion=M1,no_motion=M2   # two seeds of each
"""

from pathlib import Path

from absl import flags

from configs import common
from dispose_jax import cli, settings, weights
from dispose_jax.evaluation.ablation import report, run, variants
from dispose_jax.media import output

ASSETS = Path(__file__).parent / "assets"

SHARED = {"allow_override": True}  # the other commands have the same flags
CONFIG, DEFAULT = "Configuration file and its argument.", "configs/svd.py:size=tiny"
flags.DEFINE_string("config", DEFAULT, CONFIG, **SHARED)
WEIGHTS = flags.DEFINE_list("weights", None, "Bundles, later ones win; or 'random'.", **SHARED)
ARMS = flags.DEFINE_multi_string(
    "arms", [], "VARIANT or VARIANT=BUNDLE, with commas or again; one again is another seed of it."
)
CLIPS = flags.DEFINE_integer("clips", 32, "Clips of each of the two sets.")
OUTPUT = flags.DEFINE_string("output", "output/evaluation", "Folder to write.", **SHARED)


def main(config):
    settings.check(config)
    run.check(config, CLIPS.value)
    wanted = variants.parse(ARMS.value, common.CONTROL)
    given = weights.choose(WEIGHTS.value, config, ASSETS)
    if not WEIGHTS.value:  # what was not asked to be random is an error here
        given = tuple(folder for folder in given if folder != weights.RANDOM)
    compared = []
    for variant, folder in wanted:
        own = config.copy_and_resolve_references()
        own.control.update(common.control(variant))
        compared.append(variants.Arm(variant, own, (*given, *([folder] if folder else []))))
    output.prepare(Path(OUTPUT.value) / report.FILES[-1])
    results = run.run(compared, CLIPS.value)
    for path in report.write(OUTPUT.value, results):
        print(f"wrote {path}")


if __name__ == "__main__":
    cli.run(main)
