"""From `config.train` to an optax transformation."""

from __future__ import annotations

import jax
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
        update = optax.contrib.muon(
            learning_rate(train),
            weight_decay=train.weight_decay,
            adam_weight_decay=train.weight_decay,
            adam_b1=train.b1,
            adam_b2=train.b2,
            consistent_rms=0.2,
            muon_weight_dimension_numbers=_matrices,
        )
    return optax.chain(optax.clip_by_global_norm(train.clip), update)


# Between pictures or latents and features: as usual with Muon, not among the matrices.
_ENDS = ("conv_in", "conv_out", "time_conv_out")


def _matrices(params):
    """For each tensor which axes are a matrix's rows and columns, None if it is none."""

    def axes(path, leaf):
        layer, kind = ["", *(entry.key for entry in path)][-2:]
        if kind != "kernel" or layer in _ENDS:
            return None
        return optax.contrib.MuonDimensionNumbers(tuple(range(leaf.ndim - 1)), leaf.ndim - 1)

    return jax.tree_util.tree_map_with_path(axes, params)
