"""CIFAR-10 and CIFAR-100 with wrong labels: Table 6 of the later version."""

from typing import Any, NamedTuple

from experiments import configs
from experiments.presets._preset import Preset, variant
from experiments.results.paper import Key

_EPOCHS = 120
_SWITCH = 80 / _EPOCHS
_LAMS = (-0.1, -0.5, -1.0, -2.0, -3.0, -5.0)
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
    ("cifar10", "asym", 20): {
        "loss.alpha": 0.2,
        "optimizer.learning_rate": 0.01,
    },
    ("cifar100", "asym", 20): {"loss.alpha": 0.7},
    ("cifar100", "asym", 40): {"loss.alpha": 0.7},
}
# Where the authors' runs of ABSGD (SCE) divide the logits by their norm.
_AUTHOR_TAU = {("cifar10", "asym"): 1.0, ("cifar100", "sym"): 1.0}

_LOSSES = {"": "CE", "_sce": "SCE", "_tce": "TCE"}
_NOTE = (
    "Noise, images, clipping at 5 and λ from epoch 80 are those of the authors' code; "
    "the paper names none of these. η is divided by 10 at epochs 40 and 80. Always the "
    "same labels are wrong, those of the code's seed 123. "
)
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


def presets() -> list[Preset]:
    """All of them; a name is data set, kind and rate in percent, loss, what differs.

    `cifar10_sym20` is cross-entropy with a fifth of the labels wrong, `_asym40_sce`
    symmetric cross-entropy at the asymmetric rate 0.4.
    """
    settings = [
        (source, kind, rate)
        for source in _DATASETS
        for kind in _KINDS
        for rate in _RATES
    ]
    return [
        *(_table(*setting, suffix) for setting in settings for suffix in _LOSSES),
        *(_divided(*setting, suffix) for setting in settings for suffix in _LOSSES),
        *(_uniform(*setting) for setting in settings),
        *(_author_code(*setting) for setting in settings),
    ]


def _table(source: configs.Source, kind: str, rate: int, suffix: str) -> Preset:
    """The rows of one loss in Table 6: means of five runs.

    EG is ABSGD with γ = 1, as the paper compares with it: weights normalised within the
    batch. CE and TCE are printed only for SGD.
    """
    loss = _LOSSES[suffix]
    changes = _SGD_SCE.get((source, kind, rate), {}) if loss == "SCE" else {}
    rows = [variant(f"SGD ({loss})", {"method.name": "sgd"} | changes)]
    if loss == "SCE":
        rows += [variant("EG (SCE)", {"method.gamma": 1.0}), variant("ABSGD (SCE)")]
    return Preset(
        name=f"{source}_{kind}{rate}{suffix}",
        family="CIFAR, noisy",
        title=f"{_title(source, kind, rate)}: {loss}",
        run=_run(source, kind, rate, loss),
        paper=(_key(source, kind, rate),),
        variants=tuple(rows),
        lams=_LAMS,
        choice=_choice(source, kind, loss),
        note=_note(source, kind, loss),
    )


def _divided(source: configs.Source, kind: str, rate: int, suffix: str) -> Preset:
    """The same with logits divided by their norm in training, whatever the method.

    The authors' runs of ABSGD do so in half of the settings, and their runs of the
    others do not, which the paper leaves out. No printed number is claimed for these.
    """
    loss = _LOSSES[suffix]
    name = f"{source}_{kind}{rate}{suffix}"
    return Preset(
        name=f"{name}_tau1",
        family="CIFAR, noisy: logits divided by their norm",
        title=f"{_title(source, kind, rate)}: {loss}, logits divided by their norm",
        run=configs.replace(_run(source, kind, rate, loss), {"loss.logit_norm": 1.0}),
        lams=_LAMS,
        choice=_choice(source, kind, loss),
        note=f"To be held against {name}, with that one's flags for SGD. "
        + _note(source, kind, loss),
    )


