# %% [markdown]
# # Flax Linen under `pmap`, with synchronised BatchNorm
#
# For programs in the form of Flax's ImageNet example: `jax.pmap`, a replicated
# `TrainState`, `lax.pmean` of the gradients, a weight penalty in the loss. Beside the
# import three lines change; three more carry attention's state.
#
# **Route:** weights (`attention`), because then the program's own `pmean` stays where
# it is: the mean over devices of the weighted means is the weighted mean of the whole
# batch.
#
# **Trap:** without `axis_name` each device weighs its own part of the batch, which
# trains on another objective with every other number of devices, and says nothing. A
# BatchNorm that is synchronised over the devices also needs the whole batch's weights
# *before* the backward pass, which this route gives it; rescaling the gradients
# afterwards would not be exact.

# %%
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import jax_utils
from flax.training import common_utils, train_state
from jax import lax
from sklearn.datasets import load_digits

import absgd_jax  # new

LOWER_RATE_AT = 40  # steps


class Network(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        norm = nn.BatchNorm(use_running_average=not train, axis_name="batch")
        x = nn.relu(norm(nn.Dense(32)(x)))
        return nn.Dense(10)(x)


# %% [markdown]
# λ and the lower learning rate begin at the same step; before it this is plain SGD.

# %%
attention = absgd_jax.attention(lam=absgd_jax.two_stage(0.5, LOWER_RATE_AT), axis_name="batch")  # new


class TrainState(train_state.TrainState):
    batch_stats: dict
    attention: absgd_jax.AttentionState  # new (state)


def create_state(seed=0):
    network = Network()
    variables = network.init(jax.random.key(seed), jnp.zeros([1, 64]), train=False)
    rate = optax.piecewise_constant_schedule(0.1, {LOWER_RATE_AT: 0.05})
    return TrainState.create(
        apply_fn=network.apply,
        params=variables["params"],
        batch_stats=variables["batch_stats"],
        tx=optax.sgd(rate, momentum=0.9),
        attention=attention.init(),  # new (state)
    )


# %% [markdown]
# The penalty stands beside the weighted mean and is not weighted.


# %%
@functools.partial(jax.pmap, axis_name="batch")
def train_step(state, x, y):
    def loss_fn(params):
        variables = {"params": params, "batch_stats": state.batch_stats}
        logits, updates = state.apply_fn(variables, x, train=True, mutable=["batch_stats"])
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, y)
        penalty = sum(jnp.sum(w**2) for w in jax.tree.leaves(params) if w.ndim > 1)
        weights, updates["attention"] = attention.weigh(losses, state.attention)  # new
        loss = (weights * losses).mean()  # was: loss = losses.mean()
        return loss + 0.5 * 1e-4 * penalty, updates

    (loss, updates), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
    grads, loss = lax.pmean((grads, loss), axis_name="batch")
    return state.apply_gradients(grads=grads, batch_stats=updates["batch_stats"], attention=updates["attention"]), loss  # was (state): return state.apply_gradients(grads=grads, batch_stats=updates["batch_stats"]), loss


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
        yield common_utils.shard((x[chosen], y[chosen]))


def mean_loss(state, x, y):
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    logits = state.apply_fn(variables, x, train=False)
    return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()


def main(steps=60):
    x, y = long_tailed_digits()
    state = create_state()
    before = mean_loss(state, x, y)
    state = jax_utils.replicate(state)
    for batch in batches(steps):
        state, loss = train_step(state, *batch)
        jax.block_until_ready(loss)  # host devices starve each other if many steps wait
    after = mean_loss(jax_utils.unreplicate(state), x, y)
    print(f"{jax.device_count()} devices: mean loss {before:.3f} -> {after:.3f}")


if __name__ == "__main__":
    main()
