"""What a base model is: numbers, linen modules and pure functions over a params dict."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from dispose_jax.diffusion.samplers import Schedule
from dispose_jax.diffusion.windows import Windows
from dispose_jax.types import Array, Conditioning, ControlSignals, Params


class Model(Protocol):
    """The interface between a base model and the drivers of sampling and training.

    Letters as in types.py; pictures are float in -1..1, latents (b, f, h/8, w/8, c), frame 0 the
    reference.
    """

    schedule: Schedule
    stages: Mapping[str, tuple[str, ...]]  # "conditioning", "sampling", "decoding" -> networks
    generates_reference: bool  # frame 0 is denoised with the clip and dropped afterwards; else
    # conditioning, latents and what `denoise` gives are those of frames 1.. only
    repeats_noise: bool  # the initial noise is one window long

    def windows(self, num_frames: int, window: int, overlap: int) -> Windows:
        """Which frames are denoised together, of those that are generated."""
        ...

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """(h, w, c) of the latents of a picture of so many pixels."""
        ...

    def condition(
        self,
        params: Params,
        reference: Array,
        skeletons: Array,
        signals: ControlSignals | None,
        key: Array,
    ) -> Conditioning:
        """All that no step changes; signals None gives the base model alone.

        reference (b, h, w, 3), skeletons (b, f, h, w, 3), both in -1..1.
        """
        ...

    def unconditional(self, conditioning: Conditioning, drop: Array) -> Conditioning:
        """Rows with drop (b,) bool lose what guidance takes away; the others stay."""
        ...

    def hoist(self, params: Params, conditioning: Conditioning) -> Conditioning:
        """Fill in what the networks would compute again at every step; an exact shortcut."""
        ...

    def denoise(self, params: Params, x: Array, t: Array, conditioning: Conditioning) -> Array:
        """The network's output (b, f, h/8, w/8, c) for scaled latents x and times t (b,)."""
        ...

    def encode(self, params: Params, frames: Array) -> Array:
        """Frames (b, f, h, w, 3) -> what latents are drawn from, (b, f, h/8, w/8, 2 c)."""
        ...

    def latents(self, posterior: Array, key: Array) -> Array:
        """A draw of the latents that are diffused, from what `encode` gives."""
        ...

    def decode(self, params: Params, latents: Array) -> Array:
        """Latents -> frames (b, f, h, w, 3); frames decoded together see each other."""
        ...


def generated(model: Model, num_frames: int) -> int:
    """Frames that a model makes of a clip of so many, the reference included."""
    return num_frames if model.generates_reference else num_frames - 1
