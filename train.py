"""Train DisPose, its base, or a small chain of models of one's own.

python train.py --config configs/svd.py --weights DIR --workdir runs/mm --config.data.source=SET
python train.py --config configs/svd.py:size=small,stage=vae --workdir runs/vae      # drawn people
srun python train.py ... --distributed                     # many hosts: docs/scaling.md
"""

from pathlib import Path

from absl import flags

from dispose_jax import cli, limits, weights
from dispose_jax.training import loop, multihost, plan
from dispose_jax.training.run import Run

SHARED = {"allow_override": True}  # sample.py has the same flags, and a test may load both
CONFIG, DEFAULT = "Configuration file and its argument.", "configs/svd.py:size=small"
flags.DEFINE_string("config", DEFAULT, CONFIG, **SHARED)
WEIGHTS = flags.DEFINE_list(
    "weights", None, "Bundle folders; a later one overrides an earlier one. Or 'random'.", **SHARED
)
WORKDIR = flags.DEFINE_string("workdir", None, "Directory of the run; one that exists continues.")
DISTRIBUTED = flags.DEFINE_bool("distributed", False, "Many processes, found by SLURM or the TPU.")
COORDINATOR = flags.DEFINE_string("coordinator", None, "host:port of process 0, instead of that.")
NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "Processes of the run.")
PROCESS_ID = flags.DEFINE_integer("process_id", None, "Which of them this one is, from 0.")
DRY_RUN = flags.DEFINE_bool("dry_run", False, "Print what a step needs, then stop.", **SHARED)
COMPILED = flags.DEFINE_bool("compiled", False, "With --dry_run: what the compiler plans, too.")


def main(config):
    multihost.start(COORDINATOR.value, NUM_PROCESSES.value, PROCESS_ID.value, DISTRIBUTED.value)
    limits.check(config)
    if DRY_RUN.value:
        print(plan.report(config, compiled=COMPILED.value))
        return
    if COMPILED.value:
        raise ValueError("--compiled is given without --dry_run, whose report it adds to")
    if not WORKDIR.value:
        raise ValueError("--workdir is missing: name the directory of the run")
    given = tuple(WEIGHTS.value or weights.bundled(config))
    loop.train(Run(config, given, Path(WORKDIR.value), continues=bool(WEIGHTS.value)))


if __name__ == "__main__":
    cli.program(main)
