"""CIFAR-10 and CIFAR-100 with long tails and steps: Tables 1 and 2 of both versions."""

from typing import Any

from experiments import configs
from experiments.presets._preset import Preset, variant
from experiments.results.paper import Key

_EPOCHS = 200
_SWITCH = 160 / _EPOCHS
_LAMS = (0.1, *(float(lam) for lam in range(1, 11)))

_DATASETS: dict[configs.Source, str] = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100"}
_SHAPES: dict[str, tuple[Any, str]] = {
    "lt": ("long_tail", "long tail"),
    "st": ("step", "step"),
}
_RATIOS = (100, 10)
_WEIGHTED = {"class_weights": True, "class_weights_from": _SWITCH}
_LOSSES = {
    "": ("CE", configs.Loss()),
    "_focal": ("Focal", configs.Loss("focal")),
    "_cb_ce": ("CB-CE", configs.Loss(**_WEIGHTED)),
    "_cb_focal": ("CB-Focal", configs.Loss("focal", **_WEIGHTED)),
    "_ldam": ("LDAM", configs.Loss("ldam")),
    "_cb_ldam": ("CB-LDAM", configs.Loss("ldam", **_WEIGHTED)),
}

_SGD = {"method.name": "sgd"}
# A weighted cross-entropy is divided by the class weights of the batch; the focal loss,
# which has them inside, is a plain mean.
_DEFERRED = _SGD | {"loss.class_weights_norm": "weights"}
_ALWAYS = {"loss.class_weights_from": 0.0}
_BASELINES = {
    "CE": _SGD,
    "Focal": _SGD,
    "LDAM": _SGD,
    "CB-CE": _DEFERRED | _ALWAYS,
    "CB-Focal": _SGD | _ALWAYS,
    "CB-LDAM": _DEFERRED,
}

# Cross-entropy without class weights. It stands here for the table that it is in.
_RESAMPLING = variant(
    "Resampling (CE)",
    _SGD | {"loss.class_weights": False, "data.sampling": "effective"},
)

# Accuracy of cross-entropy with deferred weights, from LDAM's paper (Cao et al. 2019,
# 100 less the error), which ABSGD's leaves out.
_DRW_CE = {
    "cifar10_lt100": 74.86,
    "cifar10_lt10": 86.88,
    "cifar10_st100": 71.60,
    "cifar10_st10": 85.51,
    "cifar100_lt100": 40.66,
    "cifar100_lt10": 57.32,
    "cifar100_st100": 41.14,
    "cifar100_st10": 57.22,
}

_CHOICE = (
    "The later version chooses λ among 1, 2, ..., 10 and γ among 0.1, 0.2, ..., 1, the "
    "earlier one λ among 0.1, 1 and 10, and neither says what it chose. {why} Choose "
    "by validation accuracy, with `--data.validation-per-class {held_out}` (1,000 "
    "images held out before subsampling), and then train without it; the "
    "authors' code keeps the best epoch on the test set."
)
_NOTE = (
    "Images, network and learning rates are those of LDAM's code: always the same "
    "images, five epochs of warm-up, η divided by 100 at epochs 160 and 180, "
    "CIFAR-10's mean and deviation for CIFAR-100 as well. λ (and class weights) begin "
    "at epoch 160, where s starts from 0, so the first weights there are 1/γ times "
    "larger."
)
_WEIGHTS_NOTE = (
    "In ABSGD class weights multiply the losses; the SGD rows divide by their sum in "
    "the batch (`--loss.class-weights-norm weights`), so their losses are of another "
    "size. "
)
_FOCAL_NOTE = (
    "Class weights are inside the focal loss, and its mean is a plain one for SGD too, "
    "as in LDAM's code. "
)
_ALWAYS_NOTE = (
    "Both versions say that SGD's class weights are deferred too, but all that they "
    "print for CB-Focal, and three of eight for CB-CE, is what LDAM's paper has for "
    "weights from the first epoch on. Deferred ones are 10 to 20 points better on the "
    "steps of ratio 100: see {drw}. "
)


