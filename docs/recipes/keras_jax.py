# %% [markdown]
# # Keras 3 on the JAX backend
#
# For models with a `train_step` of their own, in the form of Keras's guide "Customizing
# what happens in `fit()` with JAX". Beside the import four lines change; two more
# carry attention's state.
#
# **Route:** weights (`attention`), because Keras's optimizers are not Optax's. Keras's
# own `sample_weight` takes them: it multiplies each loss and divides by the number of
# losses.
#
# **Trap:** in a stateless `train_step` whatever is not returned is lost, without a
# message. The state of attention (four numbers here; seven with a radius, the default)
# is kept in non-trainable variables, one for each of its leaves; those of the model
# itself come first in `non_trainable_variables`, before those of its layers. And
# `compute_loss` gives a mean, so the losses are computed by the function form of the
# loss.

# %%
import os

os.environ["KERAS_BACKEND"] = "jax"

import jax
import keras
import numpy as np
from sklearn.datasets import load_digits

import absgd_jax  # new

LOWER_RATE_AT = 100  # steps

# %% [markdown]
# λ and the lower learning rate begin at the same step; before it this is plain SGD.

# %%
attention = absgd_jax.attention(lam=absgd_jax.two_stage(0.5, LOWER_RATE_AT))  # new
FORM = jax.tree.structure(attention.init())  # new (state)


class CustomModel(keras.Model):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.attention = [keras.Variable(v, dtype=str(v.dtype), trainable=False) for v in jax.tree.leaves(attention.init())]  # new (state)

    # The guide's name, `compute_loss_and_updates`, is that of a method `evaluate()` needs.
    def loss_and_updates(self, trainable_variables, non_trainable_variables, x, y):
        y_pred, after = self.stateless_call(trainable_variables, non_trainable_variables, x, training=True)
        losses = keras.losses.sparse_categorical_crossentropy(y, y_pred, from_logits=True)  # new
        weights, state = attention.weigh(losses, FORM.unflatten(non_trainable_variables[: FORM.num_leaves]))  # new
        after = [*jax.tree.leaves(state), *after[FORM.num_leaves :]]  # new (state)
        loss = self.compute_loss(x, y, y_pred, sample_weight=weights)  # was: loss = self.compute_loss(x, y, y_pred)
        return loss, (y_pred, after)

    def train_step(self, state, data):
        trainable_variables, non_trainable_variables, optimizer_variables, metrics_variables = state
        x, y, _ = keras.utils.unpack_x_y_sample_weight(data)
        grad_fn = jax.value_and_grad(self.loss_and_updates, has_aux=True)
        (loss, (y_pred, non_trainable_variables)), grads = grad_fn(trainable_variables, non_trainable_variables, x, y)
        trainable_variables, optimizer_variables = self.optimizer.stateless_apply(optimizer_variables, grads, trainable_variables)
        logs, updated = {}, []
        for metric in self.metrics:
            variables = metrics_variables[len(updated) : len(updated) + len(metric.variables)]
            new = (loss,) if metric.name == "loss" else (y, y_pred)
            variables = metric.stateless_update_state(variables, *new)
            logs[metric.name] = metric.stateless_result(variables)
            updated += variables
        return logs, (trainable_variables, non_trainable_variables, optimizer_variables, updated)


# %%
def create(seed=0):
    keras.utils.set_random_seed(seed)
    inputs = keras.Input([64])
    hidden = keras.layers.Dense(32)(inputs)
    hidden = keras.layers.ReLU()(keras.layers.BatchNormalization()(hidden))
    outputs = keras.layers.Dense(10)(keras.layers.Dropout(0.2)(hidden))
    model = CustomModel(inputs=inputs, outputs=outputs)
    rate = keras.optimizers.schedules.PiecewiseConstantDecay([LOWER_RATE_AT], [0.1, 0.005])
    model.compile(
        optimizer=keras.optimizers.SGD(rate, momentum=0.9),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        weighted_metrics=[],
    )
    return model


# %% [markdown]
# Handwritten digits with a long tail: of the last class a fiftieth is left.


# %%
def long_tailed_digits(seed=0):
    x, y = load_digits(return_X_y=True)
    kept = np.random.default_rng(seed).uniform(size=len(y)) < 0.02 ** (y / 9)
    return (x[kept] / 16).astype(np.float32), y[kept]


def main(epochs=16):
    x, y = long_tailed_digits()
    model = create()
    before = model.evaluate(x, y, verbose=0)
    model.fit(x, y, batch_size=64, epochs=epochs, verbose=0)
    print(f"mean loss {before:.3f} -> {model.evaluate(x, y, verbose=0):.3f}")


if __name__ == "__main__":
    main()
