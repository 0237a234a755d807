"""The descent: from a gradient to an update, the same for all methods."""

from typing import Any

import jax
import optax

from experiments import configs
from experiments.methods.hyperparams import StepHyperparams


def descent(
    run: configs.Run, hyperparams: StepHyperparams
) -> optax.GradientTransformation:
    """Gradient clipping, weight decay, and SGD or Adam."""
    optimizer = run.optimizer
    clip = (
        optax.identity()
        if optimizer.clip_norm is None
        else optax.clip_by_global_norm(optimizer.clip_norm)
    )
    decay = _decay(optimizer)
    if run.method.info.adam:
        return optax.chain(
            clip,
            optax.scale_by_adam(optimizer.b1, optimizer.b2, optimizer.eps),
            decay,
            optax.scale_by_learning_rate(hyperparams.learning_rate),
        )
    momentum = optimizer.momentum or None
    return optax.chain(
        clip,
        decay,
        optax.sgd(hyperparams.learning_rate, momentum, optimizer.nesterov),
    )


def _decay(optimizer: configs.Optimizer) -> optax.GradientTransformation:
    """Weight decay `α w`, with an α of its own for `hidden` and `hidden_norm`."""
    hidden = optimizer.hidden_weight_decay
    if hidden is None or hidden == optimizer.weight_decay:
        return optax.add_decayed_weights(optimizer.weight_decay)

    def of_hidden(params: Any, inside: bool) -> Any:
        return jax.tree.map_with_path(
            lambda path, _: ("hidden" in jax.tree_util.keystr(path)) == inside, params
        )

    return optax.chain(
        optax.add_decayed_weights(
            optimizer.weight_decay, lambda params: of_hidden(params, False)
        ),
        optax.add_decayed_weights(hidden, lambda params: of_hidden(params, True)),
    )
