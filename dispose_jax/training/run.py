"""A training run as it is asked for: its settings, and what they are built into.

Which networks learn from what is `start`'s, what is done with them is `loop`'s.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import jax

from dispose_jax.models import networks
from dispose_jax.training import multihost, objectives, optimizer, sharding

TRAINING, SHOWING, VALIDATING = range(3)  # purposes of the seed


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
    stopped: bool = field(default=False, init=False)  # after the step that is going on
    breaks: bool = field(default=False, init=False)  # at once, if it is told to stop

    def __post_init__(self):
        config = self.config
        self.mesh = sharding.make_mesh(config)
        dtype = networks.compute_dtype(config.train.dtype)
        self.networks = networks.build(config, dtype, training=True)
        share = sharding.share_frames(self.mesh)
        self.objective = objectives.build(config, self.networks, share)
        self.trainable = tuple(config.train.trainable)
        self.optimizer = optimizer.build(config.train)
        self.place = partial(sharding.of_tree, self.mesh, smallest=config.train.mesh.smallest)
        if not multihost.is_lead():
            self.say = lambda _: None

    def key(self, purpose: int) -> jax.Array:
        return jax.random.fold_in(jax.random.key(self.config.seed), purpose)
