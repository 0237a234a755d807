# %% [markdown]
# # bfloat16 parameters, float32 weights
#
# For a network that is stored and computed in bfloat16. Beside the import four lines
# change.
#
# **Trap.** `optax.inject_hyperparams` casts hyperparameters to the dtype of the
# parameters: λ = 0.3 would be 0.30078125. So give it `hyperparam_dtype=jnp.float32`; and
# name `momentum` and `weight_decay` as static, or the momentum buffer turns from bfloat16
# to float32 at the first update, which compiles the step again and is an error in
# `jax.lax.scan`. Make the losses of float32 logits: from 2 on, bfloat16 losses are 1/64
# apart, which at λ = 0.3 is 5% of a weight.
#
# **Route.** The value and the gradient of the tilted loss. Its state and weights are
# float32 whatever the parameters are, and gradients keep the dtype of the parameters.
# (With `inject_hyperparams` a schedule of λ arrives one update late on this route.)

# %%
import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

import absgd_jax  # new

DTYPE, SWITCH = jnp.bfloat16, 70
rate = optax.piecewise_constant_schedule(0.1, {SWITCH: 0.1})
tx = optax.inject_hyperparams(absgd_jax.absgd, ("momentum", "weight_decay"), hyperparam_dtype=jnp.float32)(rate, lam=absgd_jax.two_stage(0.3, SWITCH))  # was: tx = optax.inject_hyperparams(optax.sgd, "momentum", hyperparam_dtype=jnp.float32)(rate, momentum=0.9)


# %%
def init(key):
    features, head = jax.random.split(key)
    return {
        "features": jax.random.normal(features, (64, 32), DTYPE) / 8,
        "head": jax.random.normal(head, (32, 10), DTYPE) / 8,
    }


def example_losses(params, images, labels):
    hidden = jax.nn.relu(images.astype(DTYPE) @ params["features"])
    logits = (hidden @ params["head"]).astype(jnp.float32)
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
