# %% [markdown]
# # Gradient accumulation with `optax.MultiSteps`
#
# For a program that calls its training step once per microbatch. Beside the import four
# lines change.
#
# **Trap.** `optax.MultiSteps` averages gradients and knows nothing of losses. *Around*
# `absgd` it would weight a whole average by the losses of its last microbatch: attention
# stands in front of it.
#
# **Route.** Value and gradient of the tilted loss, and `scale_by_attention` at the head
# of the chain.
#
# This is ABSGD with the microbatch for its batch: s takes a step per microbatch, and a
# weight compares an example with those of its own microbatch and of those before. Where
# microbatches follow one another in time (a stream, a loop that owns the accumulation)
# take this recipe; where the whole batch is at hand take [microbatches](microbatches.py),
# which is exactly the update of the whole batch.

# %%
import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

import absgd_jax  # new

MICROBATCHES = 4  # in an update
SWITCH = 70  # updates; λ counts microbatches
rate = optax.piecewise_constant_schedule(0.2, {SWITCH: 0.05})
sgd = optax.MultiSteps(optax.sgd(rate, momentum=0.9), every_k_schedule=MICROBATCHES)
tx = optax.chain(absgd_jax.scale_by_attention(lam=absgd_jax.two_stage(0.5, MICROBATCHES * SWITCH)), sgd.gradient_transformation())  # was: tx = sgd


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
    loss, grads = absgd_jax.tilted_value_and_grad(loss_fn, opt_state)(params, images, labels)  # was: loss, grads = jax.value_and_grad(loss_fn)(params, images, labels)
    updates, opt_state = tx.update(grads, opt_state, params, value=loss)  # was: updates, opt_state = tx.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), opt_state, loss


# %% [markdown]
# `loss` is now a `TiltedValue`; the number for the log is `loss.mean_loss`. The state of
# the weights is in `opt_state`, beside the gradients that wait for their update.


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
    for _ in range(100 * MICROBATCHES):
        batch = rng.choice(len(labels), 16)
        params, opt_state, _ = train_step(params, opt_state, images[batch], labels[batch])
    report("after", params, images, labels)


if __name__ == "__main__":
    main()
