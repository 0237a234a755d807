# %% [markdown]
# # Flax Linen, with `TrainState` and BatchNorm
#
# For training steps around `TrainState.apply_gradients`. Beside the import three lines
# change; three more carry attention's state.
#
# **Route:** weights (`attention`), because `apply_gradients` hands the optimizer a
# gradient and nothing else. The weights go into the loss, and optimizer, penalties and
# auxiliary output stay as they are.
#
# **Trap:** `apply_gradients(grads=grads, value=value)` does not reach the optimizer:
# Flax takes every other argument for a field of the state. So `absgd` would need its
# own `state.tx.update`, while a field `attention` is carried just like `batch_stats`.

# %%
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.training import train_state
from sklearn.datasets import load_digits

import absgd_jax  # new

LOWER_RATE_AT = 100  # steps


class Network(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        x = nn.relu(nn.BatchNorm(use_running_average=not train)(nn.Dense(32)(x)))
        return nn.Dense(10)(x)


# %% [markdown]
# λ and the lower learning rate begin at the same step; before it this is plain SGD.

# %%
attention = absgd_jax.attention(lam=absgd_jax.two_stage(0.5, LOWER_RATE_AT))  # new


class TrainState(train_state.TrainState):
    batch_stats: dict
    attention: absgd_jax.AttentionState  # new (state)


def create_state(seed=0):
    network = Network()
    variables = network.init(jax.random.key(seed), jnp.zeros([1, 64]), train=True)
    rate = optax.piecewise_constant_schedule(0.1, {LOWER_RATE_AT: 0.05})
    return TrainState.create(
        apply_fn=network.apply,
        params=variables["params"],
        batch_stats=variables["batch_stats"],
        tx=optax.sgd(rate, momentum=0.9),
        attention=attention.init(),  # new (state)
    )


# %% [markdown]
# No gradient flows through the weights. For the log take `losses.mean()` as auxiliary
# output: the loss itself is the weighted one.


# %%
@jax.jit
def train_step(state, x, y):
    def loss_fn(params):
        variables = {"params": params, "batch_stats": state.batch_stats}
        logits, updates = state.apply_fn(variables, x, train=True, mutable=["batch_stats"])
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, y)
        weights, updates["attention"] = attention.weigh(losses, state.attention)  # new
        return (weights * losses).mean(), updates  # was: return losses.mean(), updates

    (loss, updates), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
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
        yield x[chosen], y[chosen]


def mean_loss(state, x, y):
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    logits = state.apply_fn(variables, x, train=False)
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
