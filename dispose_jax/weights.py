"""The weights of a run: bundles, later ones replacing earlier ones, and random networks.

Read network by network when a stage asks for them, so that each stage holds only its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import jax
import numpy as np

from dispose_jax.models import bundle, networks, sharing
from dispose_jax.models.network import Network
from dispose_jax.pose import dwpose
from dispose_jax.types import Params

RANDOM = "random"  # --weights random
ASSETS = Path(__file__).parents[1] / "assets"  # where a checkout keeps small models


def choose(given: Sequence[str] | None, config, assets: Path = ASSETS) -> tuple[str, ...]:
    """The weights of a run: those given, else the bundled ones of the config, else random ones.

    What the bundle of a config lacks is random. Raises ValueError for a config that has no bundled
    weights and is given none, for "random" after a folder, and where an installed package, which
    has no assets, would need them.
    """
    if given:
        if RANDOM in given[1:]:
            raise ValueError(
                f"--weights {','.join(given)}: 'random' comes first, folders replace it"
            )
        return tuple(given)
    if not config.bundled:
        raise ValueError(
            f"{config.name} needs --weights: a bundle made by python -m converters.convert to-flax "
            "--from WEIGHTS --to BUNDLE, or 'random' to try the program"
        )
    if not assets.is_dir():
        raise ValueError(
            f"{config.name} needs --weights here: its bundled weights are in the repository's "
            "assets/, not in an installed package; name a bundle, or 'random' to try the program"
        )
    return RANDOM, *bundled(config, assets)


def bundled(config, assets: Path = ASSETS) -> tuple[str, ...]:
    """Folders of assets that hold weights for a config, as far as they are there."""
    folders = [assets / name for name in config.bundled]
    return tuple(str(folder) for folder in folders if (folder / bundle.DESCRIPTION).exists())


def offered(folders: Sequence[str | Path], config) -> set[str]:
    """Names of the networks that bundles have for a config: of its base all, whether they fit or
    not, of another those that serve any base."""
    names = set()
    for content in map(bundle.describe, folders):
        if content["base"] == config.base:
            names |= set(content["networks"])
        else:
            names |= sharing.offers(content, config.model, config.quirks)
    return names


class Weights:
    """The networks of a config and where their weights come from.

    given: bundle folders, and RANDOM before them if what they lack is to be random. Raises
    ValueError unless every other network is there, whole, and made for this config: files are
    mapped, no weight is read.
    """

    def __init__(self, given: Sequence[str], built: Mapping[str, Network], config):
        self.folders = tuple(folder for folder in given if folder != RANDOM)
        self.random: tuple[str, ...] = ()
        self._built, self._seed = built, config.seed
        self._kept: Params = {}  # by network, on the host
        self._belongs = {"model": config.model, "quirks": config.quirks}
        if RANDOM in given:
            held = offered(self.folders, config)
            self.random = tuple(name for name in built if name not in held)
        if self.folders:
            bundled = [name for name in built if name not in self.random]
            bundle.load(self.folders, bundled, **self._belongs)

    def load(self, names: Iterable[str], sharding: jax.sharding.Sharding | None = None) -> Params:
        """Weights of those of the names that the config has, in the type each computes in.

        One tensor at a time goes from the host to where sharding says, by default to the first
        device.
        """
        own = [name for name in names if name in self._built]  # an ablation leaves some out
        place = lambda x: jax.device_put(x, sharding)
        return {name: jax.tree.map(place, self._on_host(name)) for name in own}

    def read(self, name: str) -> Params:
        """A network's weights on the host as they are: views of the mapped file in its types, or
        random ones in float32."""
        if name in self.random:
            return jax.device_get(networks.random({name: self._built[name]}, self._seed)[name])
        return bundle.load(self.folders, [name], **self._belongs)[name]

    def _on_host(self, name: str) -> Params:
        """A network's weights in the type that it computes in: views of the mapped file, or copies
        that are kept where they are random or the file has another type."""
        if name not in self._kept:
            dtype = self._built[name].dtype
            # On the host, as every shape of a tensor would be a program on a device.
            cast = lambda x: np.asarray(x).astype(dtype, copy=False)
            self._kept[name] = jax.tree.map(cast, self.read(name))
        return self._kept[name]

    @property
    def digests(self) -> dict[str, str]:
        """SHA-256 of every network that the config has, "random" for one that is."""
        bundled = [name for name in self._built if name not in self.random]
        found = bundle.owners(self.folders, bundled, **self._belongs) if bundled else {}
        digests = {name: entry["sha256"] for name, (_, entry) in found.items()}
        return digests | dict.fromkeys(self.random, RANDOM)

    @property
    def pose_folder(self) -> Path | None:
        """The folder that holds DWPose's files, if one does."""
        found = bundle.pose_file(self.folders, dwpose.DETECTOR)
        return found.parent if found else None
