"""The page of `reproduce`'s records: our numbers next to the paper's."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments import presets
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
kept for all seeds. Of a radius ρ nothing is chosen; its λ is that of the last update.
ABSGD attends to losses that have the class weights as factors, as published, or, with
base weights, to losses without them. The mean weight is that of the last epoch, "three
rarest" the mean recall of the three classes with the fewest training images. Rows that
were not trained at the same time start from plain trainings of their own, so that their
difference has that of two trainings of one seed too.

Float32 throughout; convolutions multiply as the device does by default, which is TF32
where an accelerator has it. The paper's numbers are of PyTorch, and the authors' code
chooses λ on the test set; in brackets is what they print above their SGD (CE).
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
and logit adjustment begin at epoch {switch}. The rows of a seed all start from one
plain training. The printed numbers are of 200 epochs.
"""

_COST = """They wait for time on an accelerator. Rows of one loss and its settings
share 160 epochs a seed (80 with wrong labels), and each row, λ and seed costs 40 more;
rows "from the first step", SGD (CB-CE) and SGD (CB-Focal) share none.
`python -m experiments reproduce --list` names them."""


def sections(records: Sequence[Record], file: str) -> str:
    """The tables of CIFAR in full, in Markdown, without what is not run.

    It says from which file the records are.
    """
    lams = ", ".join(f"{lam:g}" for lam in reproduce.LAMS)
    mislabelled = [r for r in records if r["setting"] in MISLABELLED]
    imbalanced = [r for r in records if r["setting"] not in MISLABELLED]
    return formatting.blocks(
        _sections(imbalanced, _PROTOCOL.format(file=file, lams=lams)),
        _sections(mislabelled, _WRONG_LABELS) if mislabelled else "",
    )


def fewer_epochs(records: Sequence[Record], file: str) -> str:
    """The tables of trainings that all had the same epochs, fewer than the paper's."""
    (epochs,) = {record["epochs"] for record in records}
    cell = reproduce.Cell(records[0]["setting"], ROWS[0].name, math.inf, 0, "test")
    run = reproduce.run_of(cell, epochs=epochs)
    switch, second = map(run.epoch_at, run.optimizer.drop_at)
    text = _FEWER.format(epochs=epochs, file=file, switch=switch, second=second)
    return _sections(records, text)


def _sections(records: Sequence[Record], protocol: str) -> str:
    parts: list[Any] = [protocol]
    for setting in recorded_settings(records):
        of_setting = [r for r in records if r["setting"] == setting]
        table = _mislabelled_table if setting in MISLABELLED else _table
        parts.append(f"### {title(setting)}")
        parts.append(formatting.markdown(table(of_setting, setting)))
        parts.append(_devices(of_setting))
        if setting in MISLABELLED:
            continue
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
    head += ["mean weight", *(f"paper, {name}" for name in paper.VERSIONS.values())]
    lines, plain = [head], {}
    for tested in tested_rows(records, setting):
        name = tested.row.name
        if not tested.finished:
            lines.append([name, *["–"] * 3, tested.seeds, *["–"] * 4])
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
    lines: list[list[str]] = [[*head, f"paper, {paper.VERSIONS['000']}"]]
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


def _printed(setting: str, row: str, version: str) -> str:
    tables = (6,) if setting in MISLABELLED else (1, 2)
    for table in tables:
        key = paper.Key(version, table, *block(setting))
        try:
            (printed,) = paper.lookup(key, row)
        except paper.UnknownResult:
            continue
        (plain,) = paper.lookup(key._replace(table=tables[0]), ROWS[0].name)
        if printed.mean is None or plain.mean is None:
            return "–"
        if "typo" in printed.note:
            return f"{printed.printed}?"
        if row == ROWS[0].name or "typo" in plain.note:
            return printed.printed
        gain = formatting.points((printed.mean - plain.mean) / 100.0)
        return f"{printed.printed} ({gain})"
    return "–"


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
            lines.append([row.name, *cells, "not yet" if lam is None else f"{lam:g}"])
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
    """What of the campaign is left, with its cost in epochs."""
    settings, left = recorded_settings(records), []
    for setting in reproduce.SETTINGS:
        if setting not in settings:
            left.append(f"{title(setting)}: none of its rows yet.")
            continue
        done = {row.row.name: row.count for row in tested_rows(records, setting)}
        missing = [
            f"{row.name} ({done.get(row.name, 0)} of {reproduce.SEEDS} seeds)"
            for row in reproduce.rows_of(setting)
            if done.get(row.name, 0) < reproduce.SEEDS
        ]
        if missing:
            left.append(f"{title(setting)}: {'; '.join(missing)}.")
    return formatting.blocks(formatting.notes(left), _COST)
