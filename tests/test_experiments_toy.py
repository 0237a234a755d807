"""The toy figure, against NumPy."""

import math

import numpy as np
import pytest
from scipy import special

from absgd_jax import losses
from experiments import commands
from experiments.studies import toy
from tests.outcomes import cells


def _examples(seed):
    everything, chosen = toy.points(seed), toy.batch(seed)
    return toy.Points(everything.inputs[chosen], everything.labels[chosen])


def _oracle(examples, weights):
    """One step of gradient descent on the weighted mean loss; weights sum to one."""
    x, y = examples.inputs.astype(np.float64), examples.labels
    margins = y * (x @ np.array(toy.START))
    gradients = -(y * special.expit(-margins))[:, None] * x
    return np.array(toy.START) - toy.LEARNING_RATE * weights @ gradients


@pytest.mark.parametrize("lam", [0.2, 0.1, 0.05, -0.5, math.inf])
def test_within_one_batch_the_weights_are_a_softmax(lam):
    for seed in range(3):
        examples = _examples(seed)
        margins = examples.labels * (examples.inputs @ np.array(toy.START))
        weights = special.softmax(np.logaddexp(0.0, -margins) / lam)
        found = toy.step(examples, lam)
        np.testing.assert_allclose(found.weights, 16 * weights, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(found.line, _oracle(examples, weights), rtol=1e-6)


def test_class_weights_are_those_of_the_effective_number():
    examples = _examples(0)
    of_class = np.asarray(losses.class_balanced_weights([100, 20], 0.999))
    weights = np.repeat(of_class, [13, 3])
    found = toy.step(examples, math.inf, by_class=True)
    np.testing.assert_allclose(found.weights, weights / weights.mean(), rtol=1e-5)
    line = _oracle(examples, weights / weights.sum())
    np.testing.assert_allclose(found.line, line, rtol=1e-6)


def test_the_points_are_the_ones_described_and_the_seed_says_which():
    inputs, labels = toy.points(0)
    assert inputs.shape == (120, 3)
    assert (labels < 0.0).sum() == 100
    np.testing.assert_array_equal(inputs[:, 2], 1.0)
    for sign, mean, deviation in ((-1, 0.4, 0.1), (1, 0.6, 0.05)):
        places = inputs[labels == sign, :2]
        assert places.mean() == pytest.approx(mean, abs=4 * deviation / 6)
        assert places.std() == pytest.approx(deviation, rel=0.35)
    np.testing.assert_array_equal(toy.points(0).inputs, inputs)
    assert not np.array_equal(toy.points(1).inputs, inputs)
    chosen = toy.batch(0)
    assert len(set(chosen)) == 16
    assert (labels[chosen] > 0.0).sum() == 3


def test_the_figure_and_its_table(figures, tmp_path, capsys):
    config = commands.Toy(out=tmp_path / "toy", lam=0.1)
    assert toy.main(config) == 0
    text = (config.out / toy.TABLE).read_text(encoding="utf-8")
    assert text in capsys.readouterr().out
    rows = [cells(line) for line in text.splitlines() if line.startswith("| ")][1:]
    names = ["SGD", "SGD, class weights (β = 0.999)", "ABSGD, λ = 0.1"]
    assert [row[0] for row in rows] == names
    shares = [float(row[1].rstrip("%")) for row in rows]
    moves = [float(row[3]) for row in rows]
    assert shares[0] == pytest.approx(100 * 3 / 16, abs=0.06)
    assert shares == sorted(shares)
    assert moves == sorted(moves)

    # How far the line's crossing of the diagonal has come, by the line itself.
    line = np.asarray(toy.step(_examples(0), 0.1).line, np.float64)
    a, b, c = line
    panels = figures[toy.FIGURE].axes
    assert [panel.get_title("left") for panel in panels] == names
    (after,) = (each for each in panels[2].lines if each.get_label() == "line after")
    x, y = after.get_data()
    np.testing.assert_allclose(a * x + b * y + c, 0.0, atol=1e-6)
    crossings = [-c / (a + b) for a, b, c in (toy.START, line)]
    assert moves[2] == pytest.approx(math.sqrt(2) * -np.diff(crossings)[0], abs=6e-5)
    minority = toy.points(0).inputs[100:]
    assert rows[2][4] == f"{(minority @ line > 0).sum()} of 20"
