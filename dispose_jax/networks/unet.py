"""The U-Net family: a UNetEncoder (down path and middle) and a U-Net that adds the way up.

SVD, Stable Diffusion 1.5 (DIFT, MusePose's denoiser and its reference) and the ControlNets are all
built from the UNetEncoder here; `Flavour` says which blocks it is made of. Activations are
(b, f, h, w, c); a picture model treats frames as independent.
"""

from __future__ import annotations

from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from dispose_jax.networks.attention import SpatialTransformer
from dispose_jax.networks.layers import TimeMLP, conv, sinusoid
from dispose_jax.networks.norms import GroupNorm
from dispose_jax.networks.resnet import (
    Downsample,
    ResnetBlock,
    SpatioTemporalResnetBlock,
    Upsample,
)
from dispose_jax.networks.temporal import (
    MotionModule,
    MotionSizes,
    SpatioTemporalTransformer,
)
from dispose_jax.types import NOTHING, Deep, Joining

Array = jax.Array


@dataclass(frozen=True)
class Flavour:
    """What the blocks of a U-Net have in common.

    temporal: None (pictures), "mixed" (SVD: every block blends a spatial and a temporal part) or
    "motion_module" (MusePose: pictures, with a module over frames after every layer, of sizes
    motion). context_group: rows that share the released context order, 1 = each its own
    (temporal.py). spatial_only: skip every temporal part, as the originals do for pictures. remat:
    for gradients, compute what is inside a block again instead of keeping it; its input alone is
    kept.
    """

    temporal: str | None = None
    groups: int = 32
    context_group: int = 1
    spatial_only: bool = False
    remat: bool = False
    motion: MotionSizes = MotionSizes()
    dtype: DTypeLike = jnp.float32

    def __post_init__(self):
        if self.temporal not in (None, "mixed", "motion_module"):
            raise ValueError(
                f"temporal is {self.temporal!r}: expected None, 'mixed' or 'motion_module'"
            )

    def resnet(self, features: int, epsilon: float, name: str) -> nn.Module:
        """A residual block called with (x, emb)."""
        if self.temporal != "mixed":
            block = self._kept(ResnetBlock)
            return block(features, epsilon, self.groups, self.dtype, name=name)
        return self._kept(SpatioTemporalResnetBlock)(
            features,
            epsilon,
            epsilon,
            groups=self.groups,
            spatial_only=self.spatial_only,
            dtype=self.dtype,
            name=name,
        )

    def transformer(self, heads: int, name: str) -> nn.Module:
        """A transformer called with (x, context)."""
        if self.temporal != "mixed":
            return self._kept(SpatialTransformer)(heads, self.groups, self.dtype, name=name)
        return self._kept(SpatioTemporalTransformer)(
            heads, self.groups, self.context_group, self.spatial_only, self.dtype, name=name
        )

    def over_time(self, x: Array, name: str) -> Array:
        """x (b, f, h, w, c) through a layer's motion module, if there is one; makes it in the
        calling module."""
        if self.temporal != "motion_module" or self.spatial_only:
            return x
        return self._kept(MotionModule)(*self.motion, self.dtype, name=name)(x)

    def _kept(self, block: type[nn.Module]) -> type[nn.Module]:
        return nn.remat(block) if self.remat else block

    def epsilon(self, place: str) -> float:
        """Norm epsilon of the residual blocks; SVD's factory loses the configured 1e-5 in most
        places."""
        if self.temporal != "mixed":
            return 1e-5
        return {"attention": 1e-6, "plain": 1e-5, "mid": 1e-5, "up": 1e-6}[place]