_RESAMPLING_NOTE = (
    "Resampling draws by LDAM's probabilities from the first epoch on; in LDAM's code "
    "they never reach the loader. "
)


def presets() -> list[Preset]:
    """All of them; a name is data set, shape and ratio, then loss, then what differs.

    `cifar10_lt100` is cross-entropy on the long tail of ratio 100, `_st10` the step of
    ratio 10; `_cb_` has class weights. The figures vary only `_lt100`.
    """
    return [
        *(preset for setting in _settings() for preset in _tables(*setting)),
        *(preset for setting in _settings() for preset in _deferred(*setting)),
        *(preset for setting in _settings() for preset in _author_code(*setting)),
        *(preset for source in _DATASETS for preset in _figures(source)),
    ]


def _settings() -> list[tuple[configs.Source, str, int]]:
    """Data set, shape and ratio of each."""
    return [
        (source, shape, ratio)
        for source in _DATASETS
        for shape in _SHAPES
        for ratio in _RATIOS
    ]


def _tables(source: configs.Source, shape: str, ratio: int) -> list[Preset]:
    """The rows of SGD and ABSGD in Tables 1 and 2, a preset for each loss.

    Tables 1 (CE, Focal) are means of three runs, Tables 2 (LDAM and class weights) say
    nothing of runs. LDAM without class weights is printed only for SGD. Resampling,
    on cross-entropy, is with CB-CE, because it is in Table 2.
    """
    setting = f"{source}_{shape}{ratio}"
    return [
        Preset(
            name=setting + suffix,
            family="CIFAR, imbalanced",
            title=f"{_title(source, shape, ratio)}: {loss}",
            run=_run(source, shape, ratio, config, _lam(source, loss)),
            paper=tuple(
                Key(
                    version,
                    1 if loss in ("CE", "Focal") else 2,
                    source.upper(),
                    shape.upper(),
                    str(ratio),
                )
                for version in ("000", "002")
            ),
            variants=(
                variant(f"SGD ({loss})", _BASELINES[loss]),
                *([] if loss == "LDAM" else [variant(f"ABSGD ({loss})")]),
                *([_RESAMPLING] if loss == "CB-CE" else []),
            ),
            figures=_drawn(setting + suffix),
            lams=_LAMS,
            choice=_choice(source, _why(source, loss)),
            note=_note(setting, loss),
        )
        for suffix, (loss, config) in _LOSSES.items()
    ]


def _deferred(source: configs.Source, shape: str, ratio: int) -> list[Preset]:
    """SGD with class weights from epoch 160: DRW, which Table 2 claims but lacks.

    Cross-entropy is the weighted mean of PyTorch, divided by the batch's sum of
    weights; the focal loss is a plain mean, as in LDAM's code. With LDAM it is
    `_cb_ldam --method.name sgd --loss.class-weights-norm weights`, and printed.
    """
    setting = f"{source}_{shape}{ratio}"
    return [
        Preset(
            name=f"{setting}_drw_{'ce' if loss == 'CE' else 'focal'}",
            family="CIFAR, imbalanced: deferred class weights",
            title=f"{_title(source, shape, ratio)}: DRW-{loss}, SGD",
            run=configs.replace(
                _run(source, shape, ratio, _LOSSES[weighted][1], 1.0),
                {
                    "method": configs.Method("sgd"),
                    "loss.class_weights_norm": "weights"
                    if loss == "CE"
                    else "examples",
                },
            ),
            note="Not in the paper, whose SGD rows do not defer the class weights. "
            + (
                f"LDAM's paper has {_DRW_CE[setting]:.2f} for it. "
                if loss == "CE"
                else _FOCAL_NOTE
            )
            + _NOTE,
        )
        for loss, weighted in (("CE", "_cb_ce"), ("Focal", "_cb_focal"))
    ]


