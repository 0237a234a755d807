# %% [markdown]
# # Tokens: losses `[batch, time]` with padding and label smoothing
#
# For language models, taggers and translators. Beside the import four lines change.
#
# **Trap.** A plain mean over `[batch, time]` counts the padding. Where the ordinary
# program divides by `mask.sum()`, give the mask as `where=`, boolean and of the losses'
# shape. The losses at padding may then be anything.
#
# **Route.** The value and the gradient of the tilted loss: it takes losses of any shape,
# and the mask beside the batch.

# %%
import jax
import numpy as np
import optax

import absgd_jax  # new

TOKENS, WIDTH, SWITCH = 12, 16, 70
rate = optax.piecewise_constant_schedule(0.3, {SWITCH: 0.05})
tx = absgd_jax.absgd(rate, lam=absgd_jax.two_stage(1.0, SWITCH))  # was: tx = optax.sgd(rate, momentum=0.9)


# %%
def init(key):
    embed, head = jax.random.split(key)
    return {
        "embed": jax.random.normal(embed, (TOKENS, WIDTH)),
        "head": jax.random.normal(head, (WIDTH, TOKENS)) / 4,
    }


def token_losses(params, inputs, targets):
    logits = params["embed"][inputs] @ params["head"]
    smoothed = optax.smooth_labels(jax.nn.one_hot(targets, TOKENS), 0.1)
    return optax.softmax_cross_entropy(logits, smoothed)


def loss_fn(params, inputs, targets, mask):
    losses = token_losses(params, inputs, targets)  # [batch, time]
    return losses  # was: return losses.sum(where=mask) / mask.sum()


@jax.jit
def train_step(params, opt_state, inputs, targets, mask):
    loss, grads = absgd_jax.tilted_value_and_grad(loss_fn, opt_state)(params, inputs, targets, mask, where=mask)  # was: loss, grads = jax.value_and_grad(loss_fn)(params, inputs, targets, mask)
    updates, opt_state = tx.update(grads, opt_state, params, value=loss)  # was: updates, opt_state = tx.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), opt_state, loss


# %% [markdown]
# `loss` is now a `TiltedValue`; the number for the log is `loss.mean_loss`.
#
# Every token is an example here: attention goes to rare *tokens*, in whatever sequence
# they are. Label smoothing puts a floor under the losses, the same for all, and a
# constant in every loss changes no weight.
#
# If the *sequences* are the examples (a rare language, a rare kind of document), average
# the losses of each sequence first. The lengths as `sample_weights=` keep the mean one
# over tokens; without them every sequence counts the same. These two lines are then
#
# ```python
#     return losses.sum(axis=1, where=mask) / mask.sum(axis=1).clip(min=1)
#     loss, grads = absgd_jax.tilted_value_and_grad(loss_fn, opt_state)(params, inputs, targets, mask, sample_weights=mask.sum(axis=1))
# ```
#
# Means over many tokens differ less than tokens do, so a smaller λ is needed.


# %%
def sequences(rng, size, length=10):
    """Nineteen of twenty count up through 0 to 7, the others down through 8 to 11."""
    rare = rng.random((size, 1)) < 0.05
    start, steps = rng.integers(8, size=(size, 1)), np.arange(length + 1)
    tokens = np.where(rare, 8 + (start - steps) % 4, (start + steps) % 8)
    mask = steps[1:] <= rng.integers(2, length + 1, size=(size, 1))
    return tokens[:, :-1], tokens[:, 1:], mask


def report(when, params, inputs, targets, mask):
    losses = token_losses(params, inputs, targets)
    mean, rare = losses[mask].mean(), losses[mask & (targets >= 8)].mean()
    print(f"{when}: mean loss {mean:.3f}, of rare tokens {rare:.3f}")


def main():
    rng = np.random.default_rng(0)
    params = init(jax.random.key(0))
    opt_state = tx.init(params)
    test = sequences(rng, 200)
    report("before", params, *test)
    for _ in range(100):
        params, opt_state, _ = train_step(params, opt_state, *sequences(rng, 32))
    report("after", params, *test)


if __name__ == "__main__":
    main()
