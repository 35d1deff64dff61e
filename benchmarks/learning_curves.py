"""How the held-out loss of training runs went, and so whether it has become flat.

  python -m benchmarks.learning_curves --arms full=runs/full1,runs/full2 --arms no_motion=runs/...
      --plot curves.png                                                        # extra: bench

Runs of one seed have the same noise in that loss, those of different seeds do not: so each run is
shown as its change since its own first value, the mean of an arm's seeds with their span.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks import measure
from dispose_jax.training import metrics

Arms = dict[str, np.ndarray]  # arm -> (seeds, values)


def read(run: Path) -> dict[int, float]:
    """Held-out losses of a run by step. Raises ValueError for a run without any."""
    path = run / metrics.FILE
    try:
        lines = metrics.read(path)
    except OSError as error:
        raise ValueError(
            f"{path}: {error.strerror}; expected what training wrote: name the folder that was its "
            "--workdir"
        ) from error
    found = {line["step"]: line[metrics.VALIDATION] for line in lines if metrics.VALIDATION in line}
    if not found:
        raise ValueError(f"{path}: no held-out loss; train with train.validate_every")
    return found


def changes(arms: dict[str, Sequence[Path]]) -> tuple[list[int], Arms]:
    """Steps that all runs have, and of each arm and seed the loss minus its first one."""
    runs = {name: [read(run) for run in paths] for name, paths in arms.items()}
    steps = sorted(set.intersection(*(set(run) for seeds in runs.values() for run in seeds)))
    if not steps:
        raise ValueError("the runs have no step in common at which they were validated")
    values = {n: np.array([[run[s] for s in steps] for run in seeds]) for n, seeds in runs.items()}
    return steps, {name: each - each[:, :1] for name, each in values.items()}


def table(steps: Sequence[int], found: Arms) -> str:
    """Text: the mean change of every arm at every step, and how far its seeds lie apart."""
    rows = [
        (name, *(f"{x:+.4f}" for x in each.mean(0)), f"{np.ptp(each[:, -1]):.4f}")
        for name, each in found.items()
    ]
    return measure.table(rows, ("arm", *map(str, steps), "seeds apart at last"))


def plot(steps: Sequence[int], found: Arms, path: str) -> None:
    """Lines are means over seeds, bands reach from the lowest to the highest."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(6, 4), layout="constrained")
    for i, (name, each) in enumerate(found.items()):
        # Dashes, so that a line on another one can be seen.
        (line,) = axis.plot(steps, each.mean(0), label=name, dashes=(4, 2 * i))
        axis.fill_between(steps, each.min(0), each.max(0), color=line.get_color(), alpha=0.2)
    axis.axhline(0, color="0.6", linewidth=1)
    axis.set(xlabel="step", ylabel=f"held-out loss, change since step {steps[0]}")
    axis.legend()
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--arms", action="append", required=True, help="NAME=RUN,RUN: its seeds' folders"
    )
    parser.add_argument("--plot", help="picture to write, which needs matplotlib (extra: bench)")
    options = parser.parse_args()
    arms = {}
    for text in options.arms:
        name, _, runs = text.partition("=")
        if not runs:
            sys.exit(f"--arms {text}: expected NAME=RUN,RUN, such as full=runs/full1,runs/full2")
        # As in evaluate.py, an arm that comes again has more seeds.
        arms.setdefault(name, []).extend(Path(run).expanduser() for run in runs.split(","))
    try:
        steps, found = changes(arms)
        print(table(steps, found))
        if options.plot:
            plot(steps, found, options.plot)
    except (ValueError, OSError, ImportError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