class DownBlock(nn.Module):
    """Residual blocks, each with a transformer if heads is not 0, then a downsampling unless
    last."""

    features: int
    layers: int
    heads: int
    last: bool
    flavour: Flavour

    @nn.compact
    def __call__(self, x: Array, emb: Array, context: Array) -> tuple[Array, tuple[Array, ...]]:
        """x (b, f, h, w, c), emb (b, d), context (b, l, e) -> (output, skips)."""
        epsilon = self.flavour.epsilon("attention" if self.heads else "plain")
        skips = []
        for i in range(self.layers):
            x = self.flavour.resnet(self.features, epsilon, f"resnets_{i}")(x, emb)
            if self.heads:
                x = self.flavour.transformer(self.heads, f"attentions_{i}")(x, context)
            x = self.flavour.over_time(x, f"motion_modules_{i}")
            skips.append(x)
        if not self.last:
            x = Downsample(self.features, dtype=self.flavour.dtype, name="downsamplers_0")(x)
            skips.append(x)
        return x, tuple(skips)


class MidBlock(nn.Module):
    """Residual block, transformer, residual block at the coarsest grid."""

    features: int
    heads: int
    flavour: Flavour

    @nn.compact
    def __call__(self, x: Array, emb: Array, context: Array) -> Array:
        """x (b, f, h, w, c), emb (b, d), context (b, l, e) -> the shape of x."""
        epsilon = self.flavour.epsilon("mid")
        x = self.flavour.resnet(self.features, epsilon, "resnets_0")(x, emb)
        x = self.flavour.transformer(self.heads, "attentions_0")(x, context)
        x = self.flavour.over_time(x, "motion_modules_0")
        return self.flavour.resnet(self.features, epsilon, "resnets_1")(x, emb)


class UpBlock(nn.Module):
    """As DownBlock, each residual block taking one skip; then an upsampling unless last."""

    features: int
    heads: int
    last: bool
    flavour: Flavour

    @nn.compact
    def __call__(
        self,
        x: Array,
        emb: Array,
        context: Array,
        skips: tuple[Array, ...],
        size: tuple[int, int] | None,
    ) -> Array:
        """x (b, f, h, w, c); skips, the last first; size of the next grid -> (b, f, *size,
        features)."""
        epsilon = self.flavour.epsilon("up")
        for i, skip in enumerate(skips):
            x = jnp.concatenate([x, skip], axis=-1)
            x = self.flavour.resnet(self.features, epsilon, f"resnets_{i}")(x, emb)
            if self.heads:
                x = self.flavour.transformer(self.heads, f"attentions_{i}")(x, context)
            x = self.flavour.over_time(x, f"motion_modules_{i}")
        if not self.last:
            x = Upsample(self.features, self.flavour.dtype, name="upsamplers_0")(x, size)
        return x


class UNetEncoder(nn.Module):
    """Input convolution, down path and middle: half of the U-Net, most of the ControlNet.

    Every level but the coarsest has transformers; the middle has the coarsest level's heads.
    """

    channels: tuple[int, ...]
    heads: tuple[int, ...]
    layers: int
    flavour: Flavour

    @nn.compact
    def __call__(
        self,
        x: Array,
        emb: Array,
        context: Array,
        *,
        joining: Joining = NOTHING,
        finest_only: bool = False,
    ) -> tuple[Array, tuple[Array, ...]]:
        """x (b, f, h, w, c), emb (b, d), context (b, l, e) -> (middle output, skips).

        joining: its residuals are not this half's. finest_only: end after level 0, with its output
        in place of the middle's and its skips alone.
        """
        x = conv(self.channels[0], name="conv_in", dtype=self.flavour.dtype)(x)
        if joining.added is not None:
            x = x + joining.added.astype(x.dtype)
        skips = [x]
        for i, features in enumerate(self.channels):
            last = i == len(self.channels) - 1
            heads = 0 if last else self.heads[i]
            block = DownBlock(
                features,
                self.layers,
                heads,
                last or finest_only,
                self.flavour,
                name=f"down_blocks_{i}",
            )
            x, outputs = block(x, emb, context)
            skips += outputs
            if finest_only:
                return x, tuple(skips)
            if joining.per_level is not None:
                x = x + joining.per_level[i].astype(x.dtype)
        mid = MidBlock(self.channels[-1], self.heads[-1], self.flavour, name="mid_block")
        return mid(x, emb, context), tuple(skips)


