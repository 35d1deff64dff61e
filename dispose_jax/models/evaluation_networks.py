"""The networks that only measure, by name: modules of one size each, whatever the config.

Their names are those of a bundle's files; which released file each comes from is in the converters'
table. RAFT is there twice: its authors' weights, which VBench uses, and torchvision's.
"""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp

from dispose_jax.models.network import Network
from dispose_jax.models.networks import flow_network
from dispose_jax.networks.clip import VisionTransformer
from dispose_jax.networks.evaluation.i3d import I3D
from dispose_jax.networks.evaluation.lpips import TRUNKS, Heads, Trunk
from dispose_jax.networks.evaluation.resnet3d import ResNet3D
from dispose_jax.networks.evaluation.vit import DINO, AestheticHead, VideoMAE

_CLIP_B32 = {"width": 768, "layers": 12, "heads": 12, "hidden": 3072, "projection": 512}
_CLIP_L14 = {"width": 1024, "layers": 24, "heads": 16, "hidden": 4096, "projection": 768}


def _made(module, *shapes: tuple[int, ...]) -> Network:
    inputs = [jnp.zeros(shape) for shape in shapes]
    return Network(module, lambda key: module.init(key, *inputs), jnp.float32)


def _clip(patch: int, **sizes) -> Network:
    tower = VisionTransformer(**sizes, patch=patch, activation="quick_gelu")
    return _made(tower, (1, 224, 224, 3))


def _heads(kind: str) -> Network:
    taps = [layer.features for layer in TRUNKS[kind] if layer.is_tap]
    maps = tuple(jnp.zeros((1, 1, 1, channels)) for channels in taps)
    module = Heads()
    return Network(module, lambda key: module.init(key, maps, maps), jnp.float32)


_MADE: dict[str, Callable[[], Network]] = {
    "alexnet": lambda: _made(Trunk("alex"), (1, 64, 64, 3)),
    "vgg16": lambda: _made(Trunk("vgg"), (1, 32, 32, 3)),
    "lpips_alex": lambda: _heads("alex"),
    "lpips_vgg": lambda: _heads("vgg"),
    "i3d": lambda: _made(I3D(), (1, 16, 224, 224, 3)),
    "resnet3d": lambda: _made(ResNet3D(), (1, 16, 112, 112, 3)),
    "videomae": lambda: _made(VideoMAE(), (1, 16, 224, 224, 3)),
    "dino": lambda: _made(DINO(), (1, 224, 224, 3)),
    "clip_b32": lambda: _clip(32, **_CLIP_B32),
    "clip_l14": lambda: _clip(14, **_CLIP_L14),
    "aesthetic": lambda: _made(AestheticHead(), (1, 768)),
    "raft_things": flow_network,
    "raft": flow_network,
}
NAMES = tuple(_MADE)


def build(name: str) -> Network:
    """A network of NAMES."""
    return _MADE[name]()
