"""What a training step needs, from shapes alone: parameters, bytes on each device, arithmetic.

The gradient is traced, nothing is made or run, and the devices of the mesh need not exist;
flops.py says what counts. `kept` are the distinct arrays that automatic differentiation carries
from the forward to the backward pass, arguments aside. `most` is the largest sum of intermediate
results alive at once, gradients included, in the order of the program and before a compiler fuses
anything: it needs less. Moving arrays between devices needs memory that is not counted.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import Literal
from jax.sharding import AbstractMesh

from dispose_jax import flops
from dispose_jax.counting import counted
from dispose_jax.flops import Work, in_bytes, in_flops, line
from dispose_jax.models import networks
from dispose_jax.pose.people import NUM_BODY
from dispose_jax.training import (
    objectives,
    optimizer,
    previews,
    sharding,
    sources,
    state,
    step,
)
from dispose_jax.training.losses.video import VideoLoss
from dispose_jax.training.objectives import Objective
from dispose_jax.types import Batch, Impulses, Params

_struct = jax.ShapeDtypeStruct


class NetworkNeeds(NamedTuple):
    """A network of a step: how many parameters it has, and bytes on each device."""

    count: int
    trainable: bool
    dtype: str  # of the computation
    weights: int  # float32 if it learns, else in the type of the computation
    optimizer: int  # its state, and the moving average of the weights if one is kept
    gradients: int
    copy: int  # of the weights in the type of the computation, made from float32 where used


@dataclass(frozen=True)
class StepPlan:
    """The needs of a step. Bytes are of each device.

    mesh: devices over data, fsdp and frames. clips: of a device, worked on at a time, of which a
    step has `accumulate` turns. work: of these clips once, by (module, "forward" or "backward").
    """

    mesh: tuple[int, int, int]
    clips: int
    accumulate: int
    dtype: str
    networks: dict[str, NetworkNeeds]
    batch: int
    kept: int
    most: int
    work: dict[tuple[str, str], Work]

    @property
    def step_work(self) -> Work:
        """Of a step on all devices."""
        data, fsdp, _ = self.mesh
        times = data * fsdp * self.accumulate
        return Work(
            times * sum(work.executed for work in self.work.values()),
            times * sum(work.again for work in self.work.values()),
        )

    @property
    def gradients(self) -> int:
        return sum(held.gradients for held in self.networks.values())

    @property
    def static(self) -> int:
        """What is on a device between steps, and the gradients that several turns add up."""
        held = sum(held.weights + held.optimizer for held in self.networks.values())
        return held + (self.gradients if self.accumulate > 1 else 0)

    @property
    def total(self) -> int:
        return self.static + self.batch + self.most


def make(config) -> StepPlan:
    """The plan of a config's training step. Raises ValueError as the run itself would."""
    train = config.train
    mesh = sharding.mesh_shape(train, jax.device_count())
    sharding.check_shares(config, mesh)
    data, fsdp, over_frames = mesh
    clips = train.batch // (data * fsdp * train.accumulate)
    dtype = networks.compute_dtype(train.dtype)
    built = networks.build(config, dtype, training=True)
    objective = objectives.build(config, built)
    shapes = {name: built[name].shapes for name in objective.networks}
    learnt = {name: shapes[name] for name in train.trainable}
    frozen = _frozen(built, shapes, train.trainable)
    batch = batch_shapes(config, clips)
    jaxpr, residuals, gradients = _trace(objective, learnt, frozen, batch)
    most = flops.live_bytes(jaxpr, gradients)
    kept = _kept(jaxpr, residuals)
    # Every device has the whole gradient, but its share of the frames only.
    whole = min(most, flops.size(learnt))
    share = lambda count: -(-count // over_frames)
    phase = lambda stack: "backward" if "transpose(" in stack else "forward"
    return StepPlan(
        mesh=mesh,
        clips=clips,
        accumulate=train.accumulate,
        dtype=jnp.dtype(dtype).name,
        networks={
            name: _network_needs(config, built[name], shapes[name], mesh, name in train.trainable)
            for name in objective.networks
        },
        batch=train.accumulate * share(flops.size(batch)),
        kept=share(kept),
        most=whole + share(most - whole),
        work=flops.work_by(jaxpr, lambda stack: (flops.module_of(stack), phase(stack))),
    )


def of_picture(config) -> int | None:
    """The most bytes of intermediate results of a picture of the progress, on each device; None
    where no pictures are wanted, or they are of less than a step's clips (previews.py)."""
    built = networks.build(config, networks.compute_dtype(config.train.dtype), training=True)
    objective = objectives.build(config, built)
    if not config.train.sample_every or not isinstance(objective.loss, VideoLoss):
        return None
    shapes = {name: built[name].shapes for name in objective.networks}
    learnt = {name: shapes[name] for name in config.train.trainable}
    params = learnt | _frozen(built, shapes, config.train.trainable)
    one = batch_shapes(config, 1)
    return previews.live_bytes(objective.loss, config.sample, params, one)


def report(config, *, compiled: bool = False) -> str:
    """The plan as a text of some forty lines.

    compiled: compile the step too, for the devices that there are, and say what the compiler plans.
    """
    plan = make(config)
    text = [*_lines(config, plan)]
    if compiled:
        text += ["", *_compiled(config)]
    return "\n".join(text)


def batch_shapes(config, clips: int) -> Batch:
    """Shapes of so many clips: of a prepared set that is there, else of what the config draws or
    would find in a set without stored latents and features."""
    train = config.train
    if config.data.source not in ("", "synthetic"):
        with closing(sources.held_out(config, clips=1)) as source:
            found = next(source)
        return jax.tree.map(lambda x: _struct((clips, *x.shape[1:]), x.dtype), found)
    f, size = train.frames, (train.height, train.width)
    drawn = config.data.source == "synthetic" and train.objective in ("autoencoder", "cmp")
    of_frames = lambda dtype, *shape: _struct((clips, f, *shape), dtype)

    def impulses(count: int) -> Impulses:
        pixels, vectors = (of_frames(kind, count, 2) for kind in (jnp.int32, jnp.float32))
        return Impulses(pixels, vectors, of_frames(jnp.bool_, count))

    guides = NUM_BODY if train.guides == "joints" else config.data.max_guides
    weighed = train.region != "none"
    return Batch(
        frames=of_frames(jnp.uint8, *size, 3),
        skeletons=of_frames(jnp.uint8, *size, 3),
        steps=impulses(NUM_BODY),
        guides=impulses(guides) if "dense" in config.control.motion else None,
        cells=of_frames(jnp.int32, NUM_BODY, 2),
        visible=of_frames(jnp.bool_, NUM_BODY),
        joints=_struct((clips, NUM_BODY, 2), jnp.float32),
        seen=_struct((clips, NUM_BODY), jnp.bool_),
        region=of_frames(jnp.float32, size[0] // 8, size[1] // 8) if weighed else None,
        figure=of_frames(jnp.bool_, *size) if drawn else None,
        face=of_frames(jnp.bool_, *size) if drawn and train.objective == "autoencoder" else None,
        flow=of_frames(jnp.float32, *size, 2) if drawn and train.objective == "cmp" else None,
    )


def _trace(objective: Objective, learnt: Params, frozen: Params, batch: Batch):
    """The program of loss and gradient, its variables that are kept, and those of the gradient."""

    def both(learnt, frozen, batch, key, cotangent):
        loss = lambda params: objective.loss({**frozen, **params}, batch, key)
        _, pull, _ = jax.vjp(loss, learnt, has_aux=True)
        return jax.tree.leaves(pull), jax.tree.leaves(pull(cotangent))

    key = jax.eval_shape(lambda: jax.random.key(0))
    arguments = learnt, frozen, batch, key, _struct((), jnp.float32)
    closed, (residuals, _) = jax.make_jaxpr(both, return_shape=True)(*arguments)
    results = closed.jaxpr.outvars
    return closed.jaxpr, results[: len(residuals)], results[len(residuals) :]


def _kept(jaxpr, residuals) -> int:
    """Bytes of what is kept for the backward pass, each array once and arguments not at all."""
    stored = flops.views(jaxpr)
    held = {stored.get(v, v) for v in residuals if not isinstance(v, Literal)}
    return sum(flops.size(v.aval) for v in held - {*jaxpr.invars, *jaxpr.constvars})


def _frozen(built, shapes: Params, trainable) -> Params:
    """Shapes of the frozen networks, in the type that each computes in."""
    cast = lambda name: jax.tree.map(lambda x: _struct(x.shape, built[name].dtype), shapes[name])
    return {name: cast(name) for name in shapes if name not in trainable}


def _network_needs(config, network, shapes: Params, mesh, trainable: bool) -> NetworkNeeds:
    """What a network holds on each device of a mesh."""
    train = config.train
    dtype = jnp.dtype(network.dtype)
    abstract = AbstractMesh(mesh, sharding.AXES)

    def on_device(tree) -> int:
        places = sharding.of_tree(abstract, tree, train.mesh.smallest)
        local = lambda x, place: prod(place.shard_shape(x.shape)) * x.dtype.itemsize
        return sum(jax.tree.leaves(jax.tree.map(local, tree, places)))

    count = sum(x.size for x in jax.tree.leaves(shapes))
    if not trainable:
        cast = jax.tree.map(lambda x: _struct(x.shape, dtype), shapes)
        return NetworkNeeds(count, False, dtype.name, on_device(cast), 0, 0, 0)
    moments = jax.eval_shape(optimizer.build(train).init, shapes)
    moments = (moments, shapes) if train.average else moments
    copy = 0 if dtype == jnp.float32 else count * dtype.itemsize
    # Every device makes the whole gradient before the shares are added up.
    whole = flops.size(shapes)
    return NetworkNeeds(count, True, dtype.name, on_device(shapes), on_device(moments), whole, copy)


def traced(config, mesh) -> jax.stages.Traced:
    """The loop's step for the devices of a mesh, which need not exist."""
    train = config.train
    built = networks.build(config, networks.compute_dtype(train.dtype), training=True)
    objective = objectives.build(config, built, sharding.share_frames(mesh))
    transformation = optimizer.build(train)
    shapes = {name: built[name].shapes for name in objective.networks}
    place = partial(sharding.of_tree, mesh, smallest=train.mesh.smallest)
    put = lambda tree, places: jax.tree.map(
        lambda x, s: _struct(x.shape, x.dtype, sharding=s), tree, places
    )
    learnt = {name: shapes[name] for name in train.trainable}
    create = partial(state.create, optimizer=transformation, averaged=train.average > 0)
    current = jax.eval_shape(create, learnt)
    frozen = _frozen(built, shapes, train.trainable)
    batch = batch_shapes(config, train.batch)
    clips = jax.tree.map(lambda x: sharding.of_clips(mesh, x.shape, train.frames), batch)
    layout = place(current)
    jitted = step.jitted(objective.loss, transformation, train, mesh, layout)
    key = jax.eval_shape(lambda: jax.random.key(0))
    return jitted.trace(put(current, layout), put(frozen, place(frozen)), put(batch, clips), key)


def _compiled(config) -> Iterator[str]:
    """What the compiler plans for the step on the devices that there are."""
    found = traced(config, sharding.make_mesh(config)).lower().compile().memory_analysis()
    yield f"The compiler's plan ({jax.default_backend()}), on each device"
    if found is None:
        yield "  this backend tells none"
        return
    yield line("arguments", in_bytes(found.argument_size_in_bytes), "state, frozen networks, batch")
    yield line(
        "results beside them", in_bytes(found.output_size_in_bytes - found.alias_size_in_bytes)
    )
    note = "a CPU's compiler undoes remat" if jax.default_backend() == "cpu" else ""
    yield line("intermediate results", in_bytes(found.temp_size_in_bytes), note)


def _lines(config, plan: StepPlan) -> Iterator[str]:
    """The plan's tables, an empty line between them."""
    yield from _headline(config.train, plan)
    for title, trainable in (("Trained", True), ("Frozen", False)):
        yield from _networks_table(title, plan, trainable)
    yield ""
    yield from _memory_table(plan, of_picture(config))
    yield ""
    yield from _work_table(plan)


def _headline(train, plan: StepPlan) -> Iterator[str]:
    """What a step is, and what each device does of it."""
    data, fsdp, over_frames = plan.mesh
    yield (
        f"A training step of {counted(train.batch, 'clip')} of {counted(train.frames, 'frame')}, "
        f"{train.width} x {train.height}, computing in {plan.dtype}, remat {train.remat}"
    )
    if train.dtype == "auto" and plan.dtype == "float32":
        yield "(this is a CPU: --config.train.dtype=bfloat16 plans for an accelerator)"
    yield (
        f"{counted(prod(plan.mesh), 'device')}: data {data}, fsdp {fsdp}, frames {over_frames}; "
        f"each works on {counted(plan.clips, 'clip')} at a time, "
        f"{counted(plan.accumulate, 'time')} per step"
    )


def _networks_table(title: str, plan: StepPlan, trainable: bool) -> Iterator[str]:
    """Networks that learn, or those that do not; nothing if there are none."""
    chosen = {n: held for n, held in plan.networks.items() if held.trainable == trainable}
    if not chosen:
        return
    yield ""
    yield f"{title}: {sum(h.count for h in chosen.values()) / 1e6:.1f} M parameters"
    for name, held in chosen.items():
        note = f"{held.count / 1e6:.1f} M parameters"
        if trainable:
            rest = f"optimizer {in_bytes(held.optimizer)}, gradients {in_bytes(held.gradients)}"
            copy = f", {held.dtype} copies {in_bytes(held.copy)}" if held.copy else ""
            note += f", float32; {rest}{copy}"
        else:
            note += f", {held.dtype}"
        yield line(name, in_bytes(held.weights), note)


def _memory_table(plan: StepPlan, picture: int | None) -> Iterator[str]:
    """Bytes on each device; picture: as `of_picture` gives it."""
    yield "On each device"
    of = lambda field: sum(getattr(held, field) for held in plan.networks.values())
    yield line("weights", in_bytes(of("weights")))
    yield line("optimizer", in_bytes(of("optimizer")))
    if plan.accumulate > 1:
        yield line("sum of gradients", in_bytes(plan.gradients))
    yield line("batch", in_bytes(plan.batch))
    yield line("kept for backward", in_bytes(plan.kept), "part of the next line")
    note = "gradients too; before the compiler fuses anything"
    yield line("intermediate results, at most", in_bytes(plan.most), note)
    yield line("in all, at most", in_bytes(plan.total))
    if picture is not None:
        need = in_bytes(plan.static + picture)
        yield line("a picture of the progress", need, "in all; left out where it does not fit")


def _work_table(plan: StepPlan) -> Iterator[str]:
    """FLOPs of the clips that a device works on at a time, and of a step."""
    clips = counted(plan.clips, "clip")
    yield f"Arithmetic of {clips}: convolutions and matrix products, multiply + add = 2"
    for module in dict.fromkeys(module for module, _ in plan.work):
        forward, backward = (
            plan.work.get((module, phase), Work(0, 0)) for phase in ("forward", "backward")
        )
        note = f"backward {in_flops(backward.useful)}" if backward.executed else ""
        again = forward.again + backward.again
        note += f", again {in_flops(again)}" if again else ""
        yield line(module or "outside networks", in_flops(forward.useful), note)
    whole = plan.step_work
    yield line("one step, useful", in_flops(whole.useful), "all devices")
    yield line("one step, executed", in_flops(whole.executed), "with what gradients compute again")
    yield line("useful, per device", in_flops(whole.useful / prod(plan.mesh)))
