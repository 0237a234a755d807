# %% [markdown]
# # Haiku
#
# For a program with `hk.transform_with_state`, whose loss function returns the new
# state of the network. Beside the import four lines change.
#
# **Trap.** BatchNorm couples the examples of a batch: gradients of one example at a time
# (`jax.vmap` of `jax.grad`) normalise each example alone, and leave one state per
# example. The network must see the batch as a whole.
#
# **Route.** The value and the gradient of the tilted loss: the state of the network is
# its auxiliary output as before, and the batch is seen as a whole.

# %%
import haiku as hk
import jax
import numpy as np
import optax
from sklearn.datasets import load_digits

import absgd_jax  # new


# %%
@hk.transform_with_state
def network(images, is_training):
    x = hk.Linear(32)(images)
    x = hk.BatchNorm(create_scale=True, create_offset=True, decay_rate=0.9)(x, is_training)
    x = jax.nn.relu(x)
    if is_training:
        x = hk.dropout(hk.next_rng_key(), 0.1, x)
    return hk.Linear(10)(x)


def loss_fn(params, state, key, images, labels):
    logits, state = network.apply(params, state, key, images, is_training=True)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return losses, state  # was: return losses.mean(), state


SWITCH = 70
rate = optax.piecewise_constant_schedule(0.1, {SWITCH: 0.05})
tx = absgd_jax.absgd(rate, lam=absgd_jax.two_stage(0.5, SWITCH))  # was: tx = optax.sgd(rate, momentum=0.9)


@jax.jit
def train_step(params, state, opt_state, key, images, labels):
    value_and_grad = absgd_jax.tilted_value_and_grad(loss_fn, opt_state, has_aux=True)  # was: value_and_grad = jax.value_and_grad(loss_fn, has_aux=True)
    (loss, state), grads = value_and_grad(params, state, key, images, labels)
    updates, opt_state = tx.update(grads, opt_state, params, value=loss)  # was: updates, opt_state = tx.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), state, opt_state, loss


# %% [markdown]
# `loss` is now a `TiltedValue`; the number for the log is `loss.mean_loss`. The state
# and the key pass through as they are, as long as the batch is not cut up: with
# `microbatch_size=` every argument after the parameters must have the batch axis, so
# the state and the key would be closed over instead; and of the new state only what is
# floating point may be auxiliary output, not a counter such as that of `hk.BatchNorm`.


# %%
def long_tail():
    """Handwritten digits: 100 images of the first class, 2 of the last."""
    images, labels = load_digits(return_X_y=True)
    kept = [np.flatnonzero(labels == k)[: round(100 * 0.65**k)] for k in range(10)]
    kept = np.concatenate(kept)
    return images[kept].astype(np.float32) / 16, labels[kept]


def report(when, params, state, images, labels):
    logits, _ = network.apply(params, state, None, images, is_training=False)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    rare = losses[labels >= 7].mean()
    print(f"{when}: mean loss {losses.mean():.3f}, of the three rarest {rare:.3f}")


def main():
    images, labels = long_tail()
    keys = hk.PRNGSequence(0)
    params, state = network.init(next(keys), images, is_training=True)
    opt_state = tx.init(params)
    rng = np.random.default_rng(0)
    report("before", params, state, images, labels)
    for _ in range(100):
        batch = rng.choice(len(labels), 64)
        params, state, opt_state, _ = train_step(params, state, opt_state, next(keys), images[batch], labels[batch])
    report("after", params, state, images, labels)


if __name__ == "__main__":
    main()