def _author_code(source: configs.Source, shape: str, ratio: int) -> list[Preset]:
    """As the authors' code runs it, where that departs from the paper.

    Weights are divided by α, the drop at epoch 160 comes an epoch earlier, the one at
    180 not at all. Class-balanced runs take the settings of the one example that the
    authors publish for each data set: CIFAR-10 LT 10 and CIFAR-100 ST 100.
    """
    setting = f"{source}_{shape}{ratio}"
    code = {"method.alpha": 0.5, "optimizer.drop_at": (159 / _EPOCHS,)}
    defaults = code | {"method.gamma": 0.1, "method.lam": 1.0}
    example = code | (
        {
            "method.gamma": 0.7,
            "method.lam": 5.0,
            "batch_size": 100,
            "model.dropout": 0.2,
        }
        if source == "cifar10"
        else {"method.gamma": 0.45, "method.lam": 3.0, "method.alpha": 0.3}
    )
    own = setting in ("cifar10_lt10", "cifar100_st100")
    dropout = (
        "Where its network drops 0.2 is not published; here it is before the head. "
        if source == "cifar10"
        else ""
    )
    return [
        Preset(
            name=f"{setting}{suffix}_author_code",
            family="CIFAR, imbalanced: as the authors' code",
            title=f"{_title(source, shape, ratio)}: {loss}, as the authors' code",
            run=configs.replace(
                _run(source, shape, ratio, _LOSSES[suffix][1], 1.0), changes
            ),
            paper=tuple(
                Key(version, table, source.upper(), shape.upper(), str(ratio))
                for version in ("000", "002")
            ),
            variants=(
                variant(f"SGD ({loss})", of=setting + suffix),
                variant(f"ABSGD ({loss})"),
            ),
            lams=_LAMS,
            choice=_choice(source, why),
            note="Weights divided by α and η divided by 100 an epoch early, once. "
            + note,
        )
        for suffix, loss, table, changes, why, note in (
            ("", "CE", 1, defaults, "These are the code's defaults.", ""),
            (
                "_cb_ce",
                "CB-CE",
                2,
                example,
                "These are the published example's"
                + ("." if own else ", which is of another ratio or shape."),
                dropout,
            ),
        )
    ]


def _figures(source: configs.Source) -> list[Preset]:
    """What the figures vary on the long tail of ratio 100, with cross-entropy.

    The run that they are held against is `_lt100`: λ = ∞, then 1 from epoch 160, at
    γ = 0.5 and with momentum. The other λ and γ of the figures are not published. The
    weights per class (later version, Fig. 4 right) are in the records of `_lt100` and
    `_st100`. CIFAR-100 has no t-SNE.
    """
    setting = f"{source}_lt100"
    base = _run(source, "lt", 100, configs.Loss(), 1.0)
    varied = [
        *(
            (
                f"_gamma{round(100 * gamma)}",
                f"γ = {gamma:g}",
                {"method.gamma": gamma},
                ("later version, Fig. 4 left",),
            )
            for gamma in (0.1, 0.3, 0.7, 0.9)
        ),
        (
            "_fixed",
            "λ = 1 from the first step",
            {"method.start_at": 0.0},
            (
                "earlier version, Fig. 3",
                *(_TSNE if source == "cifar10" else ()),
            ),
        ),
        (
            "_no_momentum",
            "without momentum",
            {"optimizer.momentum": 0.0},
            ("earlier version, Fig. 3",),
        ),
    ]
    if source == "cifar10":
        varied.append(
            (
                "_first100",
                "λ = 100, then 1",
                {"method.first_lam": 100.0},
                ("later version, Fig. 3 (t-SNE)",),
            )
        )
    return [
        Preset(
            name=setting + suffix,
            family="CIFAR, imbalanced: figures",
            title=f"{_title(source, 'lt', 100)}: CE, {what}",
            run=configs.replace(base, changes),
            figures=figures,
            note=f"To be held against {setting}; three seeds. "
            + (_CARRIED_NOTE if "method.first_lam" in changes else "")
            + _NOTE,
        )
        for suffix, what, changes, figures in varied
    ]


