"""Statistics of weights and suggestions of λ, against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

import absgd_jax

LOSSES = np.random.default_rng(0).exponential(size=(5, 6))
MASK = np.random.default_rng(1).uniform(size=(5, 6)) < 0.8
GROUPS = np.random.default_rng(2).integers(0, 3, size=(5, 6))


def test_statistics_are_those_of_the_weights_without_padding():
    attention = absgd_jax.attention(0.7)
    weights, _ = attention.weigh(
        jnp.asarray(LOSSES, jnp.float32), attention.init(), where=MASK
    )
    got = jax.jit(absgd_jax.weight_statistics, static_argnames="num_groups")(
        weights, where=MASK, groups=GROUPS, num_groups=3
    )
    p = special.softmax(LOSSES[MASK] / 0.7)
    kl = np.sum(p * np.log(p * len(p)))
    assert float(got.mean) == pytest.approx(1.0, rel=1e-5)
    assert float(got.largest) == pytest.approx(p.max() * len(p), rel=1e-5)
    assert float(got.kl) == pytest.approx(kl, rel=1e-4)
    assert float(got.effective_fraction) == pytest.approx(np.exp(-kl), rel=1e-4)
    shares = np.bincount(GROUPS[MASK], weights=p, minlength=3)
    np.testing.assert_allclose(got.group_shares, shares, rtol=1e-5)
    right = absgd_jax.weight_statistics(weights, groups=GROUPS == 1, num_groups=2)
    expected = [shares[0] + shares[2], shares[1]]
    np.testing.assert_allclose(right.group_shares, expected, rtol=1e-5)


def test_uniform_weights_count_in_full_and_padding_alone_not_at_all():
    uniform = absgd_jax.weight_statistics(jnp.ones(7))
    assert [float(x) for x in uniform[:4]] == pytest.approx([1, 1, 0, 1])
    nothing = absgd_jax.weight_statistics(jnp.zeros(7), where=jnp.zeros(7, bool))
    assert [float(x) for x in nothing[:4]] == [0.0] * 4
    many = absgd_jax.weight_statistics(jnp.ones(70_000, jnp.float16))
    assert [float(x) for x in many[:4]] == pytest.approx([1, 1, 0, 1], abs=1e-3)
    bad = absgd_jax.weight_statistics(jnp.array([jnp.nan, 1.0]))
    assert np.isnan([bad.kl, bad.effective_fraction]).all()
    with jax.numpy_dtype_promotion("strict"):
        stalled = absgd_jax.weight_statistics(jnp.zeros(7))
    assert [float(x) for x in stalled[:4]] == [0.0] * 4


@pytest.mark.filterwarnings("ignore:.* above log 2")
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("scale", [1.0, 1e3])
def test_a_suggested_lam_has_the_effective_fraction_that_it_is_for(sign, scale):
    losses = scale * LOSSES.ravel()
    lams = absgd_jax.suggest_lam(losses, sign=sign)
    assert list(lams) == [0.9, 0.75, 0.5, 0.25]
    for fraction, lam in lams.items():
        p = special.softmax(losses / lam)
        reached = np.exp(-np.sum(p * np.log(np.maximum(p, 1e-300) * p.size)))
        assert reached == pytest.approx(fraction, rel=1e-6)
        assert np.sign(lam) == sign
    reference = absgd_jax.suggest_lam(LOSSES, sign=sign)
    np.testing.assert_allclose(
        list(lams.values()), scale * np.array(list(reference.values())), rtol=1e-9
    )


def test_a_fraction_that_ties_forbid_is_left_out():
    losses = [0.5, 0.5, 0.5, 0.0]
    assert list(absgd_jax.suggest_lam(losses)) == [0.9]
    for size in range(2, 30):  # also where rounding makes it a little less
        for ties in range(1, size):
            tied = np.repeat([0.5, 0.0], [ties, size - ties])
            assert not absgd_jax.suggest_lam(tied, fractions=(ties / size,))
    with pytest.raises(TypeError, match=r"several, as \(0\.5,\), got a number"):
        absgd_jax.suggest_lam(losses, fractions=0.5)


def test_examples_that_the_network_gets_wrong_are_warned_of():
    losses = np.full(2000, 0.01)
    losses[0] = 3.0  # one is fewer than 0.1%
    absgd_jax.suggest_lam(losses)
    losses[1] = 0.7
    with pytest.warns(UserWarning, match=r"^0\.1% of the losses are above log 2"):
        absgd_jax.suggest_lam(losses)
    absgd_jax.suggest_lam(losses, sign=-1)  # warnings are errors here
