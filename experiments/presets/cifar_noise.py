"""CIFAR-10 and CIFAR-100 with wrong labels: Table 6 of the later version."""

from typing import Any, NamedTuple

from experiments import configs
from experiments.presets._preset import Preset, Variant
from experiments.results.paper import Key

_EPOCHS = 120
_SWITCH = 80 / _EPOCHS
_RATES = (20, 40)

_DATASETS: dict[configs.Source, str] = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100"}
_KINDS: dict[str, tuple[Any, str]] = {
    "sym": ("symmetric_sce", "symmetric"),
    "asym": ("asymmetric_author_code", "asymmetric"),
}
_AUGMENT: dict[configs.Source, dict[str, Any]] = {
    "cifar10": {
        "mean": (0.49139968, 0.48215827, 0.44653124),
        "std": (0.24703233, 0.24348505, 0.26158768),
    },
    "cifar100": {
        "mean": (0.5071, 0.4865, 0.4409),
        "std": (0.2673, 0.2564, 0.2762),
        "rotation": 20.0,
    },
}


class _Tuned(NamedTuple):
    """Settings of one loss on one kind of noise."""

    learning_rate: float
    weight_decay: float
    lam: float
    gamma: float
    alpha: float = 0.1  # of SCE
    beta: float = 1.0
    recorded: bool = False  # whether λ and γ are; else they are ours


# From the run script that the authors' repository once had, the only record of what was
# tuned. A missing λ is taken from the grid: where the loss is larger it is as well.
_TUNED = {
    ("cifar10", "sym"): {
        "CE": _Tuned(0.01, 5e-3, -1.0, 0.9),
        "SCE": _Tuned(0.01, 5e-3, -0.5, 0.9, 0.1, 2.0, recorded=True),
        "TCE": _Tuned(0.01, 1e-4, -0.5, 0.9),
    },
    ("cifar10", "asym"): {
        "CE": _Tuned(0.001, 5e-3, -2.0, 0.9),
        "SCE": _Tuned(0.001, 5e-3, -2.0, 0.9, 6.0, 2.0, recorded=True),
        "TCE": _Tuned(0.01, 1e-4, -0.5, 0.9),
    },
    ("cifar100", "sym"): {
        "CE": _Tuned(0.01, 1e-2, -3.0, 0.5),
        "SCE": _Tuned(0.01, 1e-2, -3.0, 0.9, 6.0, 0.5),
        "TCE": _Tuned(0.01, 1e-4, -0.5, 0.9),
    },
    ("cifar100", "asym"): {
        "CE": _Tuned(0.1, 5e-3, -3.0, 0.9),
        "SCE": _Tuned(0.1, 5e-3, -3.0, 0.9, 0.4, 0.1, recorded=True),
        "TCE": _Tuned(0.01, 1e-4, -0.5, 0.9),
    },
}
# What SGD has in place of these, in the same script.
_SGD_SCE: dict[tuple[str, str, int], dict[str, Any]] = {
    ("cifar10", "sym", 20): {"loss.alpha": 0.2},
    ("cifar10", "sym", 40): {"loss.alpha": 0.2},
    ("cifar10", "asym", 20): {"loss.alpha": 0.2, "optimizer.learning_rate": 0.01},
    ("cifar100", "asym", 20): {"loss.alpha": 0.7},
    ("cifar100", "asym", 40): {"loss.alpha": 0.7},
}
_NETWORKS: dict[tuple[str, str], Any] = {
    ("cifar100", "sym"): "resnet18",
    ("cifar100", "asym"): "resnet34",
}

