# %% [markdown]
# # Equinox
#
# For a program that trains an `eqx.Module` with `eqx.filter_value_and_grad` and an
# Optax optimizer. Beside the import four lines change.
#
# **Trap.** A module holds more than parameters. JAX's own `value_and_grad` and `vjp` stop
# at its functions ("is not a valid JAX type") and give its integer leaves gradients of
# dtype float0, which are refused; Equinox's own leave out both. (A module is callable,
# and so is its gradient. It is not mistaken for a pullback; `eqx.filter_vjp` makes one.)
#
# **Route.** The value and the gradient of the tilted loss, because `value_and_grad=`
# takes Equinox's own.

# %%
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

import absgd_jax  # new


# %%
class Classifier(eqx.Module):
    network: eqx.nn.MLP
    pixels: jax.Array  # integers: the pixels in use

    def __init__(self, key):
        self.network = eqx.nn.MLP(60, 10, 32, depth=1, key=key)
        self.pixels = jnp.arange(2, 62)

    def __call__(self, image):
        return self.network(image[self.pixels])


def loss_fn(model, images, labels):
    logits = jax.vmap(model)(images)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return losses  # was: return losses.mean()


# %% [markdown]
# Attention begins when the network has learned what all digits have in common, and the
# learning rate falls at the same step.

# %%
SWITCH = 70
rate = optax.piecewise_constant_schedule(0.1, {SWITCH: 0.05})
tx = absgd_jax.absgd(rate, lam=absgd_jax.two_stage(0.5, SWITCH))  # was: tx = optax.sgd(rate, momentum=0.9)


@eqx.filter_jit
def train_step(model, opt_state, images, labels):
    value_and_grad = absgd_jax.tilted_value_and_grad(loss_fn, opt_state, value_and_grad=eqx.filter_value_and_grad)  # was: value_and_grad = eqx.filter_value_and_grad(loss_fn)
    loss, grads = value_and_grad(model, images, labels)
    params = eqx.filter(model, eqx.is_inexact_array)
    updates, opt_state = tx.update(grads, opt_state, params, value=loss)  # was: updates, opt_state = tx.update(grads, opt_state, params)
    return eqx.apply_updates(model, updates), opt_state, loss


# %% [markdown]
# `loss` is now a `TiltedValue`; the number for the log is `loss.mean_loss`.


# %%
def long_tail():
    """Handwritten digits: 100 images of the first class, 2 of the last."""
    images, labels = load_digits(return_X_y=True)
    kept = [np.flatnonzero(labels == k)[: round(100 * 0.65**k)] for k in range(10)]
    kept = np.concatenate(kept)
    return images[kept].astype(np.float32) / 16, labels[kept]


def report(when, model, images, labels):
    logits = jax.vmap(model)(images)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    rare = losses[labels >= 7].mean()
    print(f"{when}: mean loss {losses.mean():.3f}, of the three rarest {rare:.3f}")


def main():
    images, labels = long_tail()
    model = Classifier(jax.random.key(0))
    opt_state = tx.init(eqx.filter(model, eqx.is_inexact_array))
    rng = np.random.default_rng(0)
    report("before", model, images, labels)
    for _ in range(100):
        batch = rng.choice(len(labels), 64)
        model, opt_state, _ = train_step(model, opt_state, images[batch], labels[batch])
    report("after", model, images, labels)


if __name__ == "__main__":
    main()
