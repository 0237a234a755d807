"""The page of `reproduce`'s records: our numbers next to the paper's."""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments import configs, presets
from experiments.presets import Variant, _cost
from experiments.presets.cifar_imbalance import DRW_CE
from experiments.report import formatting
from experiments.results import paper
from experiments.studies import reproduce
from experiments.studies.reproduce import (
    BEST_ON_TEST,
    MISLABELLED,
    ROWS,
    STOPPED_EARLY,
)

Record = Mapping[str, Any]

PRINTED = [f"paper, {name}" for name in paper.VERSIONS.values()]  # headings
# Accuracy by setting, 100 less the error in Table 2 of Cao, Wei, Gaidon, Arechiga and
# Ma, `Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss
# <https://arxiv.org/abs/1906.07413>`_ (2019).
LDAM_PAPER: dict[str, dict[str, float]] = {"SGD (CB-CE), deferred": DRW_CE} | {
    row: dict(zip(DRW_CE, accuracies, strict=True))
    for row, accuracies in {
        "SGD (CE)": (70.36, 86.39, 63.30, 82.50, 38.32, 55.70, 38.55, 54.63),
        "SGD (Focal)": (70.38, 86.66, 63.91, 83.64, 38.41, 55.78, 38.57, 53.46),
        "SGD (CB-CE)": (72.37, 86.54, 61.94, 83.80, 33.99, 57.12, 21.31, 52.48),
        "SGD (CB-Focal)": (74.57, 87.10, 60.27, 83.46, 36.02, 57.99, 19.76, 50.02),
        "SGD (LDAM)": (73.35, 86.96, 66.58, 85.00, 39.60, 56.91, 39.58, 56.27),
        "SGD (CB-LDAM)": (77.03, 88.16, 76.92, 87.81, 42.04, 58.71, 45.36, 59.46),
    }.items()
}

_PROTOCOL = """## The paper's protocol in full

Trained by `python -m experiments reproduce`; `{file}` has one JSON line a training.
The protocol is the paper's: published images, ResNet-32, batches of 128, SGD with
momentum 0.9, 200 epochs, η = 0.1 divided by 100 at epochs 160 and 180. Accuracy is that
of the last epoch on the test set, in percent, mean ± standard deviation over seeds; a
seed whose loss was not finite is counted as diverged, and the mean is of the others.
Differences are paired by seed, ± standard error.

λ, class weights and logit adjustment (τ = 1) begin at epoch 160, unless a row says
otherwise; the class weights of SGD (CB-CE) and SGD (CB-Focal) act from the first step,
as those of the printed rows do. A fixed λ is the best of {lams} by accuracy on a
balanced part of the training set (100 images of each class of CIFAR-10, 10 of
CIFAR-100) that is held out in trainings only for that purpose, with seed 0; it is then
kept for all seeds. So these rows of ABSGD have {count} settings, validated, and all
others have one: of a radius ρ nothing is chosen (its λ is that of the last update). No
row has its learning rate chosen. The running normaliser begins at the switch (with a
radius `train` carries it on from plain training, which tens of updates forget). ABSGD
attends to losses that have the class weights as factors, as published, or, with base
weights, to losses without them. The mean weight is that of the last epoch, "three
rarest" the mean recall of the three classes with the fewest training images. Rows that
were not trained at the same time start from plain trainings of their own, so that their
difference has that of two trainings of one seed too.

Float32 throughout; convolutions multiply as the device does by default, which is TF32
where an accelerator has it. The paper's numbers are of PyTorch, and the authors' code
chooses λ on the test set; in brackets is what they print above their SGD (CE). "LDAM's
paper" is 100 less the error in Table 2 of Cao et al., Learning Imbalanced Datasets with
Label-Distribution-Aware Margin Loss (2019, arXiv 1906.07413), whose code this protocol
has its images, network and learning rates from.
"""

