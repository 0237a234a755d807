"""The version for Optax passes Optax's tests, and is the library's value route.

Optax's common suite is that of the installed Optax, with the changes that
docs/upstream.md asks for: the optimizer is listed, and is given `value`.
"""

import functools
import importlib.util
import pathlib
import re
import sys
import types
import unittest

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib

import absgd_jax
from tests import problems

FOLDER = pathlib.Path(__file__).parents[1] / "docs" / "upstream"
LISTED = "{'opt_name': 'absgd', 'opt_kwargs': {'learning_rate': 1e-4}}"


def loaded(path, name, text=None):
    """A module from a file, or from its changed text."""
    module = types.ModuleType(name)
    module.__file__ = str(path)
    text = path.read_text(encoding="utf-8") if text is None else text
    exec(compile(text, path, "exec"), module.__dict__)
    return module


contributed = loaded(FOLDER / "_absgd.py", "optax.contrib._absgd")


def from_the_library(learning_rate=1e-4, lam=1.0, gamma=0.5):
    """The same optimizer, of the library's transform."""
    attention = absgd_jax.scale_by_attention(lam, gamma)
    return optax.chain(attention, optax.sgd(learning_rate, 0.9))


def results(module):
    """Runs a module's tests."""
    suite = unittest.defaultTestLoader.loadTestsFromModule(module)
    result = unittest.TestResult()
    suite.run(result)
    problems = [text for _, text in result.failures + result.errors]
    assert not problems, "\n".join(problems)
    return result.testsRun


def common_suite():
    """Optax's common tests of contributed optimizers, for this one alone."""
    spec = importlib.util.find_spec("optax.contrib._common_test")
    path = pathlib.Path(spec.origin)
    text = path.read_text(encoding="utf-8")
    text, with_value = re.subn(r"(?<=\[)(?='(polyak_sgd', ')?momo')", "'absgd', ", text)
    text, kept = re.subn(
        r"^(_MAIN_OPTIMIZERS_UNDER_TEST = )tuple\(.*\)$",
        rf"\1_ALL_OPTIMIZERS_UNDER_TEST = ({LISTED} | "
        "{'wrapper_name': None, 'wrapper_kwargs': None},)",
        text,
        flags=re.MULTILINE,
    )
    assert with_value >= 5
    assert kept == 1
    return loaded(path, "common_suite", text)


def test_it_passes_the_common_suite(monkeypatch):
    monkeypatch.setattr(optax.contrib, "absgd", contributed.absgd, raising=False)
    assert results(common_suite()) >= 14


def test_its_own_tests_pass(monkeypatch):
    monkeypatch.setitem(sys.modules, contributed.__name__, contributed)
    monkeypatch.setattr(optax.contrib, "_absgd", contributed, raising=False)
    assert results(loaded(FOLDER / "_absgd_test.py", "absgd_test")) == 21


def test_the_contribution_is_the_value_route():
    gamma = lambda count: 0.5 / (1.0 + count)
    data = problems.as_dtype(problems.batches(30)[:2], jnp.float32)
    params = jnp.asarray(problems.initial_params()["w"], jnp.float32)

    @functools.partial(jax.jit, static_argnums=(0, 1))
    def trained(make, tilted_loss, lam):
        optimizer = make(0.05, lam, gamma)

        def step(carry, batch):
            (w, state), (x, labels) = carry, batch

            def loss(w):
                losses = optax.softmax_cross_entropy_with_integer_labels(x @ w, labels)
                return tilted_loss(losses, lam)

            value, grads = jax.value_and_grad(loss)(w)
            updates, state = optimizer.update(grads, state, w, value=value)
            return (optax.apply_updates(w, updates), state), None

        (w, state), _ = jax.lax.scan(step, (params, optimizer.init(params)), data)
        return w, state[0].tilted_loss

    for lam in (-1.5, 0.7, 1e5, np.inf):
        theirs = trained(contributed.absgd, contributed.tilted_loss, lam)
        ours = trained(from_the_library, absgd_jax.tilted_loss, lam)
        chex.assert_trees_all_close(theirs, ours, rtol=1e-5, atol=1e-6)


def test_it_is_as_short_as_optax_asks():
    lines = (FOLDER / "_absgd.py").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 250
    assert max(map(len, lines)) <= 80