def _uniform(source: configs.Source, kind: str, rate: int) -> Preset:
    """SCE with the constant that the authors' code adds to every weight.

    The plain mean of the losses is then minimised as well.
    """
    name = f"{source}_{kind}{rate}_sce"
    return Preset(
        name=f"{name}_uniform",
        family="CIFAR, noisy: uniform term",
        title=f"{_title(source, kind, rate)}: SCE, one added to every weight",
        run=configs.replace(_run(source, kind, rate, "SCE"), {"method.uniform": True}),
        lams=_LAMS,
        choice=_choice(source, kind, "SCE"),
        note=f"To be held against {name}. " + _note(source, kind, "SCE"),
    )


def _author_code(source: configs.Source, kind: str, rate: int) -> Preset:
    """SCE as the authors' code runs it, where that departs from the paper.

    One is added to every weight, weights are divided by α = 0.5, logits by their norm
    where the authors' runs of ABSGD do so, and cross-entropy is not clipped.
    """
    name = f"{source}_{kind}{rate}_sce"
    baseline = {"method.name": "sgd", **_SGD_SCE.get((source, kind, rate), {})}
    if (source, kind) in _AUTHOR_TAU:
        baseline["loss.logit_norm"] = 0.0
    return Preset(
        name=f"{name}_author_code",
        family="CIFAR, noisy: as the authors' code",
        title=f"{_title(source, kind, rate)}: SCE, as the authors' code",
        run=configs.replace(
            _run(source, kind, rate, "SCE"),
            {
                "method.uniform": True,
                "method.alpha": 0.5,
                "loss.logit_norm": _AUTHOR_TAU.get((source, kind), 0.0),
                "loss.smallest_probability": 0.0,
            },
        ),
        paper=(_key(source, kind, rate),),
        variants=(variant("SGD (SCE)", baseline), variant("ABSGD (SCE)")),
        lams=_LAMS,
        choice=_choice(source, kind, "SCE"),
        note="One is added to every weight, weights are divided by α = 0.5, and "
        f"cross-entropy is not clipped where p_y falls below 1e-7, as it is in {name}. "
        + _note(source, kind, "SCE"),
    )


def _run(source: configs.Source, kind: str, rate: int, loss: str) -> configs.Run:
    """120 epochs; λ from epoch 80."""
    tuned = _TUNED[source, kind][loss]
    losses = {
        "CE": configs.Loss(),
        "SCE": configs.Loss("symmetric", alpha=tuned.alpha, beta=tuned.beta),
        "TCE": configs.Loss("truncated", q=0.7, k=0.5, prune_from=81 / _EPOCHS),
    }
    networks: dict[tuple[str, str], Any] = {
        ("cifar100", "sym"): "resnet18",
        ("cifar100", "asym"): "resnet34",
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
        model=configs.Model(networks.get((source, kind), "sce_cnn")),
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


def _key(source: configs.Source, kind: str, rate: int) -> Key:
    return Key("000", 6, source.upper(), _KINDS[kind][1], f"{rate / 100:g}")


def _title(source: configs.Source, kind: str, rate: int) -> str:
    return f"{_DATASETS[source]}, {_KINDS[kind][1]} noise of rate {rate / 100:g}"


def _choice(source: configs.Source, kind: str, loss: str) -> str:
    """Where the settings come from."""
    tuned = _TUNED[source, kind][loss]
    held_out = 100 if source == "cifar10" else 10
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


def _note(source: configs.Source, kind: str, loss: str) -> str:
    """What a reader of the table has to know of a row."""
    text = _NOTE + _NETWORK_NOTE[source]
    if kind == "asym":
        text += _ASYMMETRIC_NOTE[source]
    text += _TAU_NOTE.get((source, kind), "")
    if loss == "TCE":
        text += _TCE_NOTE
    if loss in ("CE", "TCE"):
        text += f"ABSGD ({loss}) is not in the table. "
    return text.strip()
