"""The overview at the head of the page of results: gains by method and data set."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments import presets
from experiments.report import formatting
from experiments.studies import (
    compare,
    equal_grids_report,
    reproduce,
    reproduce_report,
)

Record = Mapping[str, Any]


class Row(NamedTuple):
    """A method by its names in the studies; None where a study does not have it."""

    title: str
    compared: str | None  # in `compare`
    grids: str | None  # in `equal_grids`
    in_full: str | None = None  # in `reproduce`


class Column(NamedTuple):
    """A data set, with what SGD has and the methods gain, by their names there."""

    heading: str
    sgd: str
    gains: Mapping[str, str]
    study: str  # the field of `Row` that holds the names


_LATE = "ABSGD (CE), ρ = 0.4"
# By what the weights are made from; in tables with rare classes.
IMBALANCED = {
    "class counts": (
        Row("LDAM-DRW", "ldam_drw", "ldam_drw", "SGD (CB-LDAM)"),
        Row("logit adjustment from the first step", "logit_adjusted", "logit_adjusted"),
        Row(
            "logit adjustment, deferred",
            None,
            None,
            "SGD (CE), logit adjustment, deferred",
        ),
        Row("class weights, deferred (DRW)", "drw_ce", None, "SGD (CB-CE), deferred"),
        Row("class weights from the first step", "cb_ce", "cb_ce", "SGD (CB-CE)"),
    ),
    "class counts and losses": (
        Row(
            "ABSGD, class weights in the loss", "absgd_cb", "absgd_cb", "ABSGD (CB-CE)"
        ),
        Row(
            "ABSGD, class weights as base weights",
            "absgd_cb_base",
            "absgd_cb_base",
            "ABSGD (CB-CE), base weights",
        ),
        Row(
            "automatic λ, class weights as base weights",
            None,
            "automatic_cb_base",
            "ABSGD (CB-CE), base weights, ρ = 0.4",
        ),
        Row("automatic λ, logit adjustment", None, "automatic_adjusted"),
        Row("group DRO over the classes", "group_dro", None),
    ),
    "losses alone": (
        Row("ABSGD, λ chosen", "absgd", "absgd", "ABSGD (CE)"),
        Row(
            "ABSGD, automatic λ",
            "absgd_auto",
            "automatic",
            f"{_LATE} from the first step",
        ),
        Row("automatic λ in the second stage", None, None, _LATE),
        Row(
            "automatic λ, weights up to 50",
            None,
            "automatic_wide",
            "ABSGD (CE), ρ = 1.6, weights up to 50",
        ),
        Row("TERM within the batch", "term", "term"),
        Row("EG, a weight for each example", "eg_examples", "eg_examples"),
        Row("focal loss", "focal", "focal", "SGD (Focal)"),
        Row("ABSGD on the focal loss", "absgd_focal", "absgd_focal", "ABSGD (Focal)"),
    ),
}
MISLABELLED = {
    "weights from losses": (
        Row(
            "ABSGD, automatic λ < 0", "absgd_auto", None, f"{_LATE} from the first step"
        ),
        Row("the same after a tenth of the epochs", "absgd_auto_late", None),
        Row("the same after a half of the epochs", "absgd_auto_half", None),
        Row("ABSGD, λ < 0 chosen", "absgd", None),
        Row("ABSGD, fixed λ < 0 in the second stage", None, None, "ABSGD (CE)"),
        Row("EG within the batch", "eg", None),
        Row("EG, a weight for each example", "eg_examples", None),
        Row("TERM within the batch", "term", None),
        Row("RECOVER", "recover", None),
    ),
    "another loss": (
        Row("SCE", "sce", None, "SGD (SCE)"),
        Row("ABSGD on SCE", "absgd_sce", None, "ABSGD (SCE)"),
        Row("EG within the batch, on SCE", None, None, "EG (SCE)"),
        Row("GCE", "gce", None),
        Row("truncated GCE", "tce", None, "SGD (TCE)"),
    ),
    "class counts": (
        Row("LDAM-DRW", "ldam_drw", None),
        Row("logit adjustment", "logit_adjusted", None),
        Row("class weights from the first step", "cb_ce", None),
        Row("ABSGD, class weights as base weights", "absgd_cb_base", None),
    ),
    "other": (
        Row("Meta-Weight-Net, with clean examples", "mw_net", None),
        Row("SGD, logits divided by their norm", "sgd+norm", None),
        Row("ABSGD, λ < 0 chosen, the same logits", "absgd+norm", None),
    ),
}

GROUPED = {
    "losses alone": (
        Row("ABSGD, automatic λ", None, "automatic"),
        Row("automatic λ, weights up to 50", None, "automatic_wide"),
        Row("ABSGD in the second stage, λ chosen", None, "absgd"),
        Row("ABSGD from the first step, λ chosen", None, "absgd_first"),
        Row("TERM within the batch", None, "term"),
        Row("EG, a weight for each example", None, "eg_examples"),
        Row("CVaR", None, "cvar"),
        Row("focal loss", None, "focal"),
    ),
    "the groups": (
        Row("SGD on as many examples of each", None, equal_grids_report.BY_GROUP),
    ),
}

_GROUPS = """### Rare groups