_LOSSES = {"": "CE", "_sce": "SCE", "_tce": "TCE"}
_NOTE = (
    "Noise, images, clipping at 5 and λ from epoch 80 are those of the authors' code; "
    "the paper names none of these. η is divided by 10 at epochs 40 and 80. Always the "
    "same labels are wrong, those of the code's seed 123. "
)
# Where the authors' runs of ABSGD (SCE) divide the logits by their norm.
_TAU_NOTE = {
    ("cifar10", "asym"): (
        "The printed ABSGD runs divide the logits by their norm and their baselines do "
        "not: hold each against its own kind, here and with _tau1. "
    ),
    ("cifar100", "sym"): (
        "The printed gain of ABSGD seems to be that of dividing the logits by their "
        "norm, which its baselines do not: the authors' own remarks have CE with it at "
        "72.13 (rate 0.2) and 67.02 (0.4), above ABSGD. Hold each against its own "
        "kind, here and with _tau1. "
    ),
}
_NETWORK_NOTE = {
    "cifar10": "The network is the CNN of SCE's code, with 6 convolutions and 2 dense "
    "layers (the paper says 4 layers), and decay 0.01 on the first dense "
    "layer and its norm. ",
    "cifar100": "The network is the paper's; the authors' newest code has ResNet-34 "
    "for both kinds of noise. ",
}
_ASYMMETRIC_NOTE = {
    "cifar10": "Flips are picked from labels that are flipped already, as the code "
    "does, so 9.6% or 18.4% of all labels are wrong, not 10% or 20% "
    "(`--data.noise asymmetric_sce`). ",
    "cifar100": "What the paper calls a superclass is five consecutive labels. ",
}
_TCE_NOTE = (
    "Truncation looks at every example before each epoch from 81 on, as in the "
    "authors' code, there for SGD alone; that of GCE's unofficial code looks every "
    "tenth epoch from 40 (`--loss.prune-from 0.325 --loss.prune-every 10`). Here it "
    "looks without augmentation. "
)


class _Variation(NamedTuple):
    """What is done on every setting, otherwise than the paper states it."""

    ending: str  # of the name
    family: str
    what: str  # in the title
    note: str
    changes: dict[str, Any]  # of the run
    suffixes: tuple[str, ...] = tuple(_LOSSES)


_VARIATIONS = (
    _Variation("", "CIFAR, noisy", "", "", {}),
    # With logits divided by their norm in training, whatever the method. The authors'
    # runs of ABSGD do so in half of the settings, and their runs of the others do not,
    # which the paper leaves out. No printed number is claimed for these.
    _Variation(
        "_tau1",
        "CIFAR, noisy: logits divided by their norm",
        ", logits divided by their norm",
        "To be held against {name}, with that one's flags for SGD. ",
        {"loss.logit_norm": 1.0},
    ),
    # With the constant that the authors' code adds to every weight: the plain mean of
    # the losses is then minimised as well.
    _Variation(
        "_uniform",
        "CIFAR, noisy: uniform term",
        ", one added to every weight",
        "To be held against {name}. ",
        {"method.uniform": True},
        ("_sce",),
    ),
    # As the authors' code runs it, where that departs from the paper; and logits are
    # divided by their norm where the authors' runs of ABSGD do so.
    _Variation(
        "_author_code",
        "CIFAR, noisy: as the authors' code",
        ", as the authors' code",
        "One is added to every weight, weights are divided by α = 0.5, and "
        "cross-entropy is not clipped where p_y falls below 1e-7, as it is in {name}. ",
        {
            "method.uniform": True,
            "method.alpha": 0.5,
            "loss.smallest_probability": 0.0,
        },
        ("_sce",),
    ),
)


class _Setting(NamedTuple):
    """A data set, with the kind and the rate of its noise."""

    source: configs.Source
    kind: str  # a key of _KINDS
    rate: int  # percent


def presets() -> list[Preset]:
    """All of them; a name is data set, kind and rate in percent, loss, what differs.

    `cifar10_sym20` is cross-entropy with a fifth of the labels wrong, `_asym40_sce`
    symmetric cross-entropy at the asymmetric rate 0.4.
    """
    settings = [
        _Setting(source, kind, rate)
        for source in _DATASETS
        for kind in _KINDS
        for rate in _RATES
    ]
    return [
        _preset(variation, setting, suffix)
        for variation in _VARIATIONS
        for setting in settings
        for suffix in variation.suffixes
    ]


