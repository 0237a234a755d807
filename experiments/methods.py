"""From a config to what makes an update; plain SGD and ABSGD alike."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import absgd_jax
from experiments import configs


class Moment(NamedTuple):
    """What is set for one update. Arguments of the compiled step, not part of it."""

    learning_rate: np.ndarray  # float32 []: η
    lam: np.ndarray  # float32 []: λ
    gamma: np.ndarray  # float32 []: γ
    init_s: np.ndarray  # float32 []: s_0; not looked at where the run leaves it out
    restart: np.ndarray  # bool []: whether s starts anew
    scale: np.ndarray  # float32 []: what the weights are multiplied by, 1/α
    uniform: np.ndarray  # float32 []: what is then added to them


class Method(NamedTuple):
    """An update in two parts, so that a factor may come between them."""

    attention: optax.GradientTransformationExtraArgs
    descent: optax.GradientTransformation


def moment(run: configs.Run, steps_per_epoch: int, step: int) -> Moment:
    """What is set for an update.

    η rises over the epochs of the warm-up and is divided at the first step of an epoch;
    a cosine falls step by step.

    Where plain training comes first (λ = ∞) and s_0 is given, Algorithm 1 begins at the
    switch: s starts there from s_0, not at the first step of all, as in the authors'
    code. Until then s is 1.

    Args:
      run: its schedule.
      steps_per_epoch: updates in an epoch.
      step: updates before this one.

    Returns:
      Scalars.
    """
    epoch, optimizer, method = step // steps_per_epoch, run.optimizer, run.method
    learning_rate = optimizer.learning_rate
    warmup = run.epoch_at(optimizer.warmup)
    if epoch < warmup:
        learning_rate *= (epoch + 1) / warmup
    if optimizer.decay == "cosine":
        share = step / (run.epochs * steps_per_epoch)
        learning_rate *= 0.5 * (1.0 + math.cos(math.pi * share))
    drops = sum(epoch >= run.epoch_at(share) for share in optimizer.drop_at)
    learning_rate /= optimizer.drop_factor**drops

    switch = run.epoch_at(method.start_at) * steps_per_epoch
    attends = method.attends and step >= switch
    lam = method.lam if attends else method.first_lam if method.attends else math.inf
    begins = 0 if math.isfinite(method.first_lam) else switch
    return Moment(
        np.float32(learning_rate),
        np.float32(lam),
        np.float32(method.gamma),
        np.float32(1.0 if step < begins else method.init_s or 0.0),
        np.bool_(method.init_s is not None and step == begins),
        # The authors' variants hold where λ does.
        np.float32(1.0 / method.alpha if math.isfinite(lam) else 1.0),
        np.float32(method.uniform and math.isfinite(lam)),
    )


def build(run: configs.Run, moment: Moment, axis_name: str | None = None) -> Method:
    """Makes the update.

    Plain SGD is the case λ = ∞ without s_0, to the last bit: weights are one. So one
    compiled program serves all λ, and up to the switch all methods train alike.

    Args:
      run: method and optimizer.
      moment: what is set for this update; may be traced.
      axis_name: axis of `jax.pmap` that the batch is spread over.

    Returns:
      Attention, which makes one gradient, and the descent along it.
    """
    method, optimizer = run.method, run.optimizer
    leaves_out = method.init_s is None or not method.attends
    attention: Any = (
        absgd_jax.attentional_aggregate
        if method.route == "pullback"
        else absgd_jax.scale_by_attention
    )
    bound = {} if method.max_weight is None else {"max_weight": method.max_weight}
    if method.route == "pullback":
        bound["axis_name"] = axis_name  # the other routes' gradients are global
    clip = (
        optax.identity()
        if optimizer.clip_norm is None
        else optax.clip_by_global_norm(optimizer.clip_norm)
    )
    decay = _decay(optimizer)
    if method.name in ("adam", "abadam"):
        descent = optax.chain(
            clip,
            optax.scale_by_adam(optimizer.b1, optimizer.b2, optimizer.eps),
            decay,
            optax.scale_by_learning_rate(moment.learning_rate),
        )
    else:
        momentum = optimizer.momentum or None
        descent = optax.chain(
            clip,
            decay,
            optax.sgd(moment.learning_rate, momentum, optimizer.nesterov),
        )
    return Method(
        attention(
            moment.lam,
            moment.gamma,
            init_s=None if leaves_out else moment.init_s,
            **bound,
        ),
        descent,
    )


def begin(state: absgd_jax.AttentionState, moment: Moment) -> absgd_jax.AttentionState:
    """The state as the update is to find it: with its λ, and s anew at a restart.

    Args:
      state: of attention.
      moment: what is set for this update.

    Returns:
      The state. A restart gives s_0 its whole share in s again, d = 1, and then what F
      was no longer counts.
    """
    return state._replace(
        lam=jnp.asarray(moment.lam, state.lam.dtype),
        log_discount=jnp.where(moment.restart, 0.0, state.log_discount),
    )


def weights(
    run: configs.Run,
    moment: Moment,
    state: absgd_jax.AttentionState,
    losses: jax.Array,
) -> jax.Array:
    """The weight p that an update gave each example, Eq. (2).

    Args:
      run: method.
      moment: what was set for it.
      state: of attention, after it.
      losses: float32 `[batch]`.

    Returns:
      float32 `[batch]`: p = exp((L − F)/λ) exp(F/λ)/s, over `alpha`, plus one where the
      method is uniform.
    """
    p = jnp.exp((losses - state.tilted_loss) / moment.lam)
    if run.method.init_s is not None and run.method.attends:
        share = jnp.exp(state.log_discount)
        reference = jnp.exp(-state.tilted_loss / moment.lam)
        p = p / ((1.0 - share) + share * moment.init_s * reference)
    if run.method.max_weight is not None:
        p = jnp.minimum(p, run.method.max_weight)
    return p * moment.scale + moment.uniform


def _decay(optimizer: configs.Optimizer) -> optax.GradientTransformation:
    """Adds `α w`, with an α of its own for the layer called `hidden`."""
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
