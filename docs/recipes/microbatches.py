# %% [markdown]
# # A batch that does not fit: microbatches inside one step
#
# For a program whose batch, as large as it should be, does not fit into memory. Beside
# the import four lines change.
#
# **Trap.** Gradients of microbatches cannot just be averaged, for a weight needs the
# losses of the whole batch; `microbatch_size=` rescales them as they arrive. A network
# with BatchNorm normalises each microbatch alone, as with any accumulation.
#
# **Route.** The value and the gradient of the tilted loss, which takes `microbatch_size`:
# exactly the update of the whole batch, for the activations of one microbatch. The batch
# must be at hand as a whole; where microbatches come one by one see
# [accumulation](accumulation.py).

# %%
import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

import absgd_jax  # new

SWITCH = 70
rate = optax.piecewise_constant_schedule(0.2, {SWITCH: 0.05})
tx = absgd_jax.absgd(rate, lam=absgd_jax.two_stage(0.5, SWITCH))  # was: tx = optax.sgd(rate, momentum=0.9)


# %%
def init(key):
    return {"w": jax.random.normal(key, (64, 10)) / 8, "b": jnp.zeros(10)}


def example_losses(params, images, labels):
    logits = images @ params["w"] + params["b"]
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def loss_fn(params, images, labels):
    losses = example_losses(params, images, labels)
    return losses  # was: return losses.mean()


@jax.jit
def train_step(params, opt_state, images, labels):
    value_and_grad = absgd_jax.tilted_value_and_grad(loss_fn, opt_state, microbatch_size=16)  # was: value_and_grad = jax.value_and_grad(loss_fn)
    loss, grads = value_and_grad(params, images, labels)
    updates, opt_state = tx.update(grads, opt_state, params, value=loss)  # was: updates, opt_state = tx.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), opt_state, loss


# %% [markdown]
# `loss` is now a `TiltedValue`; the number for the log is `loss.mean_loss`.


# %%
def long_tail():
    """Handwritten digits: 100 images of the first class, 2 of the last."""
    images, labels = load_digits(return_X_y=True)
    kept = [np.flatnonzero(labels == k)[: round(100 * 0.65**k)] for k in range(10)]
    kept = np.concatenate(kept)
    return images[kept].astype(np.float32) / 16, labels[kept]


def report(when, params, images, labels):
    losses = example_losses(params, images, labels)
    rare = losses[labels >= 7].mean()
    print(f"{when}: mean loss {losses.mean():.3f}, of the three rarest {rare:.3f}")


def main():
    images, labels = long_tail()
    params = init(jax.random.key(0))
    opt_state = tx.init(params)
    rng = np.random.default_rng(0)
    report("before", params, images, labels)
    for _ in range(100):
        batch = rng.choice(len(labels), 64)
        params, opt_state, _ = train_step(params, opt_state, images[batch], labels[batch])
    report("after", params, images, labels)


if __name__ == "__main__":
    main()
