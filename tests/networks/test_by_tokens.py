"""Networks whose layers go by blocks of tokens, as on a TPU, are what they are at once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dispose_jax.networks import by_tokens
from dispose_jax.networks.attention import TransformerBlock, one_token_values
from dispose_jax.networks.resnet import SpatioTemporalResnetBlock
from dispose_jax.networks.temporal import MotionModule, SpatioTemporalTransformer
from dispose_jax.ops import blocks


def inputs(*shapes):
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.standard_normal(shape, np.float32)) for shape in shapes]


CASES = {
    "spatial": (TransformerBlock(2), (4, 3, 48, 8), (4, 5, 6), 1),
    "spatio-temporal": (
        SpatioTemporalTransformer(2, groups=2, context_group=2),
        (4, 3, 6, 8, 8),
        (4, 1, 6),
        2,
    ),
    "several tokens": (SpatioTemporalTransformer(2, groups=2), (2, 3, 6, 8, 8), (2, 5, 6), 2),
    "resnet": (SpatioTemporalResnetBlock(8, 1e-5, 1e-5, groups=2), (2, 3, 6, 8, 8), (2, 4), 2),
    "motion": (MotionModule(2, 2, 8), (2, 3, 6, 8, 8), None, 1),
}


@pytest.fixture(params=CASES)
def case(request):
    """Module, variables, arguments, and how many parts of it go by blocks."""
    module, *shapes, parts = CASES[request.param]
    args = inputs(*filter(None, shapes))
    params = jax.jit(module.init)(jax.random.key(0), *args)["params"]
    # No output that starts at zero hides what is before it.
    params = jax.tree.map(lambda x: x + 0.1 * jnp.cos(jnp.arange(x.size)).reshape(x.shape), params)
    return module, params, args, parts


def test_results_and_gradients_are_the_same(case, monkeypatch):
    module, params, args, parts = case

    def run():
        """The result, and gradients of a function of it; traced anew."""

        def loss(params, args):
            result = module.apply({"params": params}, *args)
            return jnp.sin(result).sum(), result

        (value, result), gradients = jax.jit(
            jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
        )(params, args)
        return result, (value, gradients)

    whole, expected = run()
    asked = []
    split = lambda x, width: asked.append(x.shape) or blocks.Blocks(16, 8)
    monkeypatch.setattr(by_tokens, "blocks_of", split)
    result, graded = run()
    np.testing.assert_allclose(result, whole, rtol=0, atol=2e-5)
    assert len(asked) == parts and all(shape[-2] == 48 for shape in asked)
    for one, other in zip(jax.tree.leaves(graded), jax.tree.leaves(expected)):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-4 * max(1, np.abs(other).max()))


def test_constant_cross_attention_that_is_given_reaches_the_blocks(monkeypatch):
    module, shape, context, _ = CASES["spatio-temporal"]
    x, context = inputs(shape, context)
    variables = jax.jit(module.init)(jax.random.key(0), x, context)
    cross = one_token_values(variables["params"], context, jnp.float32)
    given = {**variables, "cross": cross}
    apply = lambda *given: jax.jit(lambda *given: module.apply(*given))(*given)  # traced anew
    expected = apply(given, x, context)
    np.testing.assert_allclose(expected, apply(variables, x, context), atol=1e-5)
    monkeypatch.setattr(by_tokens, "blocks_of", lambda x, width: blocks.Blocks(16, 16))
    # The context itself is not looked at any more.
    ours = apply(given, x, jnp.full_like(context, jnp.nan))
    np.testing.assert_allclose(ours, expected, rtol=0, atol=2e-5)
