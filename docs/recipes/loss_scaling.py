# %% [markdown]
# # Dynamic loss scaling in float16
#
# For mixed-precision programs around `flax.training.dynamic_scale.DynamicScale`. Beside
# the import three lines change; three more carry attention's state.
#
# **Route:** weights (`attention`), because `DynamicScale.value_and_grad` differentiates
# a scalar of the program's own. It scales that scalar after the weights are made, so
# they are those of the losses as they are. Under `pmap` give the axis to both,
# `attention(axis_name=)` and `DynamicScale(axis_name=)`.
#
# **Trap:** a step whose gradient overflows is dropped, and what belongs to the dropped
# step must be dropped with it. A batch with a loss that is not finite never enters
# attention's state; one with finite losses and an overflowing gradient does, so select
# the state with `is_finite`, as the parameters. A weight may be as large as the batch:
# where the scale overflows at once, give `max_weight=` or a lower scale. Keep the losses
# in float32: the logits are cast before the softmax.

# %%
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.training import dynamic_scale, train_state
from sklearn.datasets import load_digits

import absgd_jax  # new

LOWER_RATE_AT = 100  # steps


class Network(nn.Module):
    dtype: type = jnp.float16

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Dense(32, dtype=self.dtype)(x))
        return nn.Dense(10, dtype=self.dtype)(x).astype(jnp.float32)


# %% [markdown]
# λ and the lower learning rate begin at the same step; before it this is plain SGD.

# %%
attention = absgd_jax.attention(lam=absgd_jax.two_stage(0.5, LOWER_RATE_AT))  # new


class TrainState(train_state.TrainState):
    dynamic_scale: dynamic_scale.DynamicScale
    attention: absgd_jax.AttentionState  # new (state)


def create_state(seed=0, dtype=jnp.float16):
    network = Network(dtype)
    rate = optax.piecewise_constant_schedule(0.1, {LOWER_RATE_AT: 0.05})
    return TrainState.create(
        apply_fn=network.apply,
        params=network.init(jax.random.key(seed), jnp.zeros([1, 64]))["params"],
        tx=optax.sgd(rate, momentum=0.9),
        dynamic_scale=dynamic_scale.DynamicScale(),
        attention=attention.init(),  # new (state)
    )


# %%
@jax.jit
def train_step(state, x, y):
    def loss_fn(params):
        logits = state.apply_fn({"params": params}, x)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, y)
        aux = {"loss": losses.mean()}
        weights, aux["attention"] = attention.weigh(losses, state.attention)  # new
        return (weights * losses).mean(), aux  # was: return losses.mean(), aux

    grad_fn = state.dynamic_scale.value_and_grad(loss_fn, has_aux=True)
    scale, is_finite, (_, aux), grads = grad_fn(state.params)
    after = state.apply_gradients(grads=grads)
    kept = functools.partial(jax.tree.map, functools.partial(jnp.where, is_finite))
    after = after.replace(
        dynamic_scale=scale,
        params=kept(after.params, state.params),
        opt_state=kept(after.opt_state, state.opt_state),
        attention=kept(aux["attention"], state.attention),  # new (state)
    )
    return after, aux["loss"]


# %% [markdown]
# Handwritten digits with a long tail: of the last class a fiftieth is left.


# %%
def long_tailed_digits(seed=0):
    x, y = load_digits(return_X_y=True)
    kept = np.random.default_rng(seed).uniform(size=len(y)) < 0.02 ** (y / 9)
    return (x[kept] / 16).astype(np.float32), y[kept]


def batches(steps, batch_size=64, seed=0):
    x, y = long_tailed_digits()
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        chosen = rng.choice(len(y), batch_size, replace=False)
        yield x[chosen], y[chosen]


def mean_loss(state, x, y):
    logits = state.apply_fn({"params": state.params}, x)
    return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()


def main(steps=150):
    x, y = long_tailed_digits()
    state = create_state()
    before = mean_loss(state, x, y)
    for batch in batches(steps):
        state, _ = train_step(state, *batch)
    print(f"mean loss {before:.3f} -> {mean_loss(state, x, y):.3f}")


if __name__ == "__main__":
    main()
