"""The programs of sampling and training, traced from shapes for the devices of any mesh.

Nothing is allocated and no weight is made, and the devices need not exist: what is traced can be
lowered, and compiled where the compiler for them is installed (benchmarks/compiled.py).
"""

from __future__ import annotations

from functools import cached_property

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from dispose_jax import control_signals, decoding, sampling, traces, windowed
from dispose_jax.models import networks, registry
from dispose_jax.networks.cmp import CMP
from dispose_jax.training import plan
from dispose_jax.types import Impulses

JOINTS = 18


class Sampling:
    """The programs of a sampling run of a clip of one window.

    mesh: of one axis, "data", which spreads rows. size: height, width in pixels.
    """

    def __init__(self, config, mesh, size: tuple[int, int], dtype):
        self.config, self.size = config, size
        built = networks.build(config, dtype)
        self.model, self.recipe = (
            registry.build(config, built),
            control_signals.build(config, built),
        )
        place = lambda *axes: NamedSharding(mesh, PartitionSpec(*axes))
        self.place = windowed.Placement(place("data"), place())
        shaped = lambda network: lambda x: self._whole(x.shape, network.dtype)
        self.params = {name: jax.tree.map(shaped(net), net.shapes) for name, net in built.items()}
        self.frames = config.sample.window + (not self.model.generates_reference)

    def _whole(self, shape, dtype=jnp.float32):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=self.place.whole)

    def _rows(self, shape, dtype=jnp.float32):
        """A row for each device."""
        shape = (self.place.rows, *shape)
        return jax.ShapeDtypeStruct(shape, dtype, sharding=self.place.spread)

    def _params(self, names) -> dict:
        return {name: self.params[name] for name in names if name in self.params}

    @cached_property
    def _conditioning(self):
        signals = traces.signal_shapes(self.config, self.frames, *self.size)
        whole = self.model, self.params, signals, self.frames, *self.size
        return traces.conditioning(*whole)[1]

    def _key(self):
        return jax.eval_shape(lambda: jax.random.key(0))

    def step(self) -> jax.stages.Traced:
        """One call of the denoiser: `sample.window_batch` windows on each device, with the halves
        of guidance."""
        return windowed.traced(
            self.model,
            self._params(self.model.stages["sampling"]),
            self._conditioning,
            self.model.latent_shape(*self.size),
            self.config.sample.window_batch,
            self.place,
            halves=2 if traces.is_guided(self.config) else 1,
        )

    def reference(self) -> jax.stages.Traced:
        """What the reference alone decides."""
        params = self._params(self.model.stages["reference"])
        picture = self._whole((1, *self.size, 3), jnp.uint8)
        return sampling._condition_reference.trace(self.model, params, picture, self._key())

    def condition(self) -> jax.stages.Traced:
        """The encoders of a chunk of frames on each device."""
        params, chunk = self._params(self.model.stages["frames"]), self.recipe.chunk
        skeletons = self._rows((chunk, *self.size, 3), jnp.uint8)
        signals = traces.signal_shapes(self.config, chunk, *self.size)
        signals = jax.tree.map(lambda x: self._rows(x.shape[1:], x.dtype), signals)
        return sampling._condition_frames.trace(
            self.model, self.place.whole, params, skeletons, signals
        )

    def features(self) -> jax.stages.Traced:
        """Diffusion features of the reference."""
        params = self._params(self.recipe.dift_networks)
        picture = self._whole((*self.size, 3))
        return control_signals._features.trace(self.recipe.dift, params, picture, self._key())

    def signals(self) -> jax.stages.Traced:
        """Both fields of a chunk of frames on each device."""
        recipe, chunk = self.recipe, self.recipe.chunk
        params = self._params(recipe.cmp_networks)
        pixels = self._rows((chunk, JOINTS, 2), jnp.int32)
        seen = self._rows((chunk, JOINTS), jnp.bool_)
        moves = self._rows((chunk,), jnp.bool_)
        impulses = Impulses(pixels, self._rows((chunk, JOINTS, 2)), seen)
        paths = control_signals.Trajectories(impulses, impulses, pixels, seen, moves)
        square = self._whole((self.recipe.cmp_size, self.recipe.cmp_size, 3))
        encode = lambda params, x: recipe.cmp.apply(
            {"params": params}, x[None], method=CMP.encode_image
        )
        picture = jax.eval_shape(encode, params["cmp"], square)
        picture = jax.tree.map(lambda x: self._whole(x.shape, x.dtype), picture)
        width = self.config.model.dift.channels[-2]
        points = self._whole((1, JOINTS, width)) if self.config.control.points else None
        return control_signals.of_frames.trace(recipe, self.size, params, picture, points, paths)

    def decode(self) -> jax.stages.Traced:
        """A chunk of latents on each device to frames."""
        params, latent = self._params(self.model.stages["decoding"]), self.model.latent_shape
        chunk = self.config.sample.decode_chunk
        return decoding.traced(self.model, params, latent(*self.size), chunk, self.place)


SAMPLING = ("step", "reference", "condition", "features", "signals", "decode")
NAMES = (*SAMPLING, "train")


def trace(name: str, config, mesh, size: tuple[int, int], dtype) -> jax.stages.Traced:
    """The program of that name; mesh: of the axes of training/sharding.py for "train", else of
    "data". Size and dtype are those of sampling; training's are in `config.train`."""
    if name == "train":
        return plan.traced(config, mesh)
    return getattr(Sampling(config, mesh, size, dtype), name)()
