"""The denoising loop of the second base against the released pipeline: pose guider, reference,
windows, guidance, DDIM steps."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from configs import sd15
from converters import mapping, rules
from dispose_jax import sampling
from dispose_jax.diffusion.samplers import Ddim
from dispose_jax.models import networks, registry
from tests import small
from tests.parity.cases import assert_close, load_case, load_manifest, weights


def channels_first(x) -> np.ndarray:
    """(1, f, h, w, c) -> the original's (1, c, f, h, w)."""
    return np.moveaxis(np.asarray(x), -1, 1)


class Given:
    """Stands for an encoder whose output the case states."""

    def __init__(self, output):
        self.output = output

    def apply(self, *_, **__):
        return self.output


def config_of(case):
    """The released numbers with the sizes of the case; motion modules as they always are."""
    about, config = case.config, sd15.get_config("variant=base")
    unet = about["unet"]
    config.model.unet = {
        "channels": tuple(unet["block_out_channels"]),
        "heads": (unet["attention_head_dim"],) * len(unet["block_out_channels"]),
        "layers": unet["layers_per_block"],
        "groups": unet["norm_num_groups"],
    }
    config.model.image_encoder.projection = unet["cross_attention_dim"]
    guider = load_manifest(case.about["manifest"][2])["tensors"]
    narrow = guider["conv_in.weight"][0][0]
    config.model.pose_encoder.widths = (
        narrow,
        *(guider[f"blocks.{i}.weight"][0][0] for i in (1, 3, 5)),
    )
    config.sample.betas = about["scheduler"]["beta_schedule"]
    config.sample.window_stride = about["context_stride"]
    return config


@pytest.fixture(scope="module")
def loop():
    case = load_case("musepose_denoise_loop.tiny")
    config = config_of(case)
    assert case.config["scheduler"]["rescale_betas_zero_snr"] == Ddim().zero_terminal
    built = networks.build(config)
    base = registry.build(config, built)
    moments = np.moveaxis(case.inputs["reference_latents"], 1, -1)[:, None]
    model = replace(
        base,
        image_encoder=Given(case.inputs["image_embeds"]),
        vae=Given((moments, np.zeros_like(moments))),
        latent_scale=1.0,  # those of the case are scaled
    )
    denoiser, reference, guider = (weights(case, name) for name in case.about["manifest"])
    spellings = {
        "unet": (rules.UNET_PICTURE, denoiser),
        "motion_modules": (rules.MOTION_MODULES, denoiser),
        "reference": (rules.UNET_PICTURE, reference),
        "pose_encoder": (rules.PLAIN, guider),
    }
    params = {"image_encoder": {}, "vae": {}}
    for name, (spelling, tensors) in spellings.items():
        entries = mapping.derive(built[name].shapes, *spelling)
        params[name] = mapping.to_flax(entries, tensors)
    skeletons = case.inputs["pose_images_small"].repeat(8, axis=1).repeat(8, axis=2)
    skeletons = np.concatenate([skeletons[:1], skeletons])  # that of the reference is not read
    picture = np.zeros(skeletons.shape[1:], np.uint8)  # read by the encoders that are given
    conditioning = sampling.condition(
        model, params, picture, skeletons, None, small.key(0), devices=jax.devices()[:1]
    )
    return SimpleNamespace(case=case, model=model, params=params, conditioning=conditioning)


@pytest.mark.parametrize("banks", ["float32", pytest.param("float16", marks=pytest.mark.full)])
def test_latents_after_every_step_equal_the_released_ones(loop, banks):
    case, config = loop.case, loop.case.config
    prefix, tolerance = "", case.about["tolerance"]["value"]
    conditioning = loop.conditioning
    if banks == "float16":  # the released default, which ours does not follow
        prefix, tolerance = "half_bank.", case.about["tolerance"]["half_bank_outputs"]
        rounded = lambda x: x.astype(np.float16).astype(np.float32)
        conditioning = conditioning.replace(reference=jax.tree.map(rounded, conditioning.reference))
    sampler = sampling.Sampler(
        steps=config["steps"],
        window=config["context_frames"],
        overlap=config["context_overlap"],
        guidance_scale=config["guidance_scale"],
    )
    noise = np.moveaxis(case.inputs["initial_latents"], 1, -1)
    found = []
    sampling.sample(
        loop.model,
        loop.params,
        conditioning,
        noise,
        sampler,
        watch=lambda step, latents, clean: found.append(latents),
        devices=jax.devices()[:1],
    )
    assert len(found) == config["steps"]
    for step, latents in enumerate(found):
        name = f"{prefix}latents_after_step_{step}"
        assert_close(case, name, channels_first(latents), tolerance)
