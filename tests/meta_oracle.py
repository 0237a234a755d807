"""The meta-learned weightings as published: the virtual step itself is differentiated.

Three backward passes, one of them through another, and the whole step in memory. The
rules have the form of those of `experiments.methods`, and can stand in their place.
"""

import jax
import jax.numpy as jnp
import optax

from experiments.methods import WeightingResult, mw_net


def derivative(problem, a, step_size):
    """C(w − η Σ_i a_i ∇L_i(w)), and its derivative with respect to a, `[batch]`."""

    def clean_loss(a):
        def loss(params):
            losses, _ = problem.losses_of(params)
            return jnp.sum(a * losses, where=problem.present)

        return _after(problem, jax.grad(loss)(problem.params), step_size)

    return jax.value_and_grad(clean_loss)(a)


def _after(problem, gradient, step_size):
    moved = jax.tree.map(lambda w, g: w - step_size * g, problem.params, gradient)
    return problem.meta_loss_of(moved)


def _found(problem, p, state, clean):
    def loss(params):
        losses, statistics = problem.losses_of(params)
        sum_ = jnp.sum(p * losses, where=problem.present)
        return sum_ / jnp.sum(problem.present), (losses, statistics)

    gradient, (losses, statistics) = jax.grad(loss, has_aux=True)(problem.params)
    return WeightingResult(gradient, state, losses, statistics, p, clean)


def meta(problem, state):
    of_class = problem.class_weights[problem.labels]
    problem = problem._replace(class_weights=jnp.ones_like(problem.class_weights))
    hyperparams = problem.hyperparams
    clean, slope = derivative(problem, of_class, hyperparams.learning_rate)
    return _found(problem, of_class - hyperparams.step_size * slope, state, clean)


def l2rw(problem, state):
    zero = jnp.zeros(problem.labels.shape)
    clean, slope = derivative(problem, zero, problem.hyperparams.learning_rate)
    p = jnp.where(problem.present, jnp.maximum(-slope, 0.0), 0.0)
    p = p / jnp.sum(p) * jnp.sum(problem.present)
    return _found(problem, p, state, clean)


def mw_net_(problem, state):
    """Through the network that weights, too, in one derivative."""
    count = jnp.sum(problem.present)

    def clean_loss(theta):
        def loss(params):
            losses, _ = problem.losses_of(params)
            p = mw_net.weigh(theta, jax.lax.stop_gradient(losses))
            return jnp.sum(p * losses, where=problem.present) / count

        gradient = jax.grad(loss)(problem.params)
        return _after(problem, gradient, problem.hyperparams.learning_rate)

    clean, slope = jax.value_and_grad(clean_loss)(state.theta)
    optimizer = optax.adam(problem.hyperparams.step_size)
    step, (adam, _) = optimizer.update(slope, (state.adam, optax.EmptyState()))
    theta = optax.apply_updates(state.theta, step)
    p = mw_net.weigh(theta, problem.losses_of(problem.params)[0])
    return _found(problem, p, mw_net.NetState(theta, adam), clean)


GRADIENTS = {"meta": meta, "l2rw": l2rw, "mw_net": mw_net_}
