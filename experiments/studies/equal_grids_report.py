"""The sections of `equal_grids`' records in the page of results."""

import math
import textwrap
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from absgd_jax._diagnostics import WRONG_SHARE
from experiments import configs, presets
from experiments.report import formatting
from experiments.studies import grid, hidden_groups, method_grid
from experiments.studies.untuned_report import WIDE

Record = Mapping[str, Any]
Key = tuple[int, int]  # network and seed

TABLES = ("mammography", "oil-spill", "phoneme")
VALUES = 3  # of a hyperparameter, at each learning rate
EPOCHS, PASSES = 3, 4  # of the last layer: epochs, and augmented passes in each
TAIL = 0.3  # share of the classes, the rarest ones, whose recall is shown
CHOOSING = 2  # seeds by which a setting of the last layer is chosen; all for tables
BY_GROUP = "by_group"  # plain training on as many examples of each group
# What the method grid of `compare` does not have, or names otherwise: title, and name
# of the hyperparameter.
TITLES = {
    "absgd": ("ABSGD in the second stage", "λ"),
    "absgd_first": ("ABSGD from the first step", "λ"),
    "automatic": ("ABSGD, automatic λ", "η"),
    "automatic_cb_base": ("ABSGD (CB base weights), automatic λ", "η"),
    "automatic_adjusted": ("ABSGD (logit adjustment), automatic λ", "η"),
    "group_dro_shuffled": ("Group DRO, on shuffled batches", "step size"),
    "automatic_wide": (f"ABSGD, automatic λ, weights up to {WIDE[0].bound:g}", "ρ"),
    BY_GROUP: ("SGD, groups known and resampled", "η"),
}
# What is recorded; the first one chooses the setting.
OF_TABLES = {
    "average_precision": "average precision",
    "auroc": "AUROC",
    "f1": "F1",
    "balanced_at_threshold": "balanced accuracy",
}
OF_LAST_LAYER = {
    "accuracy": "accuracy",
    "tail": f"rarest {TAIL:.0%}",
    "calibration_error": "calibration error",
}
OF_GROUPS = {
    "accuracy": "accuracy",
    "balanced": "mean of the groups",
    "rare": "rare groups",
    "worst": "worst group",
}
_HEAD, _GROUPS = "-head", "-groups"  # how names of last layers end, and of groups
HARM = 0.01  # of average precision
FRACTIONS = (0.95, 0.9, 0.75, 0.5, 0.0)  # lower ends of ranges of effective fractions

_EACH = """Each method has {settings} settings: three values of its hyperparameter at
each of {count} learning rates from {low:g} to {high:g}, or {settings} learning rates
over the same range where it has none."""
_END = "What is chosen at an end of its range may not be the best there is."

_LAST_LAYER = """## The last layer of trained networks

The last layer alone is trained further, for {epochs} epochs of {passes} augmented
passes each, on what enters it in ResNet-32 after plain training. The setting is the
best by accuracy on one half of the test images, since no training image is new to these
networks, over {choosing} seeds of each network; the other half is shown. Percent, mean
± standard deviation over networks and over seeds of the order of the examples. "Rarest
{tail}" is the mean recall of that share of the classes. Differences are paired by
network and seed; ± is the standard error over the networks. TERM and RECOVER have no
momentum, and rates ten times as high. All weights begin at the first step of this
stage. {end} Group DRO was trained on shuffled batches here, in which a class loses
weight for being rare; Algorithm 1 draws each class as often. Left out of the methods of
`compare` are those for wrong labels, those that learn weights on clean examples, of
which no training image is left, and those that replace the layer in a second stage
(cRT, LWS, NCM, τ-normalised).
"""

_NETWORKS = """### {title}

{networks} networks of {epochs} epochs of plain training, after which accuracy is
{before}, and {seeds} seeds of each. {each}
"""

_TABLES = """## Overlapping classes: three imbalanced tables

The network and the optimizer of `own_table`: an MLP 128-64, {epochs} epochs, batches of
{batch}. {seeds}, each with splits of its own: 60% to train, 20% each for
validation and test. {each} {end} The setting is the best by average precision on
validation examples, over all seeds; F1 and balanced accuracy are at the threshold of
the highest F1 on validation examples. λ in the second stage and deferred class weights
begin after 60% of the epochs, all other weights at the first step. Percent on the test
part, mean ± standard deviation; differences are paired by seed, ± standard error.
"""