_WRONG_LABELS = """## The paper's protocol in full: wrong labels

Trained by `python -m experiments reproduce`, too, and recorded in the same file. The
protocol is that of Table 6: 120 epochs, batches of 128, SGD with momentum 0.9, η
divided by ten at epochs 40 and 80, the same labels wrong in every training. η, weight
decay, λ, γ, α and β are those of the authors' script as far as it has them
(`python -m experiments train PRESET --help` says which), and none is chosen here. λ
begins at epoch 80, unless a row says otherwise.

In every training 100 images of each class of CIFAR-10 (10 of CIFAR-100), whose labels
are as wrong, are held out of the 50,000 that the paper trains on: "stopped early" is
the epoch of the highest accuracy on them. "Best on test" is that of the highest
accuracy on the test set, which cannot be selected without its labels: the paper does
not say which epoch its numbers are of, and the authors' code reports this one. SGD
(SCE) has the α of its own in the script, which ABSGD (SCE) does not. Everything else
is as in the section above.
"""

_FEWER = """## The paper's protocol in {epochs} epochs

Trained by `python -m experiments reproduce --epochs {epochs}`; `{file}`
has one JSON line a training. The protocol is that of the section above, in fewer
epochs: the rate is divided by 100 at epochs {switch} and {second}, and λ, class weights
and logit adjustment begin at epoch {switch}, but class weights of SGD (CB-CE) at the
first step. All other rows of one loss and seed start from one plain training. The
numbers of both papers are of 200 epochs.
"""

_NOT_RUN = """What is left of the campaign waits for time on an accelerator. A row has a
training for each of {seeds} seeds, and one for each λ that it is to choose from. Rows
of one loss and its settings share 160 epochs a seed (80 with wrong labels), and each
row, λ and seed costs 40 more; rows "from the first step", SGD (CB-CE) and SGD
(CB-Focal) share none. Hours are of all epochs left on two CPU cores, an estimate where
they have ~; `python -m experiments reproduce --list` has each training's. The last
column is what the paper prints and the campaign has no row for; the list says why.
"""
# Why the campaign has no row of what the paper prints, by the first word of its name.
NO_ROW = {
    "Resampling": "draws its examples by class from the first step on, and so shares "
    "no epoch with a row of the campaign; it is not known what is printed, as LDAM's "
    "code never gives its probabilities to the loader",
    "META": "holds out clean images of each class, and so trains on other data than "
    "the rows of the campaign, by three backward passes a step; its other two losses "
    "are those of the presets `_cb_focal` and `_cb_ldam`",
}


def sections(records: Sequence[Record], file: str) -> str:
    """The tables of CIFAR in full, in Markdown, without what is not run.

    It says from which file the records are.
    """
    lams = ", ".join(f"{lam:g}" for lam in reproduce.LAMS)
    protocol = _PROTOCOL.format(file=file, lams=lams, count=len(reproduce.LAMS))
    mislabelled = [r for r in records if r["setting"] in MISLABELLED]
    imbalanced = [r for r in records if r["setting"] not in MISLABELLED]
    return formatting.blocks(
        _sections(imbalanced, protocol),
        _sections(mislabelled, _WRONG_LABELS) if mislabelled else "",
    )


def fewer_epochs(records: Sequence[Record], file: str) -> str:
    """The tables of trainings that all had the same epochs, fewer than the paper's."""
    (epochs,) = {record["epochs"] for record in records}
    cell = reproduce.Cell(records[0]["setting"], ROWS[0].name, math.inf, 0, "test")
    run = reproduce.run_of(cell, epochs=epochs)
    switch, second = map(run.epoch_at, run.optimizer.drop_at)
    text = _FEWER.format(epochs=epochs, file=file, switch=switch, second=second)
    return _sections(records, text, in_full=False)


def _sections(records: Sequence[Record], protocol: str, *, in_full: bool = True) -> str:
    parts: list[Any] = [protocol]
    for setting in recorded_settings(records):
        of_setting = [r for r in records if r["setting"] == setting]
        table = _mislabelled_table if setting in MISLABELLED else _table
        parts.append(f"### {title(setting)}")
        parts.append(formatting.markdown(table(of_setting, setting)))
        parts.append(_devices(of_setting))
        if setting in MISLABELLED:
            continue
        if in_full:
            parts.append(_against_ldam(of_setting, setting))
        if any(r["split"] == "validation" for r in of_setting):
            parts.append("How λ was chosen, by validation accuracy:")
            parts.append(formatting.markdown(_choices(of_setting, setting)))
        if recalls := _recalls(of_setting, setting):
            parts.append("Recall of each class, most frequent first:")
            parts.append(formatting.markdown(recalls))
    return formatting.blocks(*parts)


