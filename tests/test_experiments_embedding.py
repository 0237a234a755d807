"""Features in the plane."""

import numpy as np
import pytest
from sklearn import neighbors

from experiments.report import tsne


def _features(counts, seed=0, width=60):
    """Clusters, one for each class."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(counts)), counts)
    centers = 6.0 * rng.normal(size=(len(counts), width))
    return centers[labels] + rng.normal(size=(len(labels), width)), labels


def test_neighbours_stay_together_and_the_seed_says_how():
    features, labels = _features([25, 20, 15])
    places = tsne.embed(features)
    assert places.shape == (60, 2)
    near = neighbors.KNeighborsClassifier(5).fit(places, labels)
    assert near.score(places, labels) == 1.0
    np.testing.assert_array_equal(tsne.embed(features), places)


@pytest.mark.parametrize("shape", [(4, 1), (5, 2), (6, 80)])
def test_few_examples_and_few_features_are_placed_too(shape):
    features = np.random.default_rng(0).normal(size=shape)
    assert np.isfinite(tsne.embed(features)).all()


def test_the_figure_has_a_row_for_each_run(figures, tmp_path):
    runs = {
        "one": {"train": _features([9, 6, 3]), "test": _features([5, 5, 5], 1)},
        "another": {"train": _features([9, 6, 3], 2), "test": _features([1, 2, 3], 3)},
    }
    path = tmp_path / "features.png"
    counts = {"one": np.array([900, 600, 300, 2]), "another": np.array([9, 6, 3])}
    names = {"one": ["cat", "dog", "fox", "owl"]}  # of which no owl is drawn
    names["another"] = ["0", "1", "2"]
    tsne.figure(runs, path, counts, names)
    legends = [panel.get_legend() for panel in figures[path.name].axes]
    texts = [[text.get_text() for text in one.texts] for one in legends if one]
    expected = ["cat  (900)", "dog  (600)", "fox  (300)", "owl  (2)"]
    assert texts == [expected, ["0  (9)", "1  (6)", "2  (3)"]]
    # A row for each run, a column for each split, a point for each example drawn.
    points = [
        sum(len(each.get_offsets()) for each in panel.collections)
        for panel in figures[path.name].axes
    ]
    assert points == [18, 15, 18, 6]
    many = {"many": {"test": _features([1] * 30)}}
    counts, names = {"many": np.ones(30)}, {"many": [""] * 30}
    path = tmp_path / "many.png"
    tsne.figure(many, path, counts, names)
    panel, _ = figures["many.png"].axes  # and the bar of colours
    (colored,) = panel.collections
    np.testing.assert_array_equal(np.sort(colored.get_array()), np.arange(30))