_CARRIED_NOTE = (
    "At the switch the running objective F is carried on in units of loss; the "
    "authors' code carries s, an average of exp(L/100), which takes some 1/γ steps to "
    "become one of exp(L). "
)
_TSNE = ("later version, Fig. 3 (t-SNE)", "earlier version, Fig. 4 (t-SNE)")


def _drawn(name: str) -> tuple[str, ...]:
    """The figures that a run of the tables is in as well."""
    gamma, ablation = "later version, Fig. 4 left (γ)", "earlier version, Fig. 3"
    weights = "later version, Fig. 4 right (weights per class)"
    return {
        "cifar10_lt100": (gamma, ablation, "earlier version, Fig. 4 (t-SNE)"),
        "cifar100_lt100": (gamma, weights, ablation),
        "cifar100_st100": (weights,),
    }.get(name, ())


def _run(
    source: configs.Source, shape: str, ratio: int, loss: configs.Loss, lam: float
) -> configs.Run:
    """ResNet-32 for 200 epochs; λ from epoch 160."""
    return configs.Run(
        data=configs.Data(
            source=source,
            imbalance=_SHAPES[shape][0],
            imbalance_ratio=float(ratio),
            corruption_seed=0,
            crop_padding=4,
            flip=True,
            mean=(0.4914, 0.4822, 0.4465),
            std=(0.2023, 0.1994, 0.2010),
        ),
        model=configs.Model(
            "resnet32", head="cosine" if loss.name == "ldam" else "linear"
        ),
        loss=loss,
        method=configs.Method(lam=lam, start_at=_SWITCH, gamma=0.5, init_s=0.0),
        optimizer=configs.Optimizer(
            learning_rate=0.1,
            warmup=5 / _EPOCHS,
            drop_at=(_SWITCH, 180 / _EPOCHS),
            drop_factor=100.0,
            weight_decay=2e-4,
        ),
        epochs=_EPOCHS,
        batch_size=128,
    )


def _title(source: configs.Source, shape: str, ratio: int) -> str:
    return f"{_DATASETS[source]}, {_SHAPES[shape][1]} of ratio {ratio}"


def _lam(source: configs.Source, loss: str) -> float:
    if loss in ("CE", "Focal"):
        return 1.0
    return 5.0 if source == "cifar10" else 3.0


def _why(source: configs.Source, loss: str) -> str:
    """Where λ = `_lam` comes from."""
    if loss in ("CE", "Focal"):
        return "λ = 1 is that of the figures, γ = 0.5 the best of them."
    lam = f"λ = {_lam(source, loss):g}"
    if loss == "CB-CE":
        return f"{lam} is that of the authors' published example, γ = 0.5 the figures'."
    return (
        f"{lam} is that of the authors' published example for CB-CE, in want of one "
        f"for {loss}; γ = 0.5 is the figures' best."
    )


def _choice(source: configs.Source, why: str) -> str:
    return _CHOICE.format(why=why, held_out=100 if source == "cifar10" else 10)


def _note(setting: str, loss: str) -> str:
    """What a reader of the table has to know of a row."""
    text = ""
    if loss == "LDAM":
        text += "ABSGD on LDAM without class weights is not in the paper. "
    if loss.startswith("CB"):
        text += _FOCAL_NOTE if loss == "CB-Focal" else _WEIGHTS_NOTE
    if loss in ("CB-CE", "CB-Focal"):
        drw = f"{setting}_drw_{loss.removeprefix('CB-').lower()}"
        text += _ALWAYS_NOTE.format(drw=drw)
    if loss == "CB-CE":
        text += _RESAMPLING_NOTE
    return text + _NOTE
