"""The loop of a training run: data, steps, measurements, checkpoints, and the bundle at the end.

A run is a directory: config.json and run.json say what it is, metrics.jsonl what was measured,
checkpoints/ holds what it continues from, samples/ shows what it could do when, bundle/ is its
result.
"""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

from dispose_jax import dry_run
from dispose_jax.data import image
from dispose_jax.models import bundle, networks
from dispose_jax.training import objectives, optimizer, rundir, sharding, state, step
from dispose_jax.training.checkpoint import Checkpoints
from dispose_jax.training.metrics import Metrics
from dispose_jax.training.sources import Ahead, held_out, open_source
from dispose_jax.training.state import TrainState
from dispose_jax.types import Batch, Params
from dispose_jax.weights import Weights

TRAINING, SHOWING = range(2)  # purposes of the seed
FINISH_BATCHES = 16  # that the last touch of a stage may look at


@dataclass
class Run:
    """A training run: what the config says, in workdir.

    given: bundles of the frozen networks and, if `continues`, of trainable ones to start from.
    Raises ValueError for settings that do not fit each other or the devices.
    """

    config: object
    given: tuple[str, ...]
    workdir: Path
    continues: bool = False
    say: Callable[[str], None] = print
    stopped: bool = field(default=False, init=False)

    def __post_init__(self):
        config = self.config
        self.mesh = sharding.make_mesh(config)
        dtype = networks.compute_dtype(config.train.dtype)
        self.networks = networks.build(config, dtype, training=True)
        self.objective = objectives.build(config, self.networks)
        self.trainable = tuple(config.train.trainable)
        self.optimizer = optimizer.build(config.train)
        self.place = partial(sharding.of_tree, self.mesh, smallest=config.train.mesh.smallest)

    @property
    def lead(self) -> bool:
        """Of all processes one writes and speaks."""
        return jax.process_index() == 0

    def key(self, purpose: int) -> jax.Array:
        return jax.random.fold_in(jax.random.key(self.config.seed), purpose)


def train(run: Run) -> None:
    """Train to the last step, or until the process is told to end."""
    config, train = run.config, run.config.train
    source = open_source(config)
    if run.lead:
        rundir.prepare(run.workdir, config, run.given)
    _together("run directory")
    checkpoints = Checkpoints(run.workdir / "checkpoints", train.keep)
    current, frozen = start(run, checkpoints, source)
    batches = Ahead(source)
    try:
        with _told_to_stop(run):
            current = _steps(run, checkpoints, current, frozen, batches)
        checkpoints.save(current, batches.position)
        checkpoints.wait()
        if int(current.step) < train.steps:
            run.say(f"stopped after step {int(current.step)}, saved; the same command continues")
        else:
            _write_bundle(run, current, batches)
    finally:
        batches.close()
        checkpoints.close()


def start(run: Run, checkpoints: Checkpoints, source) -> tuple[TrainState, Params]:
    """The state to go on from, with the source set to its position, and the frozen networks."""
    frozen, given = load(run)
    shapes = {name: run.networks[name].shapes for name in run.trainable}
    shapes = jax.eval_shape(lambda params: state.create(params, run.optimizer), shapes)
    if checkpoints.latest is not None:
        current, position = checkpoints.restore(shapes, run.place(shapes))
        source.restore(position)
        run.say(f"continuing after step {int(current.step)}")
    else:
        params = state.initial(
            run.networks,
            run.trainable,
            {**frozen, **given},
            run.config.seed,
            copy_add_embedding=run.config.train.copy_add_embedding,
        )
        params = sharding.place(params, run.place(params))
        create = partial(state.create, optimizer=run.optimizer)
        current = jax.jit(create, out_shardings=run.place(shapes))(params)
    return current, sharding.place(frozen, run.place(frozen))


def load(run: Run) -> tuple[Params, Params]:
    """Weights from the bundles, on the host: the frozen networks, and trainable ones to start from.

    Raises ValueError naming what is missing.
    """
    frozen = [name for name in run.objective.networks if name not in run.trainable]
    folders = [folder for folder in run.given if Path(folder).is_dir()]
    held = {name for folder in folders for name in bundle.describe(folder)["networks"]}
    known = [name for name in run.trainable if name in held and run.continues]
    if frozen and not run.given:
        raise ValueError(
            f"this run needs --weights with its frozen networks: {', '.join(frozen)}; bundles come "
            "from the stages before it, or from python -m converters.convert"
        )
    if not frozen and not known:
        return {}, {}
    weights = Weights(run.given, {n: run.networks[n] for n in (*frozen, *known)}, run.config)
    if weights.random and run.lead:
        run.say(f"random weights: {', '.join(weights.random)}")
    return jax.device_get(weights.load(frozen)), jax.device_get(weights.load(known))


