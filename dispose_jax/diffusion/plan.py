"""What each call of the network in a sampling run has to compute.

Approximations leave some of it out: guidance's second half outside an interval of noise levels, and
the coarse levels of the U-Net, which change little from one step to the next (DeepCache: Ma et al.
2024), with the ControlNet, whose residuals follow the same latent.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from dispose_jax.diffusion import guidance, solvers
from dispose_jax.diffusion.samplers import Schedule


class PlannedCall(NamedTuple):
    """A call of a solver and its work."""

    call: solvers.Call
    halves: int  # of guidance: 2, or 1 for the conditional one alone
    fresh: bool  # everything is computed; else deep features of an earlier call serve
    keep: bool  # later calls take its deep features


def plan(schedule: Schedule, sample, guided: bool) -> list[PlannedCall]:
    """The calls of a run, first to last.

    sample: what has the numbers `steps`, `solver`, `guidance_interval` and `cache_interval` of
    `config.sample`. guided: whether its guidance scale asks for a second half at all. Raises
    ValueError for an unknown solver and impossible steps.
    """
    calls = solvers.calls(sample.solver, schedule, sample.steps)
    sigmas = schedule.sigmas(np.array([call.at for call in calls]))
    inside = guidance.inside(sigmas, sample.guidance_interval)
    halves = np.where(inside & guided, 2, 1).tolist()
    fresh = computed(halves, sample.cache_interval)
    keep = [now and not later for now, later in pairwise((*fresh, True))]
    return [PlannedCall(*one) for one in zip(calls, halves, fresh, keep, strict=True)]


def computed(rows: Sequence[int], every: int) -> list[bool]:
    """Whether each call computes everything: the first, every n-th after it, and any whose rows of
    guidance are other ones than the last call's; the count starts again with each.

    rows: of guidance in each call, 1 or 2. every: 1 computes always.
    """
    made, since = [], 0
    for i, now in enumerate(rows):
        fresh = i == 0 or now != rows[i - 1] or since + 1 >= every
        since = 0 if fresh else since + 1
        made.append(fresh)
    return made