The mean accuracy of the groups, which only the last method knows. A group is one
of ten classes, some of them rare, of which a label joins several; or the images of a
label that are inverted, or not, as nearly all of the other label are. The last row
shows what there is to gain. Settings are chosen by plain validation accuracy; the
section below has those that are chosen by the groups', too.
"""

_MISLABELLED_HEADINGS = (
    "### Wrong labels, CIFAR-10",
    "### Wrong labels, digits",
    "### Wrong labels and rare classes",
)

_INTRODUCTION = """## Overview

Points of accuracy that methods gain over SGD on the same data, each at its chosen
setting (with wrong labels in full, the preset's): mean ± standard error of the
differences, paired by seed or by network; a gain without ± is of one seed. The first
row has the accuracy of SGD, in percent; a dash stands for what was not trained so.
The sections below have settings, protocols and commands, and many more methods.

"In full" is the paper's protocol, in which λ and class weights begin after four fifths
of the epochs, and here logit adjustment, too (λ after two thirds under wrong labels);
"30 epochs" is the same in 30 epochs of 200; "reduced" has fewer and smaller images,
smaller networks and fewer epochs; "last layer" trains only that, on images of full
size, and chooses settings on one half of the test images, of which it shows the other;
"early stopping" takes each training at the epoch of its highest validation accuracy, by
labels as noisy as the training's. Class weights in the loss are factors of the losses
that ABSGD attends to, as published; base weights are not seen by attention. The
automatic λ is the library's default, `kl_radius(0.4)` with weights up to 2 (the sign is
−1 under wrong labels): from the first step, but with class weights in full and in 30
epochs from when these begin. With weights up to 50 ρ is 1.6 in full and in 30 epochs,
and chosen otherwise.
"""


def section(
    campaigns: Iterable[Sequence[Record]],
    grids: Sequence[Record],
    compared: Iterable[tuple[str, Mapping[str, Any]]],
) -> str:
    """Tables of data with rare classes, with rare groups, and with wrong labels.

    The records are those of `reproduce`, in full and in fewer epochs, and of
    `equal_grids`; of `compare` the results, with the heading of each.
    """
    imbalanced: list[Column | None] = []
    mislabelled: dict[str, list[Column | None]] = {
        title: [] for title in _MISLABELLED_HEADINGS
    }
    images, digits, rare = mislabelled.values()
    for records in campaigns:
        for setting in reproduce_report.recorded_settings(records):
            if setting in reproduce.MISLABELLED:
                images.append(_at_full_size(records, setting))
                images.append(_at_full_size(records, setting, early=True))
            else:
                imbalanced.append(_at_full_size(records, setting))
    for heading, results in compared:
        data = results["run"]["data"]
        if data["source"] != "imdb":
            columns = digits if data["source"] == "digits" else images
            if not data["noise_rate"]:
                columns = imbalanced
            elif data["imbalance_ratio"] > 1.0:
                columns = rare
            columns.append(_of_comparison(heading, results))
    layers = dict.fromkeys(r["data"] for r in grids if "before" in r)
    imbalanced += [
        _of_grids(grids, data, f"{reproduce_report.title(setting)}, last layer")
        for data in layers
        for setting in [equal_grids_report.setting_of(data)]
    ]
    by_group = dict.fromkeys(r["data"] for r in grids if "groups" in r)
    grouped = [
        _of_grids(grids, data, equal_grids_report.group_title(data), "balanced")
        for data in by_group
    ]
    return formatting.blocks(
        _INTRODUCTION,
        *_part("### Rare classes", imbalanced, IMBALANCED),
        *_part(_GROUPS, grouped, GROUPED),
        *itertools.chain.from_iterable(
            _part(title, columns, MISLABELLED) for title, columns in mislabelled.items()
        ),
    )


def heading(records: Sequence[Record], setting: str) -> str:
    """The data of a setting, and whether its trainings had all epochs of the paper."""
    ran = next(r["epochs"] for r in records if r["setting"] == setting)
    paper = presets.get(setting).run.epochs
    how = "in full" if ran == paper else f"{ran} epochs"
    return f"{reproduce_report.title(setting)}, {how}"


def _of_comparison(heading: str, results: Mapping[str, Any]) -> Column | None:
    accuracy = {
        name: setting["accuracy"] for name, setting in compare.chosen(results).items()
    }
    return _column(heading, accuracy, "sgd", "compared")


def _at_full_size(
    records: Sequence[Record], setting: str, early: bool = False
) -> Column | None:
    epoch = reproduce.STOPPED_EARLY if early else None
    accuracy = {
        tested.row.name: tested.accuracy(epoch)
        for tested in reproduce_report.tested_rows(records, setting)
    }
    name = heading(records, setting) + (", early stopping" if early else "")
    return _column(name, accuracy, reproduce_report.ROWS[0].name, "in_full")


def _column(
    heading: str,
    accuracy: Mapping[str, Mapping[int, float]],
    sgd: str,
    study: str,
) -> Column | None:
    """Gains by seed; None where SGD was not trained, or diverged."""
    plain = accuracy.get(sgd)
    if not plain:
        return None
    gains = {
        n: formatting.paired(of_method, plain)
        for n, of_method in accuracy.items()
        if of_method
    }
    return Column(heading, _level(plain), gains, study)


def _of_grids(
    records: Sequence[Record], data: str, heading: str, measure: str = "accuracy"
) -> Column:
    of_data = [r for r in records if r["data"] == data]
    values = {
        name: equal_grids_report.chosen(of_data, data, name).of(measure)
        for name in dict.fromkeys(r["method"] for r in of_data)
    }
    plain = values["sgd"]
    gains = {
        name: equal_grids_report.difference(of_method, plain, data)
        if of_method
        else "diverged"
        for name, of_method in values.items()
    }
    return Column(heading, _level(plain), gains, "grids")


def _level(plain: Mapping[Any, float]) -> str:
    return formatting.percent(np.mean([*plain.values()]))


def _part(
    introduction: str,
    candidates: Sequence[Column | None],
    families: Mapping[str, Sequence[Row]],
) -> Sequence[str | list[str]]:
    """The introduction and the table of the columns; nothing if there are none."""
    columns = [column for column in candidates if column is not None]
    return (introduction, _table(columns, families)) if columns else ()


def _table(
    columns: Sequence[Column], families: Mapping[str, Sequence[Row]]
) -> list[str]:
    """A row a method that some column has, under the name of its family."""
    rows = [["by", "method", *(column.heading for column in columns)]]
    rows.append(["", "SGD, accuracy", *(column.sgd for column in columns)])
    for family, methods in families.items():
        for row in methods:
            gains = [column.gains.get(getattr(row, column.study)) for column in columns]
            if any(gains):
                rows.append([family, row.title, *(gain or "–" for gain in gains)])
                family = ""
    return formatting.markdown(rows)