_GROUPED = """## Rare groups that are no classes

Two classes, whose examples belong to groups that no method knows; some are rare. With
digits the classes are even and odd digits, with CIFAR-10 ({side} pixels a side) animals
and vehicles. In one task the groups are the ten classes of the data set, with a long
tail of ratio {ratio:g}. In the other an attribute goes with the label: images of one
class are inverted and those of the other are not, but for {conflicting:.0%} of each,
which are the rare groups. Validation data are drawn as the training data; the test set
has as many examples of each group, or of either attribute. The network and the
optimizer are those of `own_table`, with batches of {batch}. "Groups known and
resampled" is SGD on as many training examples of each group, and shows what there is to
gain. λ in the second stage begins after 60% of the epochs, all other weights at the
first step. TERM has no momentum, and rates ten times as high; a method diverged if
every setting did with some seed. {end} Percent on the test set, mean ± standard
deviation; differences are paired by seed, ± standard error.
"""

_GROUP_TASK = """### {title}

{counts}; {seeds}. {each}
"""

_CHOSEN_BY = {
    "accuracy": "The setting is the best by accuracy on validation examples, for which "
    "no group has to be known:",
    "balanced": "The setting is the best by the mean accuracy of the groups on "
    "validation examples, whose groups have to be known:",
}
_TITLES_OF_TASKS = {
    "digits": "Even and odd digits",
    "cifar10": "Animals and vehicles of CIFAR-10",
    "tail": "the ten classes are the groups",
    "attribute": "inverted images are the groups",
}

_CHECK = """### Whether the losses tell beforehand

"Wrong" is the share of the training examples that the network gives less than one half
to after plain training at SGD's chosen learning rate: their loss is above log 2.
`suggest_lam` warns where it is {share:g}% or more. The effective fraction is exp(−KL)
of the weights exp(L/λ) over those losses, from which `suggest_lam` has its λ. The
points are of average precision against SGD, of ABSGD in the second stage with that λ
at the learning rate that is best for it on validation examples.
"""

_VERDICTS = """Each data set, λ and seed by its effective fraction; harmed means a loss
of more than {harm:g} point, gained a gain of as much.
"""


class _Method(NamedTuple):
    """The records of a method at its chosen setting."""

    name: str
    records: list[Record]  # those that diverged among them

    def of(self, measure: str, split: str = "test") -> dict[Key, float]:
        """A metric by network and seed."""
        return {
            (r["network"], r["seed"]): r[split][measure]
            for r in self.records
            if r[split] is not None
        }


def best(
    records: Iterable[Record],
    data: str,
    method: str,
    value: str | None = None,
    by: str | None = None,
) -> tuple[str, float] | None:
    """Value and rate of the best mean validation metric, the first of equals.

    Records are in the order of the settings. With a value of the hyperparameter only
    the rate is chosen. `by` is the metric, None for the first. Settings that diverged
    once are left out; None if there are no others.
    """
    of_head = is_last_layer(data)
    measure = by or next(iter(columns(data)))
    scores: dict[tuple[str, float], list[float | None]] = {}
    for r in records:
        chooses = not of_head or r["seed"] < CHOOSING
        fits = (r["data"], r["method"]) == (data, method)
        if fits and chooses and value in (None, r["value"]):
            score = None if r["validation"] is None else r["validation"][measure]
            scores.setdefault((r["value"], r["rate"]), []).append(score)
    means = {
        setting: None if None in values else float(np.mean(values))
        for setting, values in scores.items()
    }
    return grid.best(means)


def chosen(
    records: Sequence[Record],
    data: str,
    method: str,
    value: str | None = None,
    by: str | None = None,
) -> _Method:
    """The records of a method at the setting that `best` chooses."""
    setting = best(records, data, method, value, by)
    key = (data, method, *(setting or ()))
    trained = [
        r for r in records if (r["data"], r["method"], r["value"], r["rate"]) == key
    ]
    return _Method(method, trained)


def is_last_layer(data: str) -> bool:
    """Whether records are of the last layer of networks, and not of a table."""
    return data.endswith(_HEAD)


def is_grouped(data: str) -> bool:
    """Whether records are of groups that are no classes."""
    return data.endswith(_GROUPS)


def columns(data: str) -> Mapping[str, str]:
    """The metrics that are recorded, and their headings; the first one chooses."""
    if is_grouped(data):
        return OF_GROUPS
    return OF_LAST_LAYER if is_last_layer(data) else OF_TABLES


def group_title(data: str) -> str:
    """The labels and the groups of a task of `hidden_groups`."""
    pool, kind, _ = data.split("-")
    return f"{_TITLES_OF_TASKS[pool]}; {_TITLES_OF_TASKS[kind]}"


def setting_of(data: str) -> str:
    """The setting of `reproduce` whose networks a last layer is of."""
    return data.removesuffix(_HEAD).replace("-", "_")


