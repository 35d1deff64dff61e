"""The loop of a training run: data, steps, measurements, checkpoints, and the bundle at the end.

A run is a directory: config.json and run.json say what it is, metrics.jsonl what was measured,
checkpoints/ holds what it continues from, samples/ shows what it could do when, bundle/ is its
result.
"""

from __future__ import annotations

import shutil
from contextlib import ExitStack, closing
from functools import partial

import jax
import numpy as np

from dispose_jax import flops, memory
from dispose_jax.models import bundle
from dispose_jax.training import multihost, rundir, sharding, start, step, stopping
from dispose_jax.training.checkpoint import Checkpoints
from dispose_jax.training.metrics import VALIDATION, Metrics
from dispose_jax.training.progress import Progress
from dispose_jax.training.run import TRAINING, Run
from dispose_jax.training.sources import (
    Prefetcher,
    Source,
    check_weights,
    open_source,
    region_in_doubt,
)
from dispose_jax.training.state import TrainState
from dispose_jax.types import Params

FINISH_BATCHES = 16  # that the last touch of a stage may look at


def train(run: Run) -> None:
    """Train to the last step, or until the process is told to end.

    Raises ValueError or OSError with one sentence, OutOfMemory with what helps; of several
    processes all end then, with that sentence.
    """
    config, train = run.config, run.config.train
    with multihost.ending_all():  # a host may lack the set or the weights
        source = open_source(config, sharding.rows(run.mesh, train.batch))
        whole = open_source(config)  # now, as a prepared set may grow until it is needed
        weights = start.open_weights(run)
        digests = {} if weights is None else weights.digests
        check_weights(source, config, digests)
        if doubt := region_in_doubt(source, config):
            run.say(f"warning: {doubt}")
    with ExitStack() as leaving:
        leaving.callback(source.close)
        leaving.callback(whole.close)
        lock = multihost.by_lead(partial(rundir.claim, run.workdir, config, digests))
        if lock is not None:
            leaving.enter_context(lock)
        with multihost.ending_all():
            rundir.see(run.workdir)
        checkpoints = Checkpoints(run.workdir / "checkpoints", train.keep)
        leaving.callback(checkpoints.close)
        leaving.enter_context(multihost.ending_all())  # first of all: closing waits for the others
        leaving.enter_context(memory.explained("training", _what_helps(train)))
        current, frozen = start.start(run, weights, checkpoints, source)
        batches = leaving.enter_context(closing(Prefetcher(source)))
        with stopping.told_to_stop(run):
            current = _steps(run, checkpoints, current, frozen, batches)
            checkpoints.save(current, batches.position)
            checkpoints.wait()
        if int(current.step) < train.steps:
            run.say(
                f"stopped after step {int(current.step)}, saved; the same command continues, and "
                "with --config.train.steps=1 it writes the bundle of what is learnt by now"
            )
        else:
            params, done = multihost.on_host((current.result, current.step))
            whole.restore(batches.position)
            multihost.by_lead(partial(_write_bundle, run, params, int(done), whole))


def _what_helps(train) -> str:
    """What a step that does not fit a device can be changed to."""
    remat = "" if train.remat == "layer" else ", or --config.train.remat=layer"
    return (
        f"raise --config.train.accumulate (now {train.accumulate}), which works through the same "
        f"batch in parts, or --config.train.mesh.fsdp (now {train.mesh.fsdp}), which shares the "
        f"parameters out over several devices{remat}"
    )


def _steps(
    run: Run, checkpoints: Checkpoints, current: TrainState, frozen: Params, batches: Prefetcher
) -> TrainState:
    """All steps that are left."""
    train = run.config.train
    done = int(current.step)
    if done >= train.steps:
        return current
    place_batch = partial(
        sharding.place_batch, run.mesh, clips=train.batch, num_frames=train.frames
    )
    layout = jax.tree.map(lambda x: x.sharding, current)
    jitted = step.jitted(run.objective.loss, run.optimizer, train, run.mesh, layout)
    key = run.key(TRAINING)
    batch = place_batch(next(batches))
    run.say("compiling ...")
    with stopping.breaking(run):
        traced = jitted.trace(current, frozen, batch, key)
        useful = flops.work(traced.jaxpr.jaxpr).useful
        compiled = stopping.heard(traced.lower().compile)
    folder = run.workdir if multihost.is_lead() else None
    metrics = Metrics(folder, done, train.steps, train.batch, useful)
    progress = Progress(run, frozen)
    before = None  # the scalars of the last step
    try:
        while True:
            stopped = multihost.ask(run.stopped)  # before the step: the answer need not wait for it
            current, scalars = compiled(current, frozen, batch, key)
            # The devices have a step to go on with. A host that does not wait for the one before
            # would put the batches of dozens of steps on them, which nobody has planned memory for.
            jax.block_until_ready(before)
            before = scalars
            done += 1
            metrics.add(done, scalars)
            last = done >= train.steps or bool(stopped)
            due = lambda interval, done=done: interval > 0 and done % interval == 0
            save, show = due(train.save_every), due(train.sample_every)
            more = {}
            if due(train.validate_every) and run.config.data.held_out:
                with metrics.paused():
                    more = {VALIDATION: progress.validate(current)}
            if last or due(train.log_every) or save or show or more:
                _write(run, metrics, checkpoints, more)
            if save and not last:
                checkpoints.save(current, batches.position)
            if show:
                with metrics.paused():
                    progress.show(current)
            if last:
                return current
            batch = place_batch(next(batches))
    finally:
        metrics.close()


def _write(run: Run, metrics: Metrics, checkpoints: Checkpoints, more: dict[str, float]) -> None:
    """Write what was measured, and more; a loss that is not finite ends the run."""
    try:
        metrics.write(**more)
    except FloatingPointError as error:
        checkpoints.wait()
        good = checkpoints.latest
        folder = run.workdir / "checkpoints"
        where = f"the last good checkpoint is {folder / str(good)}" if good else "none was saved"
        raise ValueError(
            f"{error}; training stopped, {where}; a lower --config.train.learning_rate in another "
            "--workdir may help"
        ) from error


def _write_bundle(run: Run, params: Params, done: int, batches: Source) -> None:
    """The trained networks, on the host, as a bundle; batches: of all processes' clips."""
    some = (next(batches) for _ in range(FINISH_BATCHES))
    params = run.objective.finish(params, some)
    config, folder = run.config, run.workdir / rundir.BUNDLE
    described = bundle.ModelDescription(config.base, config.model, config.quirks, config.name)
    origin = bundle.Origin(f"trained: stage {config.train.stage}", "Apache-2.0")
    for left in run.workdir.glob(f".{folder.name}.*-*"):  # of a process that was killed
        shutil.rmtree(left, ignore_errors=True)
    # An older one, of a run that has been prolonged, stays until the new one is whole.
    origins = dict.fromkeys(params, origin)
    bundle.write(folder, params, described, origins, dtype=np.float32, replace=True)
    run.say(f"trained to step {done}; wrote {folder}")
