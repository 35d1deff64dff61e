"""Learning rates and updates against formulas, an AdamW written out, and PyTorch's."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from configs import svd
from dispose_jax.training import optimizer


def settings(**changes) -> ConfigDict:
    """The released size's settings with some changed."""
    train = svd.get_config("size=full").train
    train.update(changes)
    return train


def rates(count: int, **changes) -> np.ndarray:
    """Of the first steps."""
    rate = optimizer.learning_rate(settings(**changes))
    return np.array([float(rate(i)) for i in range(count)])


def test_the_rate_rises_evenly_and_then_stays():
    found = rates(9, learning_rate=2e-5, warmup=4, decay="constant")
    np.testing.assert_allclose(found, 2e-5 * np.minimum(np.arange(9) / 4, 1), rtol=1e-6)


def test_the_rate_falls_along_a_cosine_to_zero_at_the_last_step():
    found = rates(13, learning_rate=1e-3, warmup=2, steps=12, decay="cosine")
    left = np.arange(11) / 10
    np.testing.assert_allclose(found[:2], [0, 5e-4], rtol=1e-6)
    np.testing.assert_allclose(found[2:], 1e-3 * np.cos(np.pi * left / 2) ** 2, atol=1e-9)


def test_without_warm_up_the_first_step_has_the_whole_rate():
    assert rates(1, learning_rate=3e-4, warmup=0, decay="constant")[0] == pytest.approx(3e-4)
    assert rates(1, learning_rate=3e-4, warmup=0, decay="cosine")[0] == pytest.approx(3e-4)


def gradients(count: int) -> list[dict]:
    """Of a convolution, its bias and a norm's scale; the third is large."""
    rng = np.random.default_rng(0)
    made = [
        {"kernel": rng.normal(size=(3, 2)), "bias": rng.normal(size=2), "scale": rng.normal(size=1)}
        for _ in range(6)
    ]
    made[2] = jax.tree.map(lambda x: 50 * x, made[2])
    return [jax.tree.map(np.float32, gradient) for gradient in made[:count]]


def start() -> dict:
    return {"kernel": np.full((3, 2), 2.0, np.float32), "bias": np.float32([1, -1])} | {
        "scale": np.float32([3])
    }


SETTINGS = dict(
    learning_rate=1e-2, warmup=2, decay="constant", weight_decay=0.1, clip=1.5, b1=0.9, b2=0.99
)


def ours(count: int, **changes) -> dict:
    """Parameters after some steps."""
    transform = optimizer.build(settings(**SETTINGS | changes))
    params = jax.tree.map(jnp.asarray, start())
    state = transform.init(params)
    for gradient in gradients(count):
        updates, state = transform.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
    return params


def test_updates_are_those_of_adamw_with_clipped_gradients_and_decay_on_every_tensor():
    """Loshchilov & Hutter 2019, algorithm 2, one step after another in float64."""
    params = jax.tree.map(np.float64, start())
    first = second = jax.tree.map(np.zeros_like, params)
    for i, gradient in enumerate(gradients(6)):
        norm = np.sqrt(sum((leaf.astype(np.float64) ** 2).sum() for leaf in gradient.values()))
        gradient = jax.tree.map(lambda x, n=norm: x * min(1.0, 1.5 / n), gradient)
        first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, first, gradient)
        second = jax.tree.map(lambda v, g: 0.99 * v + 0.01 * g * g, second, gradient)
        rate, t = 1e-2 * min(i / 2, 1), i + 1

        def step(p, m, v, rate=rate, t=t):
            direction = (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.99**t)) + 1e-8)
            return p - rate * (direction + 0.1 * p)

        params = jax.tree.map(step, params, first, second)
    found = ours(6)
    for name, expected in params.items():
        np.testing.assert_allclose(found[name], expected, rtol=2e-5, err_msg=name)


def test_gradients_below_the_limit_are_not_scaled():
    one, other = ours(2, clip=1e6), ours(2, clip=2e6)
    jax.tree.map(np.testing.assert_array_equal, one, other)
    clipped = ours(3, clip=0.1, b2=0.999)
    assert any(np.any(clipped[name] != ours(3, clip=1e6, b2=0.999)[name]) for name in clipped)


