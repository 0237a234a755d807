# %% [markdown]
# # Several labels per image: binary losses `[images, labels]`
#
# For taggers with one sigmoid per label. Beside the import four lines change. Where
# labels are wrong try `kl_radius(0.1, sign=-1)`: the radius of 0.4 has harmed here
# (`docs/when_it_fails.md`).
#
# **Trap.** What an example is depends on where the mean is taken, and the weights with
# it. Without attention both readings are the same program; with it they are not.
#
# **Route.** The value and the gradient of the tilted loss, which takes losses of any
# shape: either reading is one line of the loss function.

# %%
import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

import absgd_jax  # new

SWITCH = 70
rate = optax.piecewise_constant_schedule(0.3, {SWITCH: 0.05})
tx = absgd_jax.absgd(rate, lam=absgd_jax.two_stage(0.2, SWITCH))  # was: tx = optax.sgd(rate, momentum=0.9)


# %%
def init(key, pixels, labels):
    return {
        "w": jax.random.normal(key, (pixels, labels)) / pixels**0.5,
        "b": jnp.zeros(labels),
    }


def pair_losses(params, images, labels):
    logits = images @ params["w"] + params["b"]
    return optax.sigmoid_binary_cross_entropy(logits, labels)


def loss_fn(params, images, labels):
    losses = pair_losses(params, images, labels)  # [images, labels]
    return losses  # was: return losses.mean()


@jax.jit
def train_step(params, opt_state, images, labels):
    loss, grads = absgd_jax.tilted_value_and_grad(loss_fn, opt_state)(params, images, labels)  # was: loss, grads = jax.value_and_grad(loss_fn)(params, images, labels)
    updates, opt_state = tx.update(grads, opt_state, params, value=loss)  # was: updates, opt_state = tx.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), opt_state, loss


# %% [markdown]
# `loss` is now a `TiltedValue`; the number for the log is `loss.mean_loss`.
#
# As it stands, a pair of an image and a label is an example: attention goes to the few
# images that *have* a rare label, for that label alone. Take this reading if labels are
# rare. If images are rare, or annotated wrongly as a whole, an example is an image, and
# its loss is the mean over its labels:
#
# ```python
#     return losses.mean(axis=1)
# ```
#
# Means over labels differ less than the losses of pairs do, so a smaller λ is needed.


# %%
def digits():
    """Images of digits; labels: even, has a loop, at least five, divisible by nine."""
    images, digits = load_digits(return_X_y=True)
    facts = [digits % 2 == 0, np.isin(digits, [0, 6, 8, 9]), digits >= 5, digits % 9 == 0]
    kept = (digits % 9 != 0) | (np.arange(len(digits)) < 200)  # zeros and nines are few
    labels = np.stack(facts, axis=1).astype(np.float32)
    return images[kept].astype(np.float32) / 16, labels[kept]


def report(when, params, images, labels):
    losses = pair_losses(params, images, labels)
    rare = losses[labels[:, 3] == 1, 3].mean()
    print(f"{when}: mean loss {losses.mean():.3f}, of the rare label where it is {rare:.3f}")


def main():
    images, labels = digits()
    params = init(jax.random.key(0), images.shape[1], labels.shape[1])
    opt_state = tx.init(params)
    rng = np.random.default_rng(0)
    report("before", params, images, labels)
    for _ in range(100):
        batch = rng.choice(len(labels), 64)
        params, opt_state, _ = train_step(params, opt_state, images[batch], labels[batch])
    report("after", params, images, labels)


if __name__ == "__main__":
    main()
