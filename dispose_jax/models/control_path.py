"""The path of DisPose's control signals into a base model, and the paper's ablations of it.

What a variant does not use is absent: no module, no parameters. A ControlNet exists exactly when a
signal enters it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp

from dispose_jax.networks import controlnet as residual_rules
from dispose_jax.networks.attention import one_token_values
from dispose_jax.networks.controlnet import ControlNet
from dispose_jax.networks.motion_encoder import MotionEncoder
from dispose_jax.networks.point_encoder import PointEncoder
from dispose_jax.types import Array, Conditioning, ControlSignals, Deep, Joining, Params, Residuals

_PIXELS = 2**18  # of each clip, encoded at a time
ENCODERS = ("motion_encoder", "point_encoder")  # run once per clip; the ControlNet at every step


@dataclass(frozen=True)
class ControlPath:
    """Modules and switches between ControlSignals and the U-Net.

    motion_into, points_into: "controlnet" or "unet". scale multiplies the residuals. residuals:
    "accumulated" (released) or "once" (textbook), see networks/controlnet.py.
    """

    motion_encoder: MotionEncoder | None
    point_encoder: PointEncoder | None
    controlnet: ControlNet | None
    motion_into: str
    points_into: str
    scale: float
    residuals: str
    chunk: int = 8  # small frames encoded at a time
    remat: bool = False  # its gradient computes it again: its maps are the largest of all

    def encode(self, params: Params, signals: ControlSignals) -> dict[str, object]:
        """Signals -> the `motion` and `points` of a Conditioning, once per clip."""
        motion = points = None
        if self.motion_encoder is not None:
            variables = {"params": params["motion_encoder"]}
            one = lambda flows: self.motion_encoder.apply(variables, *flows)
            if self.remat:
                one = jax.checkpoint(one)
            flows = (signals.sparse_flow, signals.dense_flow)
            motion = map_frames(one, flows, frames_at_once(signals.sparse_flow, self.chunk))
        if self.point_encoder is not None:
            points = self.point_encoder.apply(
                {"params": params["point_encoder"]},
                signals.point_features,
                signals.cells,
                signals.visible,
                signals.sparse_flow.shape[2:4],
            )
        return {"motion": motion, "points": points}

    def apply(
        self,
        params: Params,
        x: Array,
        t: Array,
        conditioning: Conditioning,
        deep: Deep | None = None,
    ) -> Joining:
        """Where each control signal enters the U-Net: paper eq. 8, and its tables 3 to 5, which
        take signals away or put them elsewhere.

        x (b, f, h, w, c) and t (b,) as the U-Net receives them. What is added after its input
        convolution are the pose features, with the motion and the points' map for the latents, if
        there is one, where these enter there. No residuals are made if an earlier call left them in
        deep.
        """
        residuals = None
        if self.controlnet is not None and deep is None:
            residuals = self._residuals(params["controlnet"], x, t, conditioning)
        motion, points = self._entering("unet", conditioning)
        added = conditioning.pose_features
        if motion is not None:
            added = motion if added is None else added + motion
        return Joining(added, points, residuals)

    def _entering(
        self, place: str, conditioning: Conditioning
    ) -> tuple[Array | None, tuple[Array, ...] | None]:
        """What enters a network, "controlnet" or "unet": the motion, with the points' map for the
        latents if there is one, and the points' maps for the levels."""
        motion = conditioning.motion if self.motion_into == place else None
        points = conditioning.points if self.points_into == place else None
        if points is not None and self.point_encoder.levels == "finest":
            finest, *points = points  # joins where motion does
            motion = finest if motion is None else motion + finest
        return motion, points and tuple(points)

    def _residuals(
        self, params: Params, x: Array, t: Array, conditioning: Conditioning
    ) -> Residuals:
        """What the ControlNet adds to the U-Net, by its rule and scale; params: its own."""
        motion, points = self._entering("controlnet", conditioning)
        variables = {"params": params}
        if conditioning.cross is not None:
            variables["cross"] = conditioning.cross["controlnet"]
        residuals = self.controlnet.apply(
            variables,
            x,
            t,
            conditioning.context,
            added_time=conditioning.added_time,
            motion=motion,
            points=points,
        )
        residuals = residual_rules.scale(residuals, self.scale)
        if self.residuals != "accumulated":
            return residuals
        return residual_rules.accumulate(
            residuals, len(self.controlnet.channels), self.controlnet.layers
        )


def hoist(model, params: Params, conditioning: Conditioning) -> Conditioning:
    """Conditioning with the constant cross-attentions of the U-Net and the ControlNet.

    A method of every base, of which it reads `unet` and `control`. Their context is one token, so
    that what cross-attention gives depends on it alone.
    """
    networks = {"unet": model.unet, "controlnet": model.control.controlnet}
    cross = {
        name: one_token_values(params[name], conditioning.context, module.flavour.dtype)
        for name, module in networks.items()
        if module is not None
    }
    return conditioning.replace(cross=cross)


def build(config, modules: Mapping[str, nn.Module]) -> ControlPath:
    """The control path of a config from its modules, {network: module}."""
    return ControlPath(
        modules.get("motion_encoder"),
        modules.get("point_encoder"),
        modules.get("controlnet"),
        motion_into=config.control.motion_into,
        points_into=config.control.points_into,
        scale=config.sample.control_scale,
        residuals=config.quirks.residuals,
        remat=modules["unet"].flavour.remat,
    )


def frames_at_once(pictures: Array, most: int) -> int:
    """How many frames of pictures (b, f, h, w, ..), at most so many, encoders at their resolution
    take at a time: `most`, halved until few pixels are left.

    A single large frame fills any device; convolutions of several take a TPU's compiler into
    layouts that move eight times as much.
    """
    pixels = pictures.shape[2] * pictures.shape[3]
    while most > 1 and most * pixels > _PIXELS:
        most //= 2
    return most


def map_frames(function: Callable, clips, chunk: int):
    """function over frames that are independent, `chunk` frames of every clip at a time.

    clips: tree of (b, f, ..); function takes it with n frames in place of f, and so does what it
    gives. Clips stay side by side and the first axis, so that each device works on its own: where
    frames came first, XLA's partitioner gave wrong gradients on a mesh of data and fsdp.
    """
    num_frames = jax.tree.leaves(clips)[0].shape[1]
    count, rest = divmod(num_frames, chunk)
    if count + bool(rest) <= 1:
        return function(clips)

    def split(x):
        x = x[:, : count * chunk].reshape(len(x), count, chunk, *x.shape[2:])
        return x.swapaxes(0, 1)  # count b chunk ..

    def join(x):
        x = x.swapaxes(0, 1)  # b count chunk ..
        return x.reshape(len(x), count * chunk, *x.shape[3:])

    done = jax.tree.map(join, jax.lax.map(function, jax.tree.map(split, clips)))
    if not rest:
        return done
    last = function(jax.tree.map(lambda x: x[:, count * chunk :], clips))
    return jax.tree.map(lambda *parts: jnp.concatenate(parts, axis=1), done, last)
