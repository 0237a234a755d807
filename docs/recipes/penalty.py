# %% [markdown]
# # A penalty or an auxiliary loss beside the losses
#
# For a loss that is a mean over examples plus something else: an L1 penalty, a load
# balancing term, a distillation loss. Beside the import three lines change, and six
# carry the state of the weights from step to step.
#
# **Trap.** In the tilted loss, or added to the losses of the examples, the penalty would
# be weighted as they are: its strength would move with s from step to step.
#
# **Route.** The weights themselves: their mean with the losses is one term of the loss,
# and the penalty stands beside it as before. Optimizer and update stay as they are.

# %%
import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

import absgd_jax  # new

SWITCH = 70
attention = absgd_jax.attention(lam=absgd_jax.two_stage(0.5, SWITCH))  # new
tx = optax.sgd(optax.piecewise_constant_schedule(0.2, {SWITCH: 0.05}), momentum=0.9)


# %%
def init(key):
    return {"w": jax.random.normal(key, (64, 10)) / 8, "b": jnp.zeros(10)}


def example_losses(params, images, labels):
    logits = images @ params["w"] + params["b"]
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def loss_fn(params, state, images, labels):  # was (state): def loss_fn(params, images, labels):
    losses = example_losses(params, images, labels)
    penalty = 1e-3 * jnp.abs(params["w"]).sum()
    weights, state = attention.weigh(losses, state)  # new
    return jnp.mean(weights * losses) + penalty, (losses.mean(), state)  # was: return losses.mean() + penalty, losses.mean()


@jax.jit
def train_step(params, opt_state, state, images, labels):  # was (state): def train_step(params, opt_state, images, labels):
    (_, (loss, state)), grads = jax.value_and_grad(loss_fn, has_aux=True)(params, state, images, labels)  # was (state): (_, loss), grads = jax.value_and_grad(loss_fn, has_aux=True)(params, images, labels)
    updates, opt_state = tx.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), opt_state, state, loss  # was (state): return optax.apply_updates(params, updates), opt_state, loss


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
    state = attention.init()  # new (state)
    rng = np.random.default_rng(0)
    report("before", params, images, labels)
    for _ in range(100):
        batch = rng.choice(len(labels), 64)
        params, opt_state, state, _ = train_step(params, opt_state, state, images[batch], labels[batch])  # was (state): params, opt_state, _ = train_step(params, opt_state, images[batch], labels[batch])
    report("after", params, images, labels)


if __name__ == "__main__":
    main()