def embed_time(
    t: Array, added_time: Array | None, width: int, added_width: int, dtype: DTypeLike
) -> Array:
    """The embedding that all residual blocks receive; makes its submodules in the calling module.

    t (b,) any real; added_time (b, 3) or None, each entry embedded with added_width sinusoids ->
    (b, 4 width).
    """
    features = 4 * width
    mlp = lambda name: TimeMLP(features, features, dtype, name=name)
    emb = mlp("time_embedding")(sinusoid(t, width).astype(dtype))
    if added_time is not None:
        ids = sinusoid(added_time, added_width).reshape(len(added_time), -1)
        emb = emb + mlp("add_embedding")(ids.astype(dtype))
    return emb


class UNet(nn.Module):
    """The encoder, then the same way back up; predicts what the noise schedule asks for.

    added_width: sinusoids per added time id (SVD); unused without ids. `stop_after_up` of the call
    ends early. head: the last norm and convolution; without them (MusePose's reference, whose
    tokens alone matter: attention.py) the last hidden map is the result.
    """

    channels: tuple[int, ...]
    heads: tuple[int, ...]
    flavour: Flavour
    layers: int = 2
    out_channels: int = 4
    added_width: int = 256
    head: bool = True

    @nn.compact
    def __call__(
        self,
        x: Array,
        t: Array,
        context: Array,
        *,
        added_time: Array | None = None,
        joining: Joining = NOTHING,
        stop_after_up: int | None = None,
        deep: Deep | None = None,
        keep: bool = False,
    ) -> Array | tuple[Array, Deep]:
        """x (b, f, h, w, c), t (b,), context (b, l, e) -> (b, f, h, w, out_channels) float32.

        added_time (b, 3). With stop_after_up = i the result is the output of up block i, after its
        upsampling; without a head that of the last one, (b, f, h, w, channels[0]).

        keep: (result, Deep) for later calls. With such a deep only the finest level runs, on its
        features and residuals (DeepCache: Ma et al. 2024); residuals are not given then.
        """
        dtype = self.flavour.dtype
        emb = embed_time(t, added_time, self.channels[0], self.added_width, dtype)
        context = context.astype(dtype)
        encoder = UNetEncoder(self.channels, self.heads, self.layers, self.flavour, name="encoder")
        x, skips = encoder(
            x.astype(dtype), emb, context, joining=joining, finest_only=deep is not None
        )
        residuals = joining.residuals
        if residuals is not None:
            x = x + residuals.mid.astype(dtype)
        on_skips = residuals.skips if residuals is not None else deep and deep.residuals
        if on_skips is not None:
            skips = tuple(s + r.astype(dtype) for s, r in zip(skips, on_skips, strict=True))
        for i, features in enumerate(reversed(self.channels)):
            last = i == len(self.channels) - 1
            if deep is not None:
                if not last:
                    continue
                x = deep.features
            elif last and keep:
                kept = Deep(x, residuals and residuals.skips[: self.layers + 1])
            taken, skips = skips[-self.layers - 1 :][::-1], skips[: -self.layers - 1]
            size = None if last else skips[-1].shape[-3:-1]
            heads = 0 if i == 0 else self.heads[::-1][i]
            block = UpBlock(features, heads, last, self.flavour, name=f"up_blocks_{i}")
            x = block(x, emb, context, taken, size)
            if i == stop_after_up:
                return x
        if not self.head:
            return x
        x = GroupNorm(1e-5, self.flavour.groups, dtype=dtype, name="conv_norm_out")(x)
        x = conv(self.out_channels, name="conv_out", dtype=dtype)(nn.silu(x)).astype(jnp.float32)
        return (x, kept) if keep else x