def _steps(
    run: Run, checkpoints: Checkpoints, current: TrainState, frozen: Params, batches: Ahead
) -> TrainState:
    """All steps that are left."""
    train, lead = run.config.train, run.lead
    done = int(current.step)
    if done >= train.steps:
        return current
    place_batch = partial(sharding.place_batch, run.mesh, num_frames=train.frames)
    function = step.make_step(run.objective.loss, run.optimizer, train.accumulate)
    layout = jax.tree.map(lambda x: x.sharding, current)
    jitted = jax.jit(
        function, donate_argnums=0, out_shardings=(layout, sharding.replicated(run.mesh))
    )
    key = run.key(TRAINING)
    batch = place_batch(next(batches))
    run.say("compiling ...")
    traced = jitted.trace(current, frozen, batch, key)
    flops = sum(dry_run.flops_by_module(traced.jaxpr.jaxpr).values())
    compiled = traced.lower().compile()
    folder = run.workdir if lead else None
    metrics = Metrics(folder, done, train.steps, train.batch, flops)
    try:
        while True:
            current, scalars = compiled(current, frozen, batch, key)
            done += 1
            metrics.add(done, scalars)
            last = done >= train.steps or _any(run.stopped)
            log, save, show = (
                _due(interval, done)
                for interval in (train.log_every, train.save_every, train.sample_every)
            )
            if last or log or save or show:
                _write(metrics, checkpoints)
            if save and not last:
                checkpoints.save(current, batches.position)
            if show:
                _show(run, current, frozen)
                metrics.pause()
            if last:
                return current
            batch = place_batch(next(batches))
    finally:
        metrics.close()


def _due(interval: int, done: int) -> bool:
    return interval > 0 and done % interval == 0


def _write(metrics: Metrics, checkpoints: Checkpoints) -> None:
    try:
        metrics.write()
    except FloatingPointError as error:
        checkpoints.wait()
        good = checkpoints.latest
        where = f"the last good checkpoint is of step {good}" if good else "there is no checkpoint"
        raise ValueError(
            f"{error}; training stopped, {where}; a lower --config.train.learning_rate in another "
            "--workdir may help"
        ) from error


def _show(run: Run, current: TrainState, frozen: Params) -> None:
    """A picture of what the networks can do by now, of a clip that is not learnt from."""
    params = _on_host({**frozen, **current.params})
    if run.lead:
        picture = run.objective.show(params, held_out(run.config), run.key(SHOWING))
        folder = run.workdir / "samples"
        folder.mkdir(exist_ok=True)
        image.write_png(folder / f"{int(current.step):07d}.png", picture)


def _write_bundle(run: Run, current: TrainState, batches: Iterator[Batch]) -> None:
    """The trained networks as a bundle."""
    params = _on_host(current.params)
    if run.lead:
        some = (next(batches) for _ in range(FINISH_BATCHES))
        params = run.objective.finish(params, some)
        config, folder = run.config, run.workdir / "bundle"
        belongs = bundle.Belongs(config.base, config.model, config.quirks, config.name)
        origin = bundle.Origin(f"trained: stage {config.train.stage}", "Apache-2.0")
        shutil.rmtree(folder, ignore_errors=True)  # of a run that has been prolonged
        origins = dict.fromkeys(params, origin)
        bundle.write(folder, params, belongs, origins, dtype=np.float32)
        run.say(f"trained to step {int(current.step)}; wrote {folder}")
    _together("bundle")


def _on_host(tree):
    """A sharded tree as NumPy arrays, whole in every process."""
    if jax.process_count() == 1:
        return jax.device_get(tree)
    return multihost_utils.process_allgather(tree, tiled=True)


def _together(name: str) -> None:
    """Wait for all processes."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def _any(flag: bool) -> bool:
    """Whether the flag is up in any process."""
    if jax.process_count() == 1:
        return flag
    return bool(multihost_utils.process_allgather(np.array(flag)).any())


@contextmanager
def _told_to_stop(run: Run) -> Iterator[None]:
    """While inside, SIGTERM and Ctrl-C let the step end, save, and stop."""

    def stop(*_) -> None:
        run.stopped = True

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
