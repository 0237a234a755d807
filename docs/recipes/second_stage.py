# %% [markdown]
# # The second stage, from a checkpoint of SGD
#
# For programs that trained by SGD, saved with Orbax, and now go on with attention at a
# lower learning rate. Beside the import four lines change; one more carries attention's
# state.
#
# **Route:** pullback (`attentional_aggregate` before the optimizer that the program
# has), because the old optimizer's state then is one half of the new one's and is
# restored as it is.
#
# **Restore** parameters, the optimizer's whole state and the step; attention begins
# with `init`. Momentum carries over: it is a sum of mean gradients, and so is
# attention's to begin with, whose weights average one from the first batch. Lower the
# rate at the same step: a schedule restored with its count goes on where it was.
#
# **Trap:** `absgd(...).init(params)` in place of the restored state starts momentum and
# schedule at zero, at the *high* rate of step 0, and no shape disagrees. And `jax.vjp`
# and `update` belong in one `jax.jit`; with the pullback crossing its border every step
# is compiled again.

# %%
import pathlib
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import optax
from orbax.checkpoint import v1 as ocp
from sklearn.datasets import load_digits

import absgd_jax  # new

FIRST_STAGE = 100  # steps


def init_params(seed=0):
    keys = jax.random.split(jax.random.key(seed))
    layer = lambda key, m, n: {"w": jax.random.normal(key, [m, n]) / m**0.5, "b": jnp.zeros(n)}
    return [layer(keys[0], 64, 32), layer(keys[1], 32, 10)]


def per_example_losses(params, x, y):
    hidden = jax.nn.relu(x @ params[0]["w"] + params[0]["b"])
    logits = hidden @ params[1]["w"] + params[1]["b"]
    return optax.softmax_cross_entropy_with_integer_labels(logits, y)


# %% [markdown]
# The first stage is the program that wrote the checkpoint.

# %%
sgd = optax.sgd(optax.piecewise_constant_schedule(0.1, {FIRST_STAGE: 0.05}), momentum=0.9)


@jax.jit
def sgd_step(params, opt_state, x, y):
    grads = jax.grad(lambda params: per_example_losses(params, x, y).mean())(params)
    updates, opt_state = sgd.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), opt_state


def first_stage(path):
    params = init_params()
    opt_state = sgd.init(params)
    for x, y in batches(FIRST_STAGE):
        params, opt_state = sgd_step(params, opt_state, x, y)
    ocp.save(path, {"params": params, "opt_state": opt_state, "step": FIRST_STAGE})


# %% [markdown]
# The second stage.

# %%
tx = optax.chain(absgd_jax.attentional_aggregate(lam=0.5), sgd)  # was: tx = sgd


def restore(path):
    params = init_params()
    like = {"params": params, "opt_state": sgd.init(params), "step": 0}
    saved = ocp.load(path, like)
    opt_state = saved["opt_state"]
    opt_state = (tx.init(saved["params"])[0], opt_state)  # new (state)
    return saved["params"], opt_state, saved["step"]


@jax.jit
def train_step(params, opt_state, x, y):
    loss_fn = lambda params: per_example_losses(params, x, y)  # was: loss_fn = lambda params: per_example_losses(params, x, y).mean()
    losses, pullback = jax.vjp(loss_fn, params)  # was: loss, grads = jax.value_and_grad(loss_fn)(params)
    updates, opt_state = tx.update(pullback, opt_state, params, losses=losses)  # was: updates, opt_state = tx.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), opt_state


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


def main(steps=50):
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "checkpoint"
        first_stage(path)
        params, opt_state, step = restore(path)
    x, y = long_tailed_digits()
    before = per_example_losses(params, x, y).mean()
    for batch in batches(steps, seed=step):
        params, opt_state = train_step(params, opt_state, *batch)
    after = per_example_losses(params, x, y).mean()
    print(f"mean loss {before:.3f} -> {after:.3f}")


if __name__ == "__main__":
    main()
