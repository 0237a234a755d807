# %% [markdown]
# # Gradient clipping, frozen layers and a moving average of the parameters
#
# For an Optax chain that does more to a gradient than SGD. Beside the import four lines
# change.
#
# **Trap.** Attention comes first in the chain. A pullback is a tree of the arrays that
# the backward pass needs, so `optax.clip` *in front of attention* clips those: silently
# wrong where all are floating point, and a puzzling error elsewhere ("indices must have
# an integer type"). A layer is frozen *behind attention*, which inside `optax.partition`
# is an error, for it would weight some layers and not others.
#
# **Route.** The pullback of `jax.vjp`: what comes out of `attentional_aggregate` is a
# gradient, and the rest of the chain stays as it is.

# %%
import jax
import numpy as np
import optax
from sklearn.datasets import load_digits

import absgd_jax  # new

SWITCH = 70
rate = optax.piecewise_constant_schedule(0.3, {SWITCH: 0.05})
tx = optax.chain(
    absgd_jax.attentional_aggregate(lam=absgd_jax.two_stage(0.5, SWITCH)),  # new
    optax.clip_by_global_norm(0.5),
    optax.partition(
        {"trained": optax.sgd(rate, momentum=0.9), "frozen": optax.set_to_zero()},
        {"features": "frozen", "head": "trained"},
    ),
)


# %%
def init(key):
    features, head = jax.random.split(key)
    return {
        "features": jax.random.normal(features, (64, 128)) / 8,
        "head": jax.random.normal(head, (128, 10)) / 16,
    }


def example_losses(params, images, labels):
    logits = jax.nn.relu(images @ params["features"]) @ params["head"]
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def loss_fn(params, images, labels):
    losses = example_losses(params, images, labels)
    return losses  # was: return losses.mean()


@jax.jit
def train_step(params, average, opt_state, images, labels):
    losses, pullback = jax.vjp(lambda params: loss_fn(params, images, labels), params)  # was: loss, grads = jax.value_and_grad(loss_fn)(params, images, labels)
    updates, opt_state = tx.update(pullback, opt_state, params, losses=losses)  # was: updates, opt_state = tx.update(grads, opt_state, params)
    params = optax.apply_updates(params, updates)
    average = optax.incremental_update(params, average, step_size=0.1)
    return params, average, opt_state


# %% [markdown]
# `jax.vjp` and `update` stand in one compiled function: outside of `jax.jit` a pullback
# is a new function at every step, and a compiled update would be compiled again for each.
# `losses.mean()` is the number for the log.


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
    params = average = init(jax.random.key(0))
    opt_state = tx.init(params)
    rng = np.random.default_rng(0)
    report("before", average, images, labels)
    for _ in range(100):
        batch = rng.choice(len(labels), 64)
        params, average, opt_state = train_step(params, average, opt_state, images[batch], labels[batch])
    report("after", average, images, labels)


if __name__ == "__main__":
    main()