def recorded_settings(records: Sequence[Record]) -> list[str]:
    """Those of `reproduce` that have a record."""
    return [s for s in reproduce.SETTINGS if any(r["setting"] == s for r in records)]


def title(setting: str) -> str:
    """Data set, imbalance and ratio of a setting, in words."""
    return presets.get(setting).title.partition(": ")[0]


def block(setting: str) -> tuple[str, str, str]:
    """Data set, imbalance and ratio of a setting, as in the paper's tables.

    Examples:
      >>> block("cifar10_lt100")
      ('CIFAR10', 'LT', '100')
    """
    key = presets.get(setting).paper[0]
    return key.dataset, key.imbalance, key.ratio


class _Tested(NamedTuple):
    """The tests of a row."""

    row: reproduce.Row
    count: int  # of seeds
    finished: dict[int, Record]  # by seed, of those whose loss stayed finite

    @property
    def seeds(self) -> str:
        """How many seeds a mean is of, and how many of them all diverged."""
        finished = len(self.finished)
        diverged = f"; {self.count - finished} of {self.count} diverged"
        return f"{finished}" + (diverged if finished < self.count else "")

    @property
    def lam(self) -> str:
        """That of the last update, the mean over the seeds."""
        return formatting.number(float(f"{self.values('last_lam').mean():.2g}"))

    def values(self, key: str, epoch: str | None = None) -> np.ndarray:
        """A number that is recorded, or several, `[seeds, ...]`.

        It is of the last epoch, unless the record's field of another is given.
        """
        records = self.finished.values()
        return np.array([(r[epoch] if epoch else r)[key] for r in records], float)

    def accuracy(self, epoch: str | None = None) -> dict[int, float]:
        """The accuracy by seed, of the same epochs."""
        return dict(zip(self.finished, self.values("accuracy", epoch), strict=True))


def tested_rows(records: Sequence[Record], setting: str) -> list[_Tested]:
    """The rows of a setting that have a test."""
    rows = []
    for row in reproduce.rows_of(setting):
        lam = reproduce.lam_of(records, setting, row)
        tested = {
            r["seed"]: r
            for r in records
            if (r["setting"], r["row"], r["split"]) == (setting, row.name, "test")
            and float(r["lam"]) == lam
        }
        if tested:
            tests = sorted(tested.items())
            finished = {seed: r for seed, r in tests if r["accuracy"] is not None}
            rows.append(_Tested(row, len(tests), finished))
    return rows


def _table(records: Sequence[Record], setting: str) -> list[list[str]]:
    head = ["method", "ours", "against SGD (CE)", "three rarest", "seeds", "λ"]
    head += ["mean weight", *PRINTED, "LDAM's paper"]
    lines, plain = [head], {}
    for tested in tested_rows(records, setting):
        name = tested.row.name
        if not tested.finished:
            lines.append([name, *["–"] * 3, tested.seeds, *["–"] * 5])
            continue
        accuracy = tested.accuracy()
        lines.append(
            [
                name,
                formatting.spread(tested.values("accuracy")),
                formatting.paired(accuracy, plain),
                formatting.spread(tested.values("recall")[:, -3:].mean(axis=1)),
                tested.seeds,
                tested.lam,
                f"{tested.values('total_weight').mean():.2f}",
                *(_printed(setting, name, version) for version in paper.VERSIONS),
                f"{LDAM_PAPER[name][setting]:.2f}" if name in LDAM_PAPER else "–",
            ]
        )
        if tested.row is ROWS[0]:
            plain = accuracy
    return lines


