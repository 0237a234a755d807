"""The trainer's SGD against one by hand; compiled by default, see the Makefile."""

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from experiments import configs
from experiments.train import steps
from tests import training_problem as problem


def test_sgd_is_optax_sgd():
    """λ = ∞ is `optax.sgd` on the mean loss, written out here without the library."""
    run = configs.replace(problem.NORMALIZED, problem.SMALL | {"method.name": "sgd"})
    state, _ = problem.train(run, updates=6)

    tx = optax.chain(
        optax.add_decayed_weights(1e-3),
        optax.sgd(lambda step: jnp.where(step < 4, 0.05, 0.005), momentum=0.9),
    )
    graph, params, statistics = nnx.split(steps.init_network(run, 0), nnx.Param, ...)
    opt_state = tx.init(params)

    @jax.jit
    def step(params, statistics, opt_state, batch):
        def mean_loss(params):
            model = nnx.merge(graph, params, statistics, copy=True)
            model.train()
            images = (batch.inputs / 255.0 - 0.5) / 0.25
            losses = optax.softmax_cross_entropy_with_integer_labels(
                model(images.astype(jnp.float32)), batch.labels
            )
            return losses.mean(), nnx.state(model, nnx.Not(nnx.Param))

        grads, statistics_ = jax.grad(mean_loss, has_aux=True)(params)
        updates, opt_state = tx.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), statistics_, opt_state

    for i in range(6):
        params, statistics, opt_state = step(
            params, statistics, opt_state, problem.batch(i)
        )
    problem.same(state.params, params)
    problem.same(state.statistics, statistics)
