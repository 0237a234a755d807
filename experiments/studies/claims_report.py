"""The section of the page of results on the paper's claims: pairs of its methods."""

import collections
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from experiments import presets
from experiments.report import formatting
from experiments.results import paper
from experiments.studies import (
    compare,
    overview_report,
    reproduce,
    reproduce_report,
)

Record = Mapping[str, Any]

# Rows of `reproduce`: ABSGD, and what the paper holds it against. Deferred class
# weights are what it says that its SGD has; on CIFAR it prints nothing for them.
PAIRS = (
    ("ABSGD (CE)", "SGD (CE)"),
    ("ABSGD (Focal)", "SGD (Focal)"),
    ("ABSGD (CB-CE)", "SGD (CB-CE)"),
    ("ABSGD (CB-CE)", "SGD (CB-CE), deferred"),
    ("ABSGD (CB-CE)", "SGD (CB-LDAM)"),
    ("ABSGD (CB-Focal)", "SGD (CB-Focal)"),
    ("ABSGD (CB-LDAM)", "SGD (CB-LDAM)"),
    ("ABSGD (SCE)", "SGD (SCE)"),
    ("ABSGD (SCE)", "EG (SCE)"),
)
# The methods of `compare` that stand for these rows: on images, and on IMDB, where Adam
# trains them all, and all class weights are deferred.
_OF_IMAGES = {
    "SGD (CE)": "sgd",
    "ABSGD (CE)": "absgd",
    "SGD (Focal)": "focal",
    "ABSGD (Focal)": "absgd_focal",
    "SGD (CB-CE)": "cb_ce",
    "SGD (CB-CE), deferred": "drw_ce",
    "ABSGD (CB-CE)": "absgd_cb",
    "SGD (CB-Focal)": "cb_focal",
    "ABSGD (CB-Focal)": "absgd_cb_focal",
    "SGD (CB-LDAM)": "ldam_drw",
    "SGD (SCE)": "sce",
    "ABSGD (SCE)": "absgd_sce",
}
_OF_IMDB = {
    "SGD (CE)": "adam",
    "ABSGD (CE)": "abadam",
    "SGD (Focal)": "focal+adam",
    "ABSGD (Focal)": "absgd_focal+adam",
    "SGD (CB-CE)": "drw_ce+adam",
    "ABSGD (CB-CE)": "absgd_cb+adam",
    "SGD (CB-Focal)": "drw_focal+adam",
    "ABSGD (CB-Focal)": "absgd_cb_focal+adam",
}

BAND = 2.0  # standard errors around zero within which a difference shows nothing
# Of three seeds: P(|t| > BAND) of Student's t with two degrees of freedom.
_CHANCE = 1.0 - BAND / math.sqrt(2.0 + BAND**2)

_INTRODUCTION = """## The paper's claims in our runs

The paper claims that ABSGD is more accurate than SGD on the same loss, than SGD on LDAM
with deferred class weights, and, where labels are wrong, than weights normalised within
the batch (EG). The table has every such pair of which we trained all layers, on logits
that are not normalised, unless the paper itself prints a loss for it (those of the last
layer are in a section of their own): what it prints for ABSGD less the other method,
and what we have, in points, paired by seed, ± standard error. The last column is "yes"
where ours is more than {band:g} standard errors above zero, "opposite" where it is more
than {band:g} below, "not shown" in between, and "one seed" where there is no error to
go by. That is a weak rule: without any difference, {chance:.0%} of pairs of three seeds
would be "yes" or "opposite".

The paper says that class weights of SGD are deferred as well, but most of what it
prints for CIFAR is what LDAM's paper has for weights from the first step. So SGD
(CB-CE), which has them from the first step, is one pair, and deferred weights, for
which nothing is printed, another. For IMDB we defer all class weights, and train all
methods by Adam, since SGD does not learn there. What is printed is of the full data,
and the authors' code chooses λ and the epoch on the test set; here only "best on test"
does so, and only for the epoch.
"""


