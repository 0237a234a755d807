# Copyright 2026 DeepMind Technologies Limited. All Rights Reserved.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
# ==============================================================================
"""Tests for `_absgd.py`."""

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np
from optax._src import alias
from optax._src import update
from optax._src import utils
from optax.contrib import _absgd
import optax.tree


def _problem(steps, batch=8, features=3):
  """Inputs [steps, batch, features] and targets [steps, batch]."""
  rng = np.random.default_rng(0)
  x = rng.normal(size=(steps, batch, features))
  y = x @ rng.normal(size=features) + rng.standard_t(3, size=(steps, batch))
  return x, y


# Compiled once for all temperatures.
_value_and_grad = jax.jit(jax.value_and_grad(_absgd.tilted_loss))


def _losses(params, x, y):
  return (1 + (x @ params - y) ** 2) ** 0.5 - 1


def _train(opt, x, y):
  """Parameters after each step."""

  @jax.jit
  def step(params, state, x, y):
    lam = optax.tree.get(state, 'lam', jnp.inf)
    fun = lambda w: _absgd.tilted_loss(_losses(w, x, y), lam)
    value, grad = jax.value_and_grad(fun)(params)
    updates, state = opt.update(grad, state, params, value=value)
    return update.apply_updates(params, updates), state

  params = jnp.zeros(x.shape[-1], x.dtype)
  state = opt.init(params)
  history = []
  for batch in zip(x, y):
    params, state = step(params, state, *batch)
    history.append(np.asarray(params))
  return np.stack(history)


class TiltedLossTest(parameterized.TestCase):

  @parameterized.product(lam=(-1e8, -1e3, -3.0, -1e-3, 1e-3, 0.5, 1e5, 1e8))
  def test_value_and_gradient(self, lam):
    losses = np.random.default_rng(1).gamma(1.0, 2.0, size=64)
    center = losses.max() if lam > 0 else losses.min()
    scaled = np.exp((losses - center) / lam)
    expected = center + lam * np.log1p(np.expm1((losses - center) / lam).mean())
    value, grad = _value_and_grad(jnp.asarray(losses, jnp.float32), lam)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    np.testing.assert_allclose(grad, scaled / scaled.sum(), atol=1e-6)

  @parameterized.parameters(jnp.inf, -jnp.inf)
  def test_infinite_temperature_is_the_mean(self, lam):
    losses = jnp.array([1.0, 2.0, 6.0])
    value, grad = _value_and_grad(losses, lam)
    self.assertEqual(value, 3.0)
    np.testing.assert_allclose(grad, 1 / 3, rtol=1e-6)

  @parameterized.parameters(-0.5, 0.5, jnp.inf)
  def test_padding_counts_for_nothing(self, lam):
    losses = jnp.array([1.0, 2.0, 6.0])
    padded = jnp.array([1.0, 2.0, 6.0, jnp.nan, 1e30])
    weights = jnp.array([1, 1, 1, 0, 0])
    value, grad = _value_and_grad(losses, lam)
    padded_value, padded_grad = _value_and_grad(padded, lam, weights)
    np.testing.assert_allclose(padded_value, value, rtol=1e-6)
    np.testing.assert_allclose(padded_grad[:3], grad, rtol=1e-6)
    np.testing.assert_array_equal(padded_grad[3:], 0.0)


class ABSGDTest(parameterized.TestCase):

  @parameterized.parameters(
      (-2.0, 0.1, 0.9), (-2.0, 1.0, None), (1.5, 0.1, None), (1.5, 1.0, 0.9)
  )
  def test_is_the_algorithm_of_the_paper(self, lam, gamma, momentum):
    steps, learning_rate = 50, 0.02
    x, y = _problem(steps)
    s, share, velocity = 0.0, 0.0, np.zeros(3)
    params, expected = np.zeros(3), []
    for x_t, y_t in zip(x, y):
      exponentials = np.exp(_losses(params, x_t, y_t) / lam)
      s = (1 - gamma) * s + gamma * exponentials.mean()
      share = (1 - gamma) * share + gamma
      weights = exponentials / (s / share)
      residuals = x_t @ params - y_t
      grads = (residuals / (1 + residuals**2) ** 0.5)[:, None] * x_t
      velocity = (momentum or 0.0) * velocity + weights @ grads / len(y_t)
      params = params - learning_rate * velocity
      expected.append(params)
    with utils.x64_precision(True):
      opt = _absgd.absgd(learning_rate, lam, gamma, momentum)
      actual = _train(opt, jnp.asarray(x), jnp.asarray(y))
    np.testing.assert_allclose(actual, np.stack(expected), rtol=1e-9)

  def test_infinite_temperature_is_sgd(self):
    x, y = map(jnp.float32, _problem(50))
    actual = _train(_absgd.absgd(0.01, jnp.inf), x, y)
    expected = _train(alias.sgd(0.01, 0.9), x, y)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-6)

  def test_temperature_follows_a_schedule(self):
    x, y = map(jnp.float32, _problem(20))
    switch = lambda count: jnp.where(count < 10, jnp.inf, 2.0)
    actual = _train(_absgd.absgd(0.01, switch), x, y)
    sgd = _train(alias.sgd(0.01, 0.9), x, y)
    np.testing.assert_allclose(actual[:10], sgd[:10], rtol=1e-4, atol=1e-6)
    self.assertGreater(np.abs(actual[10:] - sgd[10:]).max(axis=1).min(), 1e-4)

  @parameterized.parameters(jnp.nan, jnp.inf)
  def test_value_that_is_not_finite_leaves_the_state(self, value):
    opt = _absgd.scale_by_attention(1.0)
    state = opt.init(jnp.zeros(2))
    _, state = opt.update(jnp.ones(2), state, value=jnp.array(3.0))
    updates, after = opt.update(
        jnp.full(2, jnp.nan), state, value=jnp.array(value)
    )
    self.assertTrue(np.all(np.isnan(updates)))
    self.assertEqual(after.tilted_loss, state.tilted_loss)
    self.assertEqual(after.weight, state.weight)


if __name__ == '__main__':
  absltest.main()
