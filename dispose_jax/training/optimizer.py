"""From `config.train` to an optax transformation."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
import optax.contrib


def learning_rate(train) -> optax.Schedule:
    """The rate at each step: a linear warm-up, then constant or a cosine down to zero."""
    warm = optax.linear_schedule(0.0, train.learning_rate, max(1, train.warmup))
    if train.decay == "cosine":
        rest = max(1, train.steps - train.warmup)
        after = optax.cosine_decay_schedule(train.learning_rate, rest)
    else:
        after = optax.constant_schedule(train.learning_rate)
    return optax.join_schedules([warm, after], [train.warmup]) if train.warmup else after


def build(train) -> optax.GradientTransformation:
    """AdamW or Muon, `train.optimizer`, behind a limit on the gradients' norm.

    As in PyTorch the decay reaches every tensor. Muon (Jordan 2024) makes the momentum of a matrix
    orthogonal before it is added; a convolution is one matrix from all it sees to its features.
    Steps are scaled as AdamW's, after Liu et al. (arXiv 2502.16982), so that rates mean the same,
    and what is no matrix inside the network follows AdamW with Nesterov's momentum.
    """
    if train.optimizer == "adamw":
        update = optax.adamw(
            learning_rate(train),
            b1=train.b1,
            b2=train.b2,
            eps=train.epsilon,
            weight_decay=train.weight_decay,
        )
    else:
        update = _of_stacks(
            optax.contrib.muon(
                learning_rate(train),
                eps=train.epsilon,
                weight_decay=train.weight_decay,
                adam_weight_decay=train.weight_decay,
                adam_b1=train.b1,
                adam_b2=train.b2,
                consistent_rms=0.2,
                muon_weight_dimension_numbers=_dimensions,
            )
        )
    return optax.chain(optax.clip_by_global_norm(train.clip), update)


# Between pictures or latents and features: as usual with Muon, not among the matrices.
_ENDS = ("conv_in", "conv_out", "time_conv_out")


def _is_matrix(path, leaf) -> bool:
    layer, kind = ["", *(entry.key for entry in path)][-2:]
    return kind == "kernel" and layer not in _ENDS and leaf.ndim > 1


class _Stacks(NamedTuple):
    """A tree of parameters as Muon gets it."""

    matrices: dict[str, jax.Array]  # "rows x columns" -> (n, rows, columns), rows <= columns
    others: Any  # the tree with None in their place


def _of_stacks(update: optax.GradientTransformation) -> optax.GradientTransformation:
    """The same for trees whose matrices it is given in stacks, one for each shape.

    A small base has 273 matrices of 41 shapes, and each that is made orthogonal is fifteen products
    to compile: most of a step's compiling, if every one had its own.
    """

    def step(updates, state, params=None):
        stacked = None if params is None else _stacked(params)
        changed, state = update.update(_stacked(updates), state, stacked)
        return _unstacked(changed, updates), state

    return optax.GradientTransformation(lambda params: update.init(_stacked(params)), step)


def _stacked(tree) -> _Stacks:
    """A tree with its matrices of one shape as one array each."""
    matrices: dict[str, list] = {}

    def other(path, leaf):
        if not _is_matrix(path, leaf):
            return leaf
        matrix = _as_matrix(leaf)
        matrices.setdefault("x".join(map(str, matrix.shape)), []).append(matrix)
        return None

    others = jax.tree_util.tree_map_with_path(other, tree)
    return _Stacks({name: jnp.stack(some) for name, some in matrices.items()}, others)


def _unstacked(stacks: _Stacks, like):
    """The tree of `_stacked`; like: one of its structure and shapes."""
    left = {name: iter(stack) for name, stack in stacks.matrices.items()}

    def leaf(path, shaped, other):
        if not _is_matrix(path, shaped):
            return other
        shape = jax.eval_shape(_as_matrix, shaped).shape
        matrix = next(left["x".join(map(str, shape))])
        return (matrix.T if shaped.shape[-1] != shape[1] else matrix).reshape(shaped.shape)

    is_leaf = lambda x: x is None
    return jax.tree_util.tree_map_with_path(leaf, like, stacks.others, is_leaf=is_leaf)


def _as_matrix(kernel: jax.Array) -> jax.Array:
    """All that a feature sees by features, turned to have no more rows than columns: what Muon
    makes of a matrix turns with it."""
    matrix = kernel.reshape(-1, kernel.shape[-1])
    return matrix.T if matrix.shape[0] > matrix.shape[1] else matrix


def _dimensions(stacks: _Stacks) -> _Stacks:
    """Which axes are a matrix's rows and columns, None for what is none."""
    of_matrix = optax.contrib.MuonDimensionNumbers(1, 2)
    return _Stacks(
        dict.fromkeys(stacks.matrices, of_matrix), jax.tree.map(lambda _: None, stacks.others)
    )
