"""What a base model is: numbers, linen modules and pure functions over a params dict."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from dispose_jax.diffusion.samplers import Schedule
from dispose_jax.diffusion.windows import Windows
from dispose_jax.types import Array, Conditioning, ControlSignals, Deep, Params


class Model(Protocol):
    """The interface between a base model and the drivers of sampling and training.

    Letters as in types.py; pictures are float in -1..1, latents (b, f, h/8, w/8, c), frame 0 the
    reference.
    """

    schedule: Schedule
    # "reference", "frames", "sampling", "decoding" -> networks
    stages: Mapping[str, tuple[str, ...]]
    generates_reference: bool  # frame 0 is denoised with the clip and dropped afterwards; else
    # conditioning, latents and what `denoise` gives are those of frames 1.. only
    repeats_noise: bool  # the initial noise is one window long

    def windows(self, num_frames: int, window: int, overlap: int) -> Windows:
        """Which frames are denoised together, of those that are generated."""
        ...

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """(h, w, c) of the latents of a picture of so many pixels."""
        ...

    def condition_reference(self, params: Params, reference: Array, key: Array) -> Conditioning:
        """What the reference (b, h, w, 3) alone decides; the per-frame parts are None."""
        ...

    def condition_frames(
        self, params: Params, skeletons: Array, signals: ControlSignals | None
    ) -> dict[str, object]:
        """The per-frame parts of a Conditioning for some of the frames that are generated.

        skeletons (b, n, h, w, 3); signals of the same frames, None for the base model alone. Every
        frame is encoded for itself, so a clip may be encoded some frames at a time.
        """
        ...

    def unconditional(self, conditioning: Conditioning, drop: Array) -> Conditioning:
        """Rows with drop (b,) bool lose what guidance takes away; the others stay."""
        ...

    def unpaired(self) -> Model:
        """The model for rows that are no halves of guidance: where its networks know rows in pairs,
        each is for itself."""
        ...

    def hoist(self, params: Params, conditioning: Conditioning) -> Conditioning:
        """Fill in what the networks would compute again at every step; an exact shortcut."""
        ...

    def denoise(
        self,
        params: Params,
        x: Array,
        t: Array,
        conditioning: Conditioning,
        *,
        deep: Deep | None = None,
        keep: bool = False,
    ) -> Array | tuple[Array, Deep]:
        """The network's output (b, f, h/8, w/8, c) for scaled latents x and times t (b,).

        keep: with what later calls on nearby latents of the same rows may take as deep, to run the
        finest level alone.
        """
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


def generated_frames(model: Model, num_frames: int) -> range:
    """Their numbers: all of the clip's, or all but the reference's."""
    return range(num_frames - generated(model, num_frames), num_frames)


def condition(
    model: Model,
    params: Params,
    reference: Array,
    skeletons: Array,
    signals: ControlSignals | None,
    key: Array,
    share: Callable = lambda tree: tree,
) -> Conditioning:
    """All that no step changes, of whole clips at once: what training does in its loss.

    reference (b, h, w, 3), skeletons (b, f, h, w, 3), both in -1..1; signals of the f frames, None
    for the base model alone. share: what shares the generated frames, leaves (b, n, ..), out over
    devices before they are encoded.
    """
    frames = slice(generated_frames(model, skeletons.shape[1]).start, None)
    if signals is not None:
        signals = signals.at(frames)
        signals = signals.replace(**share(signals.per_frame))
    parts = model.condition_frames(params, share(skeletons[:, frames]), signals)
    return model.condition_reference(params, reference, key).replace(**parts)
