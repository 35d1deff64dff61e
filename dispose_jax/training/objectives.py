"""What a stage of training minimises, which networks it reads, and what it makes in the end."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import NamedTuple

import numpy as np
from jax.sharding import NamedSharding
from ml_collections import FrozenConfigDict

from dispose_jax import control_signals
from dispose_jax.correspondence import dift
from dispose_jax.models import registry
from dispose_jax.models.network import Network
from dispose_jax.training import previews
from dispose_jax.training.losses import cmp, image, video
from dispose_jax.training.step import Loss
from dispose_jax.types import Array, Batch, Params

Show = Callable[[Params, Batch, Array, NamedSharding], np.ndarray]
Finish = Callable[[Params, Iterable[Batch]], Params]


class Objective(NamedTuple):
    """A loss over the networks named, a picture of what they can do, and the last touch.

    show(all params where they lie, a batch, key, the mesh's sharding of what all devices have) ->
    (h, w, 3) uint8, in every process (previews.py). finish(trained params, some training batches)
    -> what the bundle gets; it may hold more networks. goes_on: networks that learn but cannot
    start from nothing. starts_from: networks that others are copied from.
    """

    networks: tuple[str, ...]
    loss: Loss
    show: Show
    finish: Finish = lambda params, batches: params
    goes_on: tuple[str, ...] = ()
    starts_from: tuple[str, ...] = ()


def build(
    config, networks: Mapping[str, Network], share: Callable = lambda tree: tree
) -> Objective:
    """The objective that `config.train` names; share: see VideoLoss.

    Raises ValueError if a network that is to learn does not exist in this configuration, or has no
    part in the objective.
    """
    train = config.train
    for name in NEEDED.get(train.objective, ()):
        if name not in networks:
            raise ValueError(
                f"stage={train.stage} needs the network {name}, which this variant of the model "
                "does not have; leave variant out of the config's argument"
            )
    makers = {
        "video": partial(_video, share=share),
        "autoencoder": _autoencoder,
        "image": _image,
        "cmp": _cmp,
    }
    objective = makers[train.objective](config, networks)
    if not train.trainable:
        raise ValueError(
            "train.trainable names no network: variant=base has nothing of DisPose that could "
            "learn; train the base model with stage=base, or choose another variant"
        )
    for name in train.trainable:
        if name not in objective.networks:
            raise ValueError(
                f"train.trainable names {name!r}, which has no part in this run; it may name "
                f"{', '.join(objective.networks)}"
            )
    return objective


def _video(config, networks: Mapping[str, Network], share: Callable) -> Objective:
    """The error of noised clips, of a base model or of DisPose on it."""
    model = registry.build(config, networks, training=True)
    if config.train.sigmas not in model.schedule.draws:
        raise ValueError(
            f"train.sigmas is {config.train.sigmas!r}, which are no noise levels of this base; "
            f"expected {' or '.join(map(repr, model.schedule.draws))}"
        )
    controlled = config.control.motion or config.control.points
    recipe = control_signals.build(config, networks) if controlled else None
    stages = (*model.stages.values(), recipe.networks if controlled else ())
    wanted = {name for stage in stages for name in stage}
    used = tuple(name for name in networks if name in wanted)
    loss = video.VideoLoss(model, recipe, FrozenConfigDict(config.train), share)
    start = config.train.control_start
    if start not in CONTROL_STARTS[config.base]:
        raise ValueError(
            f"train.control_start is {start!r}, a U-Net of another base; expected "
            f"{' or '.join(map(repr, CONTROL_STARTS[config.base]))}"
        )
    copied = "controlnet" in config.train.trainable and start not in ("auto", *used)
    return Objective(
        used,
        loss,
        partial(previews.animation, loss, FrozenConfigDict(config)),
        starts_from=(start,) if copied else (),
    )


def _autoencoder(config, networks: Mapping[str, Network]) -> Objective:
    """The error of pictures; of a decoder alone, of whole windows."""
    vae, train = networks["vae"].module, config.train
    loss = image.AutoencoderLoss(
        vae, train.kl_weight, train.figure_weight, train.face_weight, train.decoder_only
    )
    show_some = partial(previews.reconstructions, vae)
    if train.decoder_only:
        if train.weight_decay:
            raise ValueError(
                f"train.weight_decay is {train.weight_decay}, which would change the encoder that "
                "stage=decoder leaves as it is; set it to 0"
            )
        return Objective(("vae",), loss, show_some, goes_on=("vae",))

    def finish(params: Params, batches: Iterable[Batch]) -> Params:
        scale = config.model.vae.scale
        scaled = image.with_unit_power(vae, params["vae"], batches, scale)
        return {"vae": scaled, "dift_vae": image.encoder_of(scaled)}

    return Objective(("vae",), loss, show_some, finish)


def _image(config, networks: Mapping[str, Network]) -> Objective:
    recipe = control_signals.build(config, networks).dift
    return Objective(dift.NETWORKS, image.ImageLoss(recipe), partial(previews.features, recipe))


def _cmp(config, networks: Mapping[str, Network]) -> Objective:
    """The error of completed flow. Raises ValueError without exact flow to learn from."""
    if config.data.source != "synthetic":
        raise ValueError(
            f"stage=cmp learns from exact flow, which only drawn people have, and data.source is "
            f"{config.data.source!r}; give --config.data.source=synthetic"
        )
    loss = cmp.CompletionLoss(
        networks["cmp"].module, config.motion.cmp_size, config.train.figure_weight
    )

    def finish(params: Params, batches: Iterable[Batch]) -> Params:
        return {"cmp": cmp.with_averages(loss, params["cmp"], batches)}

    return Objective(("cmp",), loss, partial(previews.completions, loss), finish)


# What the ControlNet of a base may start from; "auto": see start.control_start.
CONTROL_STARTS = {"svd": ("auto", "svd_encoder", "unet"), "sd15": ("dift_unet", "unet")}
NEEDED = {"image": ("dift_unet",), "cmp": ("cmp",)}  # networks that not every variant has