def _mislabelled_table(records: Sequence[Record], setting: str) -> list[list[str]]:
    gain = f"against {ROWS[0].name}"
    head = ["method", "last epoch", gain, "calibration error"]
    head += ["stopped early", gain, "calibration error"]
    head += ["best on test", gain, "calibration error", "seeds", "λ"]
    lines: list[list[str]] = [[*head, PRINTED[0]]]
    plain: dict[str | None, dict[int, float]] = {}
    for tested in tested_rows(records, setting):
        name = tested.row.name
        if not tested.finished:
            lines.append([name, *["–"] * 9, tested.seeds, "–", "–"])
            continue
        cells = []
        for epoch in (None, STOPPED_EARLY, BEST_ON_TEST):
            accuracy = tested.accuracy(epoch)
            cells.append(formatting.spread(tested.values("accuracy", epoch)))
            cells.append(formatting.paired(accuracy, plain.get(epoch, {})))
            cells.append(formatting.spread(tested.values("calibration_error", epoch)))
            if name == ROWS[0].name:
                plain[epoch] = accuracy
        printed = _printed(setting, name, "000")
        lines.append([name, *cells, tested.seeds, tested.lam, printed])
    return lines


def _against_ldam(records: Sequence[Record], setting: str) -> str:
    """How far our accuracies are from those of LDAM's paper."""
    less = [
        f"{tested.row.name} {formatting.points(own.mean() - published / 100.0)}"
        for tested in tested_rows(records, setting)
        if (published := LDAM_PAPER.get(tested.row.name, {}).get(setting))
        and (own := tested.values("accuracy")).size
    ]
    return f"Ours less LDAM's paper, in points: {', '.join(less)}." if less else ""


def printed(version: str, data: tuple[str, str, str], method: str) -> paper.Row | None:
    """What a version has of a method on data, as of `block`; None if nothing."""
    rows = (r for r in paper.rows() if (r.version, r.method) == (version, method))
    return next((r for r in rows if r[2:5] == data and r.mean is not None), None)


def printed_gain(
    version: str, data: tuple[str, str, str], method: str, other: str
) -> str:
    """The printed difference of two methods, in points; a dash if it is not known."""
    rows = [printed(version, data, name) for name in (method, other)]
    means = [r.mean for r in rows if r and r.mean is not None and "typo" not in r.note]
    return "–" if len(means) < 2 else formatting.points((means[0] - means[1]) / 100.0)


def _printed(setting: str, name: str, version: str) -> str:
    data, sgd = block(setting), ROWS[0].name
    if (row := printed(version, data, name)) is None:
        return "–"
    doubt = "?" if "typo" in row.note else ""
    gain = "–" if name == sgd else printed_gain(version, data, name, sgd)
    return f"{row.printed}{doubt}" + ("" if gain == "–" else f" ({gain})")


def _choices(records: Sequence[Record], setting: str) -> list[list[str]]:
    lines = [["method", *(f"λ = {lam:g}" for lam in reproduce.LAMS), "chosen"]]
    for row in ROWS:
        if accuracies := reproduce.validated(records, setting, row.name):
            shown = {
                lam: "diverged" if accuracy is None else formatting.percent(accuracy)
                for lam, accuracy in accuracies.items()
            }
            lam = reproduce.lam_of(records, setting, row)
            cells = (shown.get(one, "–") for one in reproduce.LAMS)
            none = "none" if shown.keys() >= {*reproduce.LAMS} else "not yet"
            lines.append([row.name, *cells, none if lam is None else f"{lam:g}"])
    return lines


def _recalls(records: Sequence[Record], setting: str) -> list[list[str]]:
    rows = [tested for tested in tested_rows(records, setting) if tested.finished]
    if not rows:
        return []
    classes = rows[0].values("recall").shape[1]
    parts = np.array_split(np.arange(classes), 10)
    name = lambda part: " to ".join(dict.fromkeys(f"{part[i] + 1}" for i in (0, -1)))
    lines = [["method", "seeds", *map(name, parts)]]
    for tested in rows:
        recall = tested.values("recall").mean(axis=0)
        means = (formatting.percent(recall[part].mean()) for part in parts)
        lines.append([tested.row.name, tested.seeds, *means])
    return lines


