"""The autoencoders against the original ones, with converted keyed weights."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from converters import rules
from tests.parity import modules
from tests.parity.cases import Case, assert_close, convert, load_case, weights


def build(case: Case):
    """The module and its converted weights."""
    vae = modules.vae(case.config)
    spelling = rules.VAE_VIDEO if vae.temporal else rules.PLAIN
    return vae, {"params": convert(weights(case), spelling, vae, jnp.zeros((1, 1, 16, 16, 3)))}


def channels_first(x) -> np.ndarray:
    """(..., h, w, c) -> (n, c, h, w), the layout of the goldens."""
    x = np.asarray(x)
    return np.moveaxis(x.reshape(-1, *x.shape[-3:]), -1, 1)


@pytest.mark.parametrize("name", ["svd_vae.tiny", "svd_vae_eps.tiny", "sd15_vae.tiny"])
def test_autoencoder_gives_the_original_latents_and_pictures(name):
    case = load_case(name)
    vae, params = build(case)
    tolerance = case.about["tolerance"]["float32"]
    images = np.moveaxis(case.inputs["image"], 1, -1)
    latents = np.moveaxis(case.inputs["latents"], 1, -1)

    encode, decoded = (jax.jit(partial(vae.apply, method=m)) for m in ("encode", "decode"))
    mean, logvar = encode(params, images)
    moments = {"mean": mean, "mode": mean, "logvar": logvar}
    for output in moments.keys() & case.outputs.keys():
        assert_close(case, output, channels_first(moments[output]), tolerance)

    def decode(num_frames):
        """Consecutive clips of num_frames, the last one shorter if the count does not divide."""
        clips = [latents[i : i + num_frames] for i in range(0, len(latents), num_frames)]
        frames = [decoded(params, clip[None])[0] for clip in clips]
        return channels_first(np.concatenate(frames))

    for output in case.outputs.keys() - moments.keys():
        if output == "decode_chunked":
            num_frames = case.config["chunk"]
        else:  # decode_framesK says its K; otherwise all latents are one clip
            num_frames = int(output.removeprefix("decode").removeprefix("_frames") or len(latents))
        assert_close(case, output, decode(num_frames), tolerance)
