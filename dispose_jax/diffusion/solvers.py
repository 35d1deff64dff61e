"""Solvers of the sampling equation, in one formulation over denoised estimates.

A schedule's `move` goes to a lower level as if a clean latent were the truth. Solvers differ in
which one they give it: the network's own estimate (euler, the released samplers), or that and a
multiple of its change since the last call, which makes the order 2. Levels enter through their
noise over signal, so one table of calls serves every schedule. After k-diffusion's samplers.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import numpy as np

from dispose_jax.diffusion.samplers import Schedule

Array = jax.Array

SOLVERS = ("euler", "heun", "dpmpp_2m")


class Call(NamedTuple):
    """A call of the network and the move that follows."""

    step: int  # which sampling step it belongs to
    at: np.float32  # the level of the latent that the network sees
    level: np.float32  # where the move starts
    lower: np.float32  # where it leads
    weight: float = 0.0  # of the estimate's change since the last call
    again: bool = False  # the move starts from the last call's latent


def calls(solver: str, schedule: Schedule, steps: int) -> list[Call]:
    """The calls of a run, first to last. Raises ValueError for another solver or impossible steps.

    heun takes two calls for every step but those from noise alone and to no noise, where its slope
    does not exist (Karras et al. 2022, alg. 1). dpmpp_2m takes one (Lu et al. 2022, alg. 2).
    """
    if solver not in SOLVERS:
        raise ValueError(f"sample.solver is {solver!r}: expected one of {', '.join(SOLVERS)}")
    levels = schedule.levels(steps)
    made: list[Call] = []
    last = np.inf  # distance of the step before, in the logarithm of noise over signal
    for step, ((level, lower), (sigma, less)) in enumerate(
        zip(levels, schedule.sigmas(levels), strict=True)
    ):
        inner = np.isfinite(sigma) and less > 0
        distance = np.log(sigma / less) if inner else np.inf
        two_steps = solver == "dpmpp_2m" and inner
        weight = float(distance / (2 * last)) if two_steps else 0.0
        made.append(Call(step, level, level, lower, weight))
        if solver == "heun" and inner:
            # The mean of both slopes is the move along first + (second - first) sigma / (2 less).
            weight = float(sigma / (2 * less)) - 1
            made.append(Call(step, lower, level, lower, weight, again=True))
        last = distance
    return made


def advance(
    schedule: Schedule,
    x: Array,
    output: Array,
    call: Call,
    *,
    start: Array | None = None,
    before: Array | None = None,
) -> tuple[Array, Array]:
    """(latent after a call's move, the network's own estimate of the clean one).

    x: latent that the network saw, output: what it gave, of one shape. start: where the move starts
    if not from x: the latent that the last call saw, for a call `again`. before: the last call's
    estimate, for a call with a weight; without it the step is the released one, bit for bit.
    """
    clean = schedule.clean(x, output, call.at)
    if before is None:
        return schedule.step(x, output, call.level, call.lower), clean
    estimate = clean + call.weight * (clean - before)
    return schedule.move(x if start is None else start, estimate, call.level, call.lower), clean
