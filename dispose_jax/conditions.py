"""What no step of denoising changes of a clip: its reference's part, then that of every frame.

DisPose's control signals enter here, and can be made alone to be looked at. Each part asks for the
weights of its own networks and holds them for its own call alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import jax
import numpy as np

from dispose_jax import control_signals, memory, sampling, windowed
from dispose_jax.clip import Clip
from dispose_jax.control_signals import Recipe
from dispose_jax.diffusion import windows
from dispose_jax.models.protocol import Model, generated
from dispose_jax.types import Array, Conditioning, ControlSignals, Params

# A stage's name and how much it has to do -> its progress, None where nobody wants it.
Begin = Callable[[str, int], sampling.Progress | None]


@dataclass(frozen=True)
class Conditioner:
    """Makes the conditions of clips, on the host.

    recipe: of control signals; controlled: whether one enters the model. load: gives the weights of
    the networks named, whole on every device. devices: those that share the frames, all for None.
    """

    model: Model
    recipe: Recipe
    controlled: bool
    load: Callable[[Sequence[str]], Params]
    devices: Sequence[jax.Device] | None

    def conditions(self, clip: Clip, key: Array, signal_key: Array, begin: Begin) -> Conditioning:
        """All of a clip. The keys draw the noise on the reference and that of point features.

        Raises OutOfMemory with what helps.
        """
        with memory.explained("conditioning", self._helps):
            report = begin("conditioning", 1)
            shared = sampling.condition_reference(
                self.model, self.load(self.model.stages["reference"]), clip.reference, key
            )
            if report is not None:
                report(1, 1)
            return shared.replace(**self._of_frames(clip, signal_key, begin))

    def fields(self, clip: Clip) -> Iterator[ControlSignals]:
        """See Animator.fields."""
        place = windowed.placement(self.devices)
        blocks = windows.blocks(range(len(clip.skeletons)), place.rows, self.recipe.chunk)
        with memory.explained("making control signals", self._helps):
            make = self._signals(clip, place, None)
            for numbers, count in blocks:
                signals = jax.device_get(make(numbers))
                flat = lambda x, count=count: x.reshape(1, -1, *x.shape[2:])[:, :count]
                yield signals.replace(**jax.tree.map(flat, signals.per_frame), point_features=None)

    def _of_frames(self, clip: Clip, key: Array, begin: Begin) -> dict[str, object]:
        """The per-frame parts; the key draws the noise of point features."""
        report = begin("control signals", generated(self.model, len(clip.skeletons)))
        points = control_signals.point_features(
            self.recipe, self.load(self.recipe.dift_networks), clip.reference, clip.pose, key
        )
        make = lambda numbers: None
        if self.controlled:
            make = self._signals(clip, windowed.placement(self.devices), points)
        return sampling.condition_frames(
            self.model,
            self.load(self.model.stages["frames"]),
            len(clip.skeletons),
            lambda numbers: (clip.skeletons[numbers], make(numbers)),
            self.recipe.chunk,
            devices=self.devices,
            progress=report,
        )

    def _signals(
        self, clip: Clip, place: windowed.Placement, points: Array | None
    ) -> Callable[[np.ndarray], ControlSignals]:
        """A function from frame numbers (rows, n) to their signals, rows spread over the devices;
        points: features of the reference's joints, None where nobody looks at them."""
        params = self.load(self.recipe.cmp_networks)
        given = clip.reference, clip.pose, points
        return control_signals.maker(self.recipe, params, *given, place.whole, place.spread)

    @property
    def _helps(self) -> str:
        """What lets conditions and control signals do with less memory."""
        chunks = f"--config.motion.chunk (now {self.recipe.chunk})"
        if self.recipe.dift is not None:
            chunks += f" or --config.dift.chunk (now {self.recipe.dift.chunk})"
        return f"lower {chunks}, or choose a smaller picture"
