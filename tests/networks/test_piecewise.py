"""Decoding a clip in pieces against decoding it at once, with the same parameters."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dispose_jax.flops import live_bytes, work
from dispose_jax.networks import piecewise
from dispose_jax.networks.norms import GroupNorm
from dispose_jax.networks.resnet import SpatioTemporalResnetBlock, Upsample
from dispose_jax.networks.vae import VAE
from tests.drawn import drawn

PARTS = dict(epsilon=1e-6, temporal_epsilon=1e-5, groups=4)


class Enlarged(nn.Module):
    """A block whose input another module's layer enlarges, as the decoder has it."""

    in_pieces: bool

    @nn.compact
    def __call__(self, x):
        enlarge = Upsample(x.shape[-1], name="enlarge")
        if self.in_pieces:
            return piecewise.PiecewiseResnetBlock(8, **PARTS, enlarge=enlarge, name="block")(x)
        block = SpatioTemporalResnetBlock(8, **PARTS, switched=True, name="block")
        return block(enlarge(x))


def test_a_block_in_pieces_has_the_same_parameters_result_and_gradient():
    """Two clips, more channels in than out; 12 rows are 4 pieces, frames' neighbours count."""
    x = 3 + jax.random.normal(jax.random.key(0), (2, 3, 6, 4, 12))  # a mean that is not small
    whole, pieces = Enlarged(False), Enlarged(True)
    params = drawn(whole, x)
    shapes = jax.eval_shape(pieces.init, jax.random.key(1), x)["params"]
    assert jax.tree.map(jnp.shape, shapes) == jax.tree.map(jnp.shape, params)

    def loss(params, x, module):
        y = module.apply({"params": params}, x)
        return jnp.sin(y).sum(), y

    gradient = jax.jit(jax.grad(loss, (0, 1), has_aux=True), static_argnums=2)
    (wanted, once), (found, stepwise) = gradient(params, x, whole), gradient(params, x, pieces)
    np.testing.assert_allclose(stepwise, once, atol=1e-5)
    for slope, other in zip(jax.tree.leaves(wanted), jax.tree.leaves(found)):
        np.testing.assert_allclose(other, slope, rtol=1e-4, atol=1e-4)


def test_norms_of_pieces_are_those_of_the_clip():
    x = 100 + jax.random.normal(jax.random.key(2), (1, 3, 8, 2, 12))
    norm = GroupNorm(1e-5, groups=4)
    flat = lambda x: x.reshape(1, 3, -1, 12)
    params = {"params": drawn(norm, flat(x))}
    moments = piecewise.moments_of_rows(x, 2, 4)
    found = [norm.apply(params, flat(x[:, :, i : i + 2]), moments) for i in range(0, 8, 2)]
    wanted = norm.apply(params, flat(x))
    np.testing.assert_allclose(jnp.concatenate(found, 2), wanted, atol=1e-4)


def test_pieces_are_written_over_an_array_that_is_there():
    class Doubled(nn.Module):
        @nn.compact
        def __call__(self, x, y):
            step = lambda self, old, x: old + 2 * x
            return piecewise.in_turn(step, self, y, x, axis=1, size=2)

    x, y = np.random.default_rng(0).normal(size=(2, 3, 6, 2)).astype(np.float32)
    np.testing.assert_allclose(Doubled().apply({}, x, y), y + 2 * x, rtol=1e-6)
    blank = piecewise.blank(jnp.asarray(x), 4, 5)
    assert blank.shape == (3, 4, 5) and (np.ptp(blank, axis=(1, 2)) == 0).all()


@pytest.mark.full
@pytest.mark.parametrize("channels", [0, 8, 16], ids=["all", "full_resolution", "widest_only"])
def test_a_decoder_in_pieces_gives_the_same_pictures(monkeypatch, channels):
    """Every split of the decoder into blocks at once and blocks in pieces."""
    vae = VAE(temporal=True, widths=(8, 16), latent_channels=3, layers=1, groups=4)
    latents = jax.random.normal(jax.random.key(3), (2, 3, 4, 6, 3))
    params = {"params": drawn(vae, latents, method="decode")}
    decode = lambda: jax.jit(lambda x: vae.apply(params, x, True, method="decode"))(latents)
    once = decode()
    monkeypatch.setattr(piecewise, "_LARGE", 3 * 8 * 12 * channels * 4)
    np.testing.assert_allclose(decode(), once, atol=2e-5)


def test_a_chunk_at_full_size_needs_less_than_8_gib(monkeypatch):
    """Eight frames of 576 x 1024 in float32 with the released widths; nothing more is computed."""
    vae = VAE(widths=(128, 256, 512, 512), latent_channels=4, layers=2, groups=32, temporal=True)
    latents = jax.ShapeDtypeStruct((1, 8, 72, 128, 4), jnp.float32)
    make = lambda key, x: vae.init(key, x, method="decode")
    params = jax.eval_shape(make, jax.random.key(0), latents)

    def counts():
        decode = lambda params, x: vae.apply(params, x, True, method="decode")
        program = jax.make_jaxpr(decode)(params, latents).jaxpr
        return live_bytes(program), work(program).executed

    held, computed = counts()
    assert held < 8 * 2**30
    monkeypatch.setattr(piecewise, "_LARGE", 2**40)
    held_at_once, computed_at_once = counts()
    assert held_at_once > 2 * held
    assert computed == computed_at_once
