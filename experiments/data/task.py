"""The task of a run: what it is trained and evaluated on, made from a data set."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments import configs
from experiments.data import datasets, imbalance, label_noise, split
from experiments.data.types import Examples


class Task(NamedTuple):
    """The training, validation and test sets of a run, and its meta set."""

    train: Examples
    validation: Examples | None
    test: Examples
    mislabelled: np.ndarray  # bool [train examples]
    class_counts: np.ndarray  # int64 [classes], of train, by the labels it has
    meta: Examples | None = None  # with the labels of the data set, balanced
    # int64 [train examples]: index of each in the data set's training split
    rows: np.ndarray | None = None
    # Of your own data: from inputs as stored to those of the network, by statistics of
    # the training set before subsampling; None where they are the same.
    prepare: Callable[[np.ndarray], np.ndarray] | None = None
    # int64 [test examples]: index of each in the data set's test split; in its training
    # split where it was held out of that
    test_rows: np.ndarray | None = None


def load_task(
    data: configs.Data,
    seed: int,
    data_dir: Path | None = None,
    *,
    download: bool = False,
) -> Task:
    """Loads a data set, holds out, subsamples and flips labels.

    In this order: every split keeps `examples_per_class`; validation set, meta set and,
    for digits, test set are held out; the training set is subsampled; labels of
    training and validation are flipped. COVID-LT is subsampled as it is read. The seed
    decides all of it, unless `data.corruption_seed` is set; `data_dir` is as in
    `datasets.load`.

    What is held out for validation is balanced, and its labels are as noisy as the
    training's. Without `validation_per_class` it is the data set's own validation
    split, if there is one. Your own data have `validation_share` of each class held out
    where they come without a validation split; their test set is held out as they are
    read.

    Raises:
      MissingData: the data set is not there.
      DamagedData: it is not what it should be.
      ValueError: a class has too few examples.
    """
    fixed = data.corruption_seed
    split_rng, tail_rng, noise_rng = np.random.default_rng(
        [seed if fixed is None else fixed, 0]
    ).spawn(3)
    loaded = datasets.load(data, data_dir, download=download)
    rows = np.arange(len(loaded.train.labels)) if loaded.rows is None else loaded.rows
    train, test, validation = loaded[:3]
    test_rows = np.arange(0 if test is None else len(test.labels))
    if test is not None and loaded.rows is not None:  # they are the others, in order
        test_rows = np.setdiff1d(np.arange(len(rows) + len(test_rows)), rows)
    if (most := data.examples_per_class) is not None:
        first = _first_of_each_class(train.labels, most)
        train, rows = train.take(first), rows[first]
        if test is not None:
            first = _first_of_each_class(test.labels, most)
            test, test_rows = test.take(first), test_rows[first]
        if validation is not None:
            first = _first_of_each_class(validation.labels, most)
            validation = validation.take(first)
    meta = None
    held_out = data.validation_per_class
    if data.source == "covid_lt":  # which holds validation images out by patient
        held_out = 0
    if test is None or held_out or data.meta_per_class:
        parts = split.stratified(
            train.labels,
            split_rng,
            validation_per_class=held_out,
            test_per_class=data.test_per_class,
            meta_per_class=data.meta_per_class,
        )
        if test is None:
            test, test_rows = train.take(parts.test), rows[parts.test]
        if held_out:
            validation = train.take(parts.validation)
        if data.meta_per_class:
            meta = train.take(parts.meta)
        train, rows = train.take(parts.train), rows[parts.train]
    if data.info.own and validation is None and data.validation_share:
        held = split.shares(
            train.labels,
            data.validation_share,
            data.class_names,
            "validation",
            split_rng,
        )
        train, validation = train.take(held.train), train.take(held.held_out)
        rows = rows[held.train]
    prepare = None
    if loaded.fit is not None:
        prepare = loaded.fit(train.inputs)
        train, validation, test, meta = (
            part and part._replace(inputs=prepare(part.inputs))
            for part in (train, validation, test, meta)
        )
    if data.imbalance_ratio > 1.0 and data.source != "covid_lt":
        kept = imbalance.subsample(train.labels, data, tail_rng)
        train, rows = train.take(kept), rows[kept]
    mislabelled = np.zeros(len(train.labels), bool)
    if data.noise_rate > 0.0:
        flip = label_noise.rule(data, noise_rng)
        labels, mislabelled = flip(train.labels)
        train = train._replace(labels=labels)
        if validation is not None:
            validation = validation._replace(labels=flip(validation.labels)[0])
    class_counts = np.bincount(train.labels, minlength=data.classes)
    return Task(
        train, validation, test, mislabelled, class_counts, meta, rows, prepare,
        test_rows,
    )  # fmt: skip


def _first_of_each_class(labels: np.ndarray, most: int) -> np.ndarray:
    """Indices of the first examples of each class, at most so many, in order."""
    kept = [np.flatnonzero(labels == label)[:most] for label in np.unique(labels)]
    return np.sort(np.concatenate(kept))
