# %% [markdown]
# # Flax NNX, with BatchNorm and dropout
#
# For training loops around `nnx.Optimizer`. Beside the import four lines change: the
# optimizer, the end of the loss function, and the two lines that differentiate and
# update.
#
# **Route:** value and gradient (`tilted_value_and_grad`), because
# `nnx.Optimizer.update` wants a gradient and passes further arguments on to Optax.
# NNX's own `value_and_grad` stays in charge, so that BatchNorm's statistics and the
# dropout key advance once a step.
#
# **Trap:** without `value_and_grad=nnx.value_and_grad` JAX's own would differentiate a
# copy of the module, and BatchNorm's statistics and dropout's counter would stay where
# they were. `tilted_value_and_grad` refuses that.

# %%
import numpy as np
import optax
from flax import nnx
from sklearn.datasets import load_digits

import absgd_jax  # new

LOWER_RATE_AT = 100  # steps


class Network(nnx.Module):
    def __init__(self, rngs):
        self.hidden = nnx.Linear(64, 32, rngs=rngs)
        self.norm = nnx.BatchNorm(32, rngs=rngs)
        self.dropout = nnx.Dropout(0.2, rngs=rngs)
        self.head = nnx.Linear(32, 10, rngs=rngs)

    def __call__(self, x):
        return self.head(self.dropout(nnx.relu(self.norm(self.hidden(x)))))


# %% [markdown]
# λ and the lower learning rate begin at the same step; before it this is plain SGD.


# %%
def create(seed=0):
    model = Network(nnx.Rngs(seed))
    rate = optax.piecewise_constant_schedule(0.1, {LOWER_RATE_AT: 0.05})
    tx = absgd_jax.absgd(rate, lam=absgd_jax.two_stage(0.5, LOWER_RATE_AT))  # was: tx = optax.sgd(rate, momentum=0.9)
    return model, nnx.Optimizer(model, tx, wrt=nnx.Param)


def loss_fn(model, x, y):
    losses = optax.softmax_cross_entropy_with_integer_labels(model(x), y)
    return losses  # was: return losses.mean()


# %% [markdown]
# λ is read from the optimizer's state, so that it follows its schedule. The value holds
# two numbers: the tilted loss, which the optimizer needs, and the mean loss for the
# log. A program with metrics has a fifth line to change,
# `metrics.update(loss=value.mean_loss)`.


# %%
@nnx.jit
def train_step(model, optimizer, x, y):
    value, grads = absgd_jax.tilted_value_and_grad(loss_fn, optimizer.opt_state, value_and_grad=nnx.value_and_grad)(model, x, y)  # was: value, grads = nnx.value_and_grad(loss_fn)(model, x, y)
    optimizer.update(model, grads, value=value)  # was: optimizer.update(model, grads)
    return value


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


def mean_loss(model, x, y):
    logits = nnx.view(model, deterministic=True, use_running_average=True)(x)
    return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()


def main(steps=150):
    x, y = long_tailed_digits()
    model, optimizer = create()
    before = mean_loss(model, x, y)
    for batch in batches(steps):
        train_step(model, optimizer, *batch)
    print(f"mean loss {before:.3f} -> {mean_loss(model, x, y):.3f}")


if __name__ == "__main__":
    main()