def titles() -> dict[str, tuple[str, str]]:
    """Title and name of the hyperparameter of each method, by its name."""
    contents = configs.Contents("table", (2,), ("0", "1"))
    data = configs.Data("table", contents=contents)
    every = method_grid.every(configs.Run(data=data, model=configs.Model("mlp")))
    return {n: (one.title, one.hyperparameter) for n, one in every.items()} | TITLES


def _table(
    records: Sequence[Record],
    data: str,
    gains: Sequence[str],
    by: str | None = None,
    metrics: Collection[str] = (),
) -> list[str]:
    """A row a method, in the order of the first metric; SGD first.

    `gains` are the metrics of which the differences are shown, `by` is as in `best`,
    and `metrics` are those of the columns, () for all.
    """
    known = titles()
    measures = {n: t for n, t in columns(data).items() if not metrics or n in metrics}
    head = ["method", "chosen", *measures.values()]
    head += [f"{measures[gain]} against SGD" for gain in gains]
    names = dict.fromkeys(r["method"] for r in records if r["data"] == data)
    methods = [chosen(records, data, name, by=by) for name in names]
    plain = next(one for one in methods if one.name == "sgd")
    first = next(iter(measures))
    level = lambda one: -np.mean([*one.of(first).values()]) if one.records else np.inf
    rows = []
    for one in [plain, *sorted((m for m in methods if m is not plain), key=level)]:
        title, hyperparameter = known[one.name]
        if is_last_layer(data) and one.name == "absgd":
            title = "ABSGD"
        if not one.records:
            rows.append([title, "diverged", *["–"] * (len(head) - 2)])
            continue
        ((value, rate),) = {(r["value"], r["rate"]) for r in one.records}
        shown = f"{hyperparameter} = {value}, ".replace("-", "−") if value else ""
        bad = sum(r["test"] is None for r in one.records)
        if bad:
            title += f" ({bad} of {len(one.records)} diverged)"
        # What was not measured is None, which becomes NaN.
        values = (np.array([*one.of(measure).values()], float) for measure in measures)
        differences = (
            "–" if one is plain else difference(one.of(gain), plain.of(gain), data)
            for gain in gains
        )
        spreads = map(formatting.spread, values)
        rows.append([title, f"{shown}η = {rate:g}", *spreads, *differences])
    return formatting.markdown([head, *rows])


def difference(
    ours: Mapping[Key, float], theirs: Mapping[Key, float], data: str
) -> str:
    """Paired; of a last layer the mean over seeds of each network."""
    both = sorted(ours.keys() & theirs.keys())
    gaps = np.array([ours[key] - theirs[key] for key in both])
    if is_last_layer(data):
        networks = np.array([network for network, _ in both])
        gaps = np.array([gaps[networks == n].mean() for n in np.unique(networks)])
    return formatting.difference(gaps)


def last_layer(records: Sequence[Record]) -> str:
    """The section of the last layer; nothing if there are no records of it."""
    of_layers = [r for r in records if is_last_layer(r["data"])]
    if not of_layers:
        return ""
    introduction = _LAST_LAYER.format(
        epochs=EPOCHS,
        passes=PASSES,
        choosing=CHOOSING,
        tail=f"{TAIL:.0%}",
        end=_END,
    )
    parts: list[Any] = [_wrapped(introduction)]
    for data in dict.fromkeys(r["data"] for r in of_layers):
        plain = [r for r in of_layers if r["data"] == data and "before" in r]
        before = {r["network"]: r["before"] for r in plain}
        (epochs,) = {r["epochs_before"] for r in plain}
        networks = _NETWORKS.format(
            title=presets.get(setting_of(data)).title.partition(": ")[0],
            networks=len(before),
            epochs=epochs,
            before=formatting.spread(np.array([*before.values()])),
            seeds=len({r["seed"] for r in plain}),
            each=_each(plain),
        )
        parts += [_wrapped(networks)]
        parts += [_table(of_layers, data, ["accuracy"])]
    return formatting.blocks(*parts)


def _each(plain: Iterable[Record]) -> str:
    """The settings of each method, by the learning rates of SGD."""
    rates = {r["rate"] for r in plain}
    count = len(rates) // VALUES
    return _EACH.format(
        settings=len(rates), count=count, low=min(rates), high=max(rates)
    )


def _wrapped(text: str) -> str:
    """A heading and a paragraph, whose lines are filled anew."""
    heading, paragraph = text.split("\n\n")
    return formatting.blocks(heading, textwrap.fill(paragraph, 88))


