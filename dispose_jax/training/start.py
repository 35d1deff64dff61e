"""What a run starts from, network by network.

The weights of a network come from the first of these sources that has it:

1. the newest checkpoint of the run's directory, for what learns: with the state of the optimizer
   and the position in the data, so that the run goes on as if it had not been interrupted;
2. the bundles of --weights, the last folder that has it: frozen networks always, networks that
   learn if the user named the bundles or they cannot start from nothing (Objective.goes_on);
3. another network, for a ControlNet: the encoder of the U-Net that `control_start` names, which
   comes from 2 and is read even if it has no other part in the run (state.from_unet);
4. random numbers that follow from the seed and the network's name: frozen networks if --weights
   begins with "random", networks that learn as `train.start` says.

What learns is kept in float32 as the source has it; what is frozen is cast to the type that it
computes in. Tensors go from mapped files to their places on the mesh one at a time.
"""

from __future__ import annotations

from functools import partial

import jax
import numpy as np

from dispose_jax.training import sharding, state
from dispose_jax.training.checkpoint import Checkpoints
from dispose_jax.training.run import Run
from dispose_jax.training.sources import Source
from dispose_jax.training.state import TrainState
from dispose_jax.types import Params
from dispose_jax.weights import RANDOM, Weights, offered

SVD_ENCODER = "svd_encoder"


def start(
    run: Run, weights: Weights | None, checkpoints: Checkpoints, source: Source
) -> tuple[TrainState, Params]:
    """The state to go on from, with the source set to its position, and the frozen networks."""
    frozen, given = load(run, weights)
    shapes = {name: run.networks[name].shapes for name in run.trainable}
    averaged = run.config.train.average > 0
    create = partial(state.create, optimizer=run.optimizer, averaged=averaged)
    shapes = jax.eval_shape(create, shapes)
    if checkpoints.latest is not None:
        current, position = checkpoints.restore(shapes, run.place(shapes))
        source.restore(position)
        run.say(f"continuing after step {int(current.step)}")
    else:
        if "controlnet" in run.trainable and "controlnet" not in given:
            run.say(f"the ControlNet starts as a copy of the encoder of {control_start(run)}")
        params = state.initial(
            run.networks,
            run.trainable,
            {**frozen, **given},
            run.config.seed,
            control_start=control_start(run),
            copy_add_embedding=run.config.train.copy_add_embedding,
            start=run.config.train.start,
        )
        # What learns is kept in float32, whatever it is read in and computes in.
        params = sharding.place(params, run.place(shapes.params), np.float32)
        current = jax.jit(create, out_shardings=run.place(shapes))(params)
    return current, {name: _placed(run, name, tree) for name, tree in frozen.items()}


def _placed(run: Run, name: str, tree: Params) -> Params:
    """A frozen network on the mesh, in the type that it computes in."""
    dtype = run.networks[name].dtype
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, dtype), tree)
    return sharding.place(tree, run.place(shapes), dtype)


def open_weights(run: Run) -> Weights | None:
    """The bundles of the run, None if it needs nothing of them.

    Raises ValueError naming what is missing; no weight is read.
    """
    frozen, known = _from_bundles(run)
    needed = (*frozen, *run.objective.goes_on, *run.objective.starts_from)
    missing = [] if RANDOM in run.given else [name for name in needed if name not in _held(run)]
    if missing:
        raise ValueError(
            f"this run needs --weights with the networks {', '.join(missing)}; bundles come from "
            "the stages before it (docs/training.md) or from python -m converters.convert"
        )
    if not frozen and not known:
        return None
    return Weights(run.given, {n: run.networks[n] for n in (*frozen, *known)}, run.config)


def load(run: Run, weights: Weights | None) -> tuple[Params, Params]:
    """Weights on the host as the files have them: the frozen networks, and those that trainable
    ones start from."""
    if weights is None:
        return {}, {}
    if weights.random:
        run.say(f"random weights: {', '.join(weights.random)}")
    frozen, known = _from_bundles(run)
    read = lambda names: {name: weights.read(name) for name in names}
    return read(frozen), read(known)


def _from_bundles(run: Run) -> tuple[list[str], list[str]]:
    """Names of the frozen networks, and of those in a bundle that others start from."""
    frozen = [name for name in run.objective.networks if name not in run.trainable]
    held, goes_on = _held(run), run.objective.goes_on
    known = [n for n in run.trainable if n in held and (run.continues or n in goes_on)]
    others = [n for n in run.objective.starts_from if n not in frozen]
    is_fresh = "controlnet" in run.trainable and "controlnet" not in known
    if is_fresh and control_start(run) == SVD_ENCODER:
        others = [SVD_ENCODER]
    return frozen, known + others


def control_start(run: Run) -> str:
    """The network whose encoder a fresh ControlNet copies, as `train.control_start` says.

    "auto" is Stable Video Diffusion's own U-Net, as the paper says (section 5.1), where a bundle
    has it; else the run's own U-Net, as the official loader does.
    """
    named = run.config.train.control_start
    if named != "auto":
        return named
    return SVD_ENCODER if SVD_ENCODER in _held(run) else "unet"


def _held(run: Run) -> set[str]:
    """Names of all networks in the bundles given that may serve this run."""
    return offered([folder for folder in run.given if folder != RANDOM], run.config)