def test_muon_steps_by_the_nearest_orthogonal_matrix_of_all_that_a_convolution_sees():
    """Of the first gradient; the five iterations bring singular values to about 1 (Jordan 2024)."""
    settings_of_muon = SETTINGS | {"optimizer": "muon", "warmup": 0, "weight_decay": 0.0}
    transform = optimizer.build(settings(**settings_of_muon))
    gradient = np.random.default_rng(1).normal(size=(3, 3, 4, 6)).astype(np.float32)
    params = {"conv1": {"kernel": jnp.zeros_like(gradient)}}
    updates, _ = transform.update({"conv1": {"kernel": gradient}}, transform.init(params), params)
    rows = np.asarray(updates["conv1"]["kernel"], np.float64).reshape(36, 6)
    scale = 0.2 * np.sqrt(36) * 1e-2  # as long as AdamW's steps, for this shape and rate
    u, _, vt = np.linalg.svd(gradient.reshape(36, 6), full_matrices=False)
    inside = -(u.T @ rows @ vt.T) / scale
    assert np.all((0.6 < np.diag(inside)) & (np.diag(inside) < 1.3))
    np.testing.assert_allclose(inside - np.diag(np.diag(inside)), 0, atol=1e-4)


def test_stacks_of_equal_matrices_learn_as_each_would_by_itself():
    """Optax's Muon with a convolution's axes named tensor by tensor, which compiles longer."""
    rng = np.random.default_rng(2)
    shapes = {"a": (3, 3, 4, 6), "b": (36, 6), "c": (6, 36), "d": (5, 5), "e": (1, 1, 5, 5)}
    tree = lambda: {
        name: {"kernel": rng.normal(size=shape).astype(np.float32), "bias": np.float32([1.0])}
        for name, shape in shapes.items()
    }
    options = SETTINGS | {"optimizer": "muon", "weight_decay": 0.1, "clip": 1e9}
    one = lambda x: optax.contrib.MuonDimensionNumbers(tuple(range(x.ndim - 1)), x.ndim - 1)
    alone = optax.contrib.muon(
        optimizer.learning_rate(settings(**options)),
        weight_decay=0.1,
        adam_weight_decay=0.1,
        adam_b2=0.99,
        consistent_rms=0.2,
        muon_weight_dimension_numbers=lambda params: {
            name: {"kernel": one(layer["kernel"]), "bias": None} for name, layer in params.items()
        },
    )
    params, given = tree(), [tree() for _ in range(3)]
    learnt = []
    for transform in (optimizer.build(settings(**options)), alone):
        now = jax.tree.map(jnp.asarray, params)
        state = transform.init(now)
        for gradient in given:
            updates, state = transform.update(gradient, state, now)
            now = optax.apply_updates(now, updates)
        learnt.append(now)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=2e-6), *learnt)
    moved = jax.tree.map(lambda x, y: np.abs(x - y).max(), learnt[0], params)
    assert min(jax.tree.leaves(moved)) > 1e-3


def test_beside_muon_the_ends_of_a_network_and_what_is_no_matrix_follow_adamw_with_nesterov():
    tree = lambda x: {
        "conv_out": {"kernel": x["kernel"], "bias": x["bias"]},
        "norm": {"scale": x["scale"]},
        "table": {"embedding": x["kernel"]},
    }
    options = SETTINGS | {"optimizer": "muon", "decay": "constant", "epsilon": 0.1}
    rate = optimizer.learning_rate(settings(**options))
    adamw = optax.adamw(rate, b1=0.9, b2=0.99, eps=0.1, weight_decay=0.1, nesterov=True)
    followed = []
    for transform in (
        optimizer.build(settings(**options)),
        optax.chain(optax.clip_by_global_norm(1.5), adamw),
    ):
        params = jax.tree.map(jnp.asarray, tree(start()))
        state = transform.init(params)
        for gradient in gradients(4):
            updates, state = transform.update(tree(gradient), state, params)
            params = optax.apply_updates(params, updates)
        followed.append(params)
    close = lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-5)
    jax.tree.map(close, *followed)


@pytest.mark.full
def test_updates_are_those_of_pytorch():
    torch = pytest.importorskip("torch")
    params = {name: torch.nn.Parameter(torch.tensor(x)) for name, x in start().items()}
    adam = torch.optim.AdamW(
        params.values(), lr=1e-2, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.1
    )
    rate = torch.optim.lr_scheduler.LambdaLR(adam, lambda i: min(i / 2, 1))
    for gradient in gradients(6):
        for name, parameter in params.items():
            parameter.grad = torch.tensor(gradient[name])
        torch.nn.utils.clip_grad_norm_(params.values(), 1.5)
        adam.step()
        rate.step()
    found = ours(6)
    for name, parameter in params.items():
        expected = parameter.detach().numpy()
        np.testing.assert_allclose(found[name], expected, rtol=2e-5, err_msg=name)
