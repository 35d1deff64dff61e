"""From `config.train` to an optax transformation."""

from __future__ import annotations

import optax


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
    """AdamW behind a limit on the gradients' norm. As in PyTorch the decay reaches every tensor."""
    adam = optax.adamw(
        learning_rate(train),
        b1=train.b1,
        b2=train.b2,
        eps=train.epsilon,
        weight_decay=train.weight_decay,
    )
    return optax.chain(optax.clip_by_global_norm(train.clip), adam)