def section(
    campaigns: Iterable[Sequence[Record]],
    compared: Iterable[tuple[str, Mapping[str, Any]]],
) -> str:
    """The pairs of which both have records, in Markdown.

    The records are those of `reproduce`, in full and in fewer epochs; of `compare` the
    results, with the heading of each.
    """
    rows: list[list[str]] = []
    for records in campaigns:
        for setting in reproduce_report.recorded_settings(records):
            epochs: dict[str, str | None] = {"": None}
            if setting in reproduce.MISLABELLED:
                last, best = ", last epoch", ", best on test"
                epochs = {last: None, best: reproduce.BEST_ON_TEST}
            heading = overview_report.heading(records, setting)
            for ending, epoch in epochs.items():
                accuracy = {
                    tested.row.name: tested.accuracy(epoch)
                    for tested in reproduce_report.tested_rows(records, setting)
                }
                data = reproduce_report.block(setting)
                rows += _rows(heading + ending, data, accuracy)
    for heading, results in compared:
        if (data := _data(results)) is not None:
            imdb = results["run"]["data"]["source"] == "imdb"
            names, chosen = _OF_IMDB if imdb else _OF_IMAGES, compare.chosen(results)
            accuracy = {
                name: chosen[method]["accuracy"]
                for name, method in names.items()
                if method in chosen
            }
            rows += _rows(heading, data, accuracy)
    head = ["data", "ABSGD", "against", *reproduce_report.PRINTED]
    verdicts = collections.Counter(row[-1] for row in rows)
    counted = ", ".join(f'{count} "{name}"' for name, count in verdicts.most_common())
    return formatting.blocks(
        _INTRODUCTION.format(band=BAND, chance=_CHANCE),
        formatting.markdown([[*head, "ours", "seeds", "borne out"], *rows]),
        f"Of {formatting.count(len(rows), 'pair')}: {counted}." if rows else "",
    )


def verdict(differences: np.ndarray) -> str:
    """Whether differences `[seeds]` bear a gain out, by their standard error.

    Examples:
      >>> verdict(np.array([0.02, 0.03])), verdict(np.array([-0.02, 0.03]))
      ('yes', 'not shown')
    """
    if len(differences) < 2:
        return "one seed"
    mean, error = differences.mean(), formatting.standard_error(differences)
    if abs(mean) <= BAND * error:
        return "not shown"
    return "yes" if mean > 0.0 else "opposite"


def _data(results: Mapping[str, Any]) -> tuple[str, str, str] | None:
    """The data of a comparison as in the paper's tables; None if it is in none."""
    data = presets.get(results["preset"]).run.data
    keys = (key for p in presets.every() for key in p.paper if p.run.data == data)
    key = next(keys, None)
    return key and (key.dataset, key.imbalance, key.ratio)


def _rows(
    heading: str,
    data: tuple[str, str, str],
    accuracy: Mapping[str, Mapping[Any, float]],
) -> list[list[str]]:
    """A row for each pair that we have, unless the paper prints no ABSGD, or losses."""
    rows = []
    for ours, theirs in PAIRS:
        of_ours, of_theirs = accuracy.get(ours, {}), accuracy.get(theirs, {})
        seeds = sorted(of_ours.keys() & of_theirs.keys())
        versions = paper.VERSIONS
        claimed = any(reproduce_report.printed(v, data, ours) for v in versions)
        gains = [reproduce_report.printed_gain(v, data, ours, theirs) for v in versions]
        if not seeds or not claimed or {gain[0] for gain in gains} - {"–"} == {"−"}:
            continue
        differences = np.array([of_ours[seed] - of_theirs[seed] for seed in seeds])
        rows.append(
            [
                "" if rows else heading,
                ours,
                theirs,
                *gains,
                formatting.difference(differences),
                str(len(seeds)),
                verdict(differences),
            ]
        )
    return rows