def _devices(records: Sequence[Record]) -> str:
    where = sorted({f"{r['device']} (JAX {r['jax']})" for r in records})
    seconds = sum(r["seconds"] for r in records)
    return (
        f"{len(records)} trainings on {', '.join(where)}; {seconds / 60:.0f} minutes, "
        "by processes that shared the device, with a shared plain training in the row "
        "that needed it first."
    )


def not_run(records: Sequence[Record]) -> str:
    """What of the campaign is left, with its cost, and what it has no row for."""
    rows = [["data", "rows left", "trainings", "hours", "printed, without a row"]]
    for setting in reproduce.SETTINGS:
        cells, without = _left(records, setting), _without_row(setting)
        if cells or without:
            cost = [str(len(cells)), _hours(cells)] if cells else ["0", "–"]
            rows_left = _rows_left(records, setting)
            rows.append([title(setting), rows_left, *cost, ", ".join(without) or "–"])
    return formatting.blocks(
        _NOT_RUN.format(seeds=reproduce.SEEDS), formatting.markdown(rows), _no_row()
    )


def _left(records: Sequence[Record], setting: str) -> list[reproduce.Cell]:
    """The cells without a record, those whose λ is not chosen yet at any λ."""
    later = [
        reproduce.Cell(setting, row.name, reproduce.LAMS[0], seed, "test")
        for row in reproduce.rows_of(setting)
        if reproduce.lam_of(records, setting, row) is None
        and not {*reproduce.LAMS}
        <= reproduce.validated(records, setting, row.name).keys()
        for seed in range(reproduce.SEEDS)
    ]
    return reproduce.pending(records, [setting]) + later


def _hours(cells: Sequence[reproduce.Cell]) -> str:
    """Hours on two CPU cores of cells of one setting, and what they start from."""
    runs = [_run(cell.setting, cell.row, cell.split) for cell in cells]
    begin = [run.epoch_at(run.method.start_at) for run in runs]
    own = sum(run.epochs - epoch for run, epoch in zip(runs, begin, strict=True))
    plain = {
        (reproduce.first_stage(run), cell.seed): epoch
        for cell, run, epoch in zip(cells, runs, begin, strict=True)
    }
    whole = dataclasses.replace(runs[0], epochs=own + sum(plain.values()))
    measured = _cost.seconds(whole)
    seconds = _cost.estimate(whole) if measured is None else measured
    return f"{'~' if measured is None else ''}{seconds / 3600.0:,.0f}"


@functools.cache
def _run(setting: str, row: str, split: str) -> configs.Run:
    """The run of a row's cells, but for λ and the seed."""
    return reproduce.run_of(reproduce.Cell(setting, row, reproduce.LAMS[0], 0, split))


def _rows_left(records: Sequence[Record], setting: str) -> str:
    """The rows that lack seeds, by how many they have."""
    rows = reproduce.rows_of(setting)
    done = {tested.row.name: tested.count for tested in tested_rows(records, setting)}
    if not done:
        return f"all {len(rows)}"
    by_seeds: dict[int, list[str]] = {}
    for row in rows:
        by_seeds.setdefault(done.get(row.name, 0), []).append(row.name)
    return "; ".join(
        f"{', '.join(names)} ({count} of {reproduce.SEEDS} seeds)"
        for count, names in sorted(by_seeds.items())
        if count < reproduce.SEEDS
    )


def _without_row(setting: str) -> list[str]:
    """The methods that the paper has results of, and the campaign no row."""
    known, data = {row.name for row in reproduce.rows_of(setting)}, block(setting)
    results = (r for r in paper.rows() if r[2:5] == data and r.mean is not None)
    methods = dict.fromkeys(result.method for result in results)
    return [method for method in methods if method not in known]


def _no_row() -> list[str]:
    """Why, and the commands that train these methods."""
    preset = presets.get(f"{reproduce.SETTINGS[0]}_cb_ce")
    held_out = {"data.meta_per_class": preset.run.data.info.meta_per_class}
    own = (*preset.variants, Variant("META", {"method.name": "meta", **held_out}))
    flags = {variant.method.partition(" ")[0]: variant.flags for variant in own}
    return formatting.notes(
        f"{name} {why}: `{preset.command} {flags[name]}`."
        for name, why in NO_ROW.items()
    )