def _preset(variation: _Variation, setting: _Setting, suffix: str) -> Preset:
    """A preset with one loss, and its rows in Table 6: means of five runs.

    EG is ABSGD with γ = 1, as the paper compares with it: weights normalised within the
    batch. CE and TCE are printed only for SGD.
    """
    loss, kind, rate = _LOSSES[suffix], _KINDS[setting.kind][1], setting.rate / 100
    name = f"{setting.source}_{setting.kind}{setting.rate}{suffix}"
    changes = dict(variation.changes)
    baseline: dict[str, Any] = {"method.name": "sgd"}
    rows = []
    if loss == "SCE":
        baseline |= _SGD_SCE.get(setting, {})
        rows = [Variant("EG (SCE)", {"method.gamma": 1.0}), Variant("ABSGD (SCE)")]
    if variation.ending == "_author_code":
        del rows[0]
        if setting[:2] in _TAU_NOTE:
            changes["loss.logit_norm"] = 1.0
            baseline["loss.logit_norm"] = 0.0
    printed = variation.ending in ("", "_author_code")
    key = Key("000", 6, setting.source.upper(), kind, f"{rate:g}")
    return Preset(
        name=name + variation.ending,
        family=variation.family,
        title=f"{_DATASETS[setting.source]}, {kind} noise of rate {rate:g}: {loss}"
        + variation.what,
        run=configs.replace(_run(setting, loss), changes),
        paper=(key,) if printed else (),
        variants=(Variant(f"SGD ({loss})", baseline), *rows) if printed else (),
        choice=_choice(setting, loss),
        note=variation.note.format(name=name) + _note(setting, loss),
    )


def _run(setting: _Setting, loss: str) -> configs.Run:
    """120 epochs; λ from epoch 80."""
    source, kind, rate = setting
    tuned = _TUNED[source, kind][loss]
    losses = {
        "CE": configs.Loss(),
        "SCE": configs.Loss("symmetric", alpha=tuned.alpha, beta=tuned.beta),
        "TCE": configs.Loss("truncated", q=0.7, k=0.5, prune_from=81 / _EPOCHS),
    }
    return configs.Run(
        data=configs.Data(
            source=source,
            noise=_KINDS[kind][0],
            noise_rate=rate / 100,
            corruption_seed=123,
            crop_padding=4,
            flip=True,
            **_AUGMENT[source],
        ),
        model=configs.Model(_NETWORKS.get((source, kind), "sce_cnn")),
        loss=losses[loss],
        method=configs.Method(
            lam=tuned.lam, start_at=_SWITCH, gamma=tuned.gamma, init_s=0.0
        ),
        optimizer=configs.Optimizer(
            learning_rate=tuned.learning_rate,
            drop_at=(40 / _EPOCHS, 80 / _EPOCHS),
            drop_factor=10.0,
            weight_decay=tuned.weight_decay,
            hidden_weight_decay=0.01 if source == "cifar10" else None,
            clip_norm=5.0,
        ),
        epochs=_EPOCHS,
        batch_size=128,
    )


def _choice(setting: _Setting, loss: str) -> str:
    """Where the settings come from."""
    tuned = _TUNED[setting[:2]][loss]
    held_out = 100 if setting.source == "cifar10" else 10
    found = (
        "these are of the authors' former run script"
        if tuned.recorded
        else "their former run script records none for this loss, so these are ours"
    )
    return (
        "The paper chooses λ among -0.1, -0.5, -1, -2 and -3 (the authors' script has "
        f"-5, too) and γ among 0.1, 0.5 and 0.9; {found}. Choose by accuracy on "
        "validation images, whose labels are as wrong, with "
        f"`--data.validation-per-class {held_out}`, and then train without it; the "
        "authors' code keeps the best epoch on the test set."
    )


def _note(setting: _Setting, loss: str) -> str:
    """What a reader of the table has to know of a row."""
    text = _NOTE + _NETWORK_NOTE[setting.source]
    if setting.kind == "asym":
        text += _ASYMMETRIC_NOTE[setting.source]
    text += _TAU_NOTE.get(setting[:2], "")
    if loss == "TCE":
        text += _TCE_NOTE
    if loss in ("CE", "TCE"):
        text += f"ABSGD ({loss}) is not in the table. "
    return text.strip()
