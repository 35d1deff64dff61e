"""The model of a config: the one place that knows which bases there are."""

from __future__ import annotations

from collections.abc import Mapping

from dispose_jax.models import mimicmotion, musepose
from dispose_jax.models.network import Network
from dispose_jax.models.protocol import Model

_BASES = {"svd": mimicmotion, "sd15": musepose}


def build(config, networks: Mapping[str, Network], *, training: bool = False) -> Model:
    """The model that `config.base` names, from its networks (models/networks.py).

    training: as training conditions it, see the models.
    """
    modules = {name: network.module for name, network in networks.items()}
    return _BASES[config.base].build(config, modules, training=training)