def groups(records: Sequence[Record]) -> str:
    """The section of groups that are no classes; nothing if there are no records."""
    of_groups = [r for r in records if is_grouped(r["data"])]
    if not of_groups:
        return ""
    introduction = _GROUPED.format(
        side=hidden_groups.SIDE,
        ratio=hidden_groups.RATIO,
        conflicting=hidden_groups.CONFLICTING,
        batch=hidden_groups.BATCH,
        end=_END,
    )
    parts: list[Any] = [_wrapped(introduction)]
    for data in dict.fromkeys(r["data"] for r in of_groups):
        plain = [r for r in of_groups if r["data"] == data and r["method"] == "sgd"]
        counts = " ".join(map(str, plain[0]["groups"]))
        task = _GROUP_TASK.format(
            title=group_title(data),
            counts=f"Training examples of the groups: {counts}",
            seeds=formatting.count(len({r["seed"] for r in plain}), "seed"),
            each=_each(plain),
        )
        parts += [_wrapped(task)]
        for by, sentence in _CHOSEN_BY.items():
            gains = ["balanced", "rare"]
            table = _table(of_groups, data, gains, by, ("balanced", "rare", "worst"))
            parts += [textwrap.fill(sentence, 88), table]
    return formatting.blocks(*parts)


def tables(records: Sequence[Record]) -> str:
    """The section of the tables, with the check on losses."""
    of_tables = [
        r for r in records if not (is_last_layer(r["data"]) or is_grouped(r["data"]))
    ]
    if not of_tables:
        return ""
    run = presets.get("own_table").run
    introduction = _TABLES.format(
        each=_each(r for r in of_tables if r["method"] == "sgd"),
        end=_END,
        seeds=formatting.count(
            len({r["seed"] for r in of_tables}), "seed"
        ).capitalize(),
        epochs=run.epochs,
        batch=run.batch_size,
    )
    parts: list[Any] = [_wrapped(introduction)]
    known = [name for name in TABLES if any(r["data"] == name for r in of_tables)]
    for name in known:
        gains = ["average_precision", "balanced_at_threshold"]
        parts += [f"### {name}", _table(of_tables, name, gains)]
    return formatting.blocks(*parts, _check(of_tables, known))


def _check(records: Sequence[Record], known: Sequence[str]) -> str:
    """What the losses after plain training say, and what λ then did."""
    lams = list(dict.fromkeys(r["value"] for r in records if r["method"] == "absgd"))
    rows = [["data", "wrong", "warned", "λ", "effective fraction", "points"]]
    pairs: list[tuple[float, float]] = []  # effective fraction and gain
    for name in known:
        plain = chosen(records, name, "sgd")
        ended = {r["seed"]: r for r in plain.records if "wrong" in r}
        warned = sum(r["wrong"] >= WRONG_SHARE for r in ended.values())
        wrong = formatting.spread(np.array([r["wrong"] for r in ended.values()]))
        theirs = plain.of("average_precision")
        for lam in lams:
            precision = chosen(records, name, "absgd", lam).of("average_precision")
            effective = {seed: r["effective"][lam] for seed, r in ended.items()}
            rows.append(
                [
                    name,
                    f"{wrong}%",
                    f"{warned} of {len(ended)}",
                    lam,
                    f"{np.mean([*effective.values()]):.2f}",
                    difference(precision, theirs, name) if precision else "diverged",
                ]
            )
            both = precision.keys() & theirs.keys()
            pairs += [(effective[key[1]], precision[key] - theirs[key]) for key in both]
    return formatting.blocks(
        _CHECK.format(share=100 * WRONG_SHARE),
        formatting.markdown(rows),
        _VERDICTS.format(harm=100 * HARM),
        formatting.markdown(by_fraction(pairs, HARM)),
    )


def by_fraction(pairs: Sequence[tuple[float, float]], least: float) -> list[list[str]]:
    """Rows of a table: what λ did, by the effective fraction that it leaves.

    The pairs are effective fraction and difference from SGD; `least` is the difference
    from which on a run is harmed, or gained. The head comes first. The mean has no
    error, as the pairs of one data set, or of one SGD, are not independent.
    """
    rows = [["effective fraction", "harmed", "gained", "mean"]]
    for low, high in zip(FRACTIONS, (np.inf, *FRACTIONS), strict=False):
        gains = np.array([gain for share, gain in pairs if low <= share < high])
        name = f"{low:g} and more" if math.isinf(high) else f"{low:g} to {high:g}"
        counts = [f"{np.sum(s * gains > least)} of {len(gains)}" for s in (-1, 1)]
        mean = formatting.points(gains.mean()) if len(gains) else "–"
        rows.append([name, *counts, mean])
    return rows
