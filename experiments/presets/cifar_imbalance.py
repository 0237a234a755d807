"""CIFAR-10 and CIFAR-100 with long tails and steps: Tables 1 and 2 of both versions."""

from typing import Any, NamedTuple

from experiments import configs
from experiments.presets._preset import Preset, Variant
from experiments.results.paper import Key

_EPOCHS = 200
_SWITCH = 160 / _EPOCHS

_DATASETS: dict[configs.Source, str] = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100"}
_SHAPES: dict[str, tuple[Any, str]] = {
    "lt": ("long_tail", "long tail"),
    "st": ("step", "step"),
}
_RATIOS = (100, 10)

_SGD = {"method.name": "sgd"}
# A weighted cross-entropy is divided by the class weights of the batch; the focal loss,
# which has them inside, is a plain mean.
_DEFERRED = _SGD | {"loss.class_weights_norm": "weights"}
_ALWAYS = {"loss.class_weights_from": 0.0}
_WEIGHTED: dict[str, Any] = {"class_weights": True, "class_weights_from": _SWITCH}


class _Row(NamedTuple):
    """A loss, as SGD and ABSGD train with it."""

    loss: str  # as printed
    table: int  # of both versions
    config: configs.Loss  # of ABSGD
    baseline: dict[str, Any]  # changes that make it the row of SGD


_ROWS = {
    "": _Row("CE", 1, configs.Loss(), _SGD),
    "_focal": _Row("Focal", 1, configs.Loss("focal"), _SGD),
    "_cb_ce": _Row("CB-CE", 2, configs.Loss(**_WEIGHTED), _DEFERRED | _ALWAYS),
    "_cb_focal": _Row(
        "CB-Focal", 2, configs.Loss("focal", **_WEIGHTED), _SGD | _ALWAYS
    ),
    "_ldam": _Row("LDAM", 2, configs.Loss("ldam"), _SGD),
    "_cb_ldam": _Row("CB-LDAM", 2, configs.Loss("ldam", **_WEIGHTED), _DEFERRED),
}

# Cross-entropy without class weights. It stands here for the table that it is in.
_RESAMPLING = Variant(
    "Resampling (CE)",
    _SGD | {"loss.class_weights": False, "data.sampling": "effective"},
)

# Accuracy of cross-entropy with deferred weights, from LDAM's paper (Cao et al. 2019,
# 100 less the error), which ABSGD's leaves out.
DRW_CE = {
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
    "steps of ratio 100: see {name}_drw_{loss}. "
)
_RESAMPLING_NOTE = (
    "Resampling draws by LDAM's probabilities from the first epoch on; in LDAM's code "
    "they never reach the loader. "
)
# What a reader of the table has to know of a loss.
_NOTES = {
    "CB-CE": _WEIGHTS_NOTE + _ALWAYS_NOTE + _RESAMPLING_NOTE,
    "CB-Focal": _FOCAL_NOTE + _ALWAYS_NOTE,
    "LDAM": "ABSGD on LDAM without class weights is not in the paper. ",
    "CB-LDAM": _WEIGHTS_NOTE,
}

_ABLATION = "earlier version, Fig. 3"
_GAMMA = "later version, Fig. 4 left (γ)"
_CLASS_WEIGHTS = "later version, Fig. 4 right (weights per class)"
_TSNE = "later version, Fig. 3 (t-SNE)"
_EARLIER_TSNE = "earlier version, Fig. 4 (t-SNE)"
# The figures that runs of the tables are in as well.
_DRAWN = {
    "cifar10_lt100": (_GAMMA, _ABLATION, _EARLIER_TSNE),
    "cifar100_lt100": (_GAMMA, _CLASS_WEIGHTS, _ABLATION),
    "cifar100_st100": (_CLASS_WEIGHTS,),
}
_CARRIED_NOTE = (
    "At the switch the running objective F is carried on in units of loss; the "
    "authors' code carries s, an average of exp(L/100), which takes some 1/γ steps to "
    "become one of exp(L). "
)


class _Setting(NamedTuple):
    """A data set, with the shape and the ratio of its imbalance."""

    source: configs.Source
    shape: str  # a key of _SHAPES
    ratio: int

    @property
    def name(self) -> str:
        return f"{self.source}_{self.shape}{self.ratio}"

    @property
    def title(self) -> str:
        shape = _SHAPES[self.shape][1]
        return f"{_DATASETS[self.source]}, {shape} of ratio {self.ratio}"

    def keys(self, table: int) -> tuple[Key, ...]:
        """The blocks of that table in both versions of the paper."""
        found = self.source.upper(), self.shape.upper(), str(self.ratio)
        return tuple(Key(version, table, *found) for version in ("000", "002"))

    def choice(self, why: str) -> str:
        held_out = 100 if self.source == "cifar10" else 10
        return _CHOICE.format(why=why, held_out=held_out)

    def run(self, loss: configs.Loss, lam: float = 1.0) -> configs.Run:
        """ResNet-32 for 200 epochs; λ from epoch 160."""
        return configs.Run(
            data=configs.Data(
                source=self.source,
                imbalance=_SHAPES[self.shape][0],
                imbalance_ratio=float(self.ratio),
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


def presets() -> list[Preset]:
    """All of them; a name is data set, shape and ratio, then loss, then what differs.

    `cifar10_lt100` is cross-entropy on the long tail of ratio 100, `_st10` the step of
    ratio 10; `_cb_` has class weights. The figures vary only `_lt100`.
    """
    settings = [
        _Setting(source, shape, ratio)
        for source in _DATASETS
        for shape in _SHAPES
        for ratio in _RATIOS
    ]
    return [
        *(_table(setting, suffix) for setting in settings for suffix in _ROWS),
        *(preset for setting in settings for preset in _deferred(setting)),
        *(preset for setting in settings for preset in _author_code(setting)),
        *(preset for source in _DATASETS for preset in _figures(source)),
    ]


def _table(setting: _Setting, suffix: str) -> Preset:
    """The rows of SGD and ABSGD in Tables 1 and 2 that have one loss.

    Tables 1 (CE, Focal) are means of three runs, Tables 2 (LDAM and class weights) say
    nothing of runs. LDAM without class weights is printed only for SGD. Resampling,
    on cross-entropy, is with CB-CE, because it is in Table 2.
    """
    loss, table, config, baseline = _ROWS[suffix]
    name = setting.name + suffix
    if table == 1:
        lam, why = 1.0, "λ = 1 is that of the figures, γ = 0.5 the best of them."
    else:
        lam = 5.0 if setting.source == "cifar10" else 3.0
        why = f"λ = {lam:g} is that of the authors' published example"
        if loss == "CB-CE":
            why += ", γ = 0.5 the figures'."
        else:
            why += (
                f" for CB-CE, in want of one for {loss}; γ = 0.5 is the figures' best."
            )
    note = _NOTES.get(loss, "").format(
        name=setting.name, loss=loss.removeprefix("CB-").lower()
    )
    return Preset(
        name=name,
        family="CIFAR, imbalanced",
        title=f"{setting.title}: {loss}",
        run=setting.run(config, lam),
        paper=setting.keys(table),
        variants=(
            Variant(f"SGD ({loss})", baseline),
            *([] if loss == "LDAM" else [Variant(f"ABSGD ({loss})")]),
            *([_RESAMPLING] if loss == "CB-CE" else []),
        ),
        figures=_DRAWN.get(name, ()),
        choice=setting.choice(why),
        note=note + _NOTE,
    )


def _deferred(setting: _Setting) -> list[Preset]:
    """SGD with class weights from epoch 160: DRW, which Table 2 claims but lacks.

    Cross-entropy is the weighted mean of PyTorch, divided by the batch's sum of
    weights; the focal loss is a plain mean, as in LDAM's code. With LDAM it is
    `_cb_ldam --method.name sgd --loss.class-weights-norm weights`, and printed.
    """
    return [
        Preset(
            name=f"{setting.name}_drw_{loss.lower()}",
            family="CIFAR, imbalanced: deferred class weights",
            title=f"{setting.title}: DRW-{loss}, SGD",
            run=configs.replace(
                setting.run(_ROWS[f"_cb_{loss.lower()}"].config),
                {"method": configs.Method("sgd"), "loss.class_weights_norm": norm},
            ),
            note="Not in the paper, whose SGD rows do not defer the class weights. "
            f"{note}{_NOTE}",
        )
        for loss, norm, note in (
            ("CE", "weights", f"LDAM's paper has {DRW_CE[setting.name]:.2f} for it. "),
            ("Focal", "examples", _FOCAL_NOTE),
        )
    ]


def _author_code(setting: _Setting) -> list[Preset]:
    """As the authors' code runs it, where that departs from the paper.

    Weights are divided by α, the drop at epoch 160 comes an epoch earlier, the one at
    180 not at all. Class-balanced runs take the settings of the one example that the
    authors publish for each data set: CIFAR-10 LT 10 and CIFAR-100 ST 100.
    """
    code = {"method.alpha": 0.5, "optimizer.drop_at": (159 / _EPOCHS,)}
    defaults = code | {"method.gamma": 0.1, "method.lam": 1.0}
    if setting.source == "cifar10":
        example = {"method.gamma": 0.7, "method.lam": 5.0}
        example |= {"batch_size": 100, "model.dropout": 0.2}
        dropout = (
            "Where its network drops 0.2 is not published; here it is before the head. "
        )
    else:
        example = {"method.gamma": 0.45, "method.lam": 3.0, "method.alpha": 0.3}
        dropout = ""
    own = setting.name in ("cifar10_lt10", "cifar100_st100")
    of_example = "These are the published example's" + (
        "." if own else ", which is of another ratio or shape."
    )
    return [
        Preset(
            name=f"{setting.name}{suffix}_author_code",
            family="CIFAR, imbalanced: as the authors' code",
            title=f"{setting.title}: {row.loss}, as the authors' code",
            run=configs.replace(setting.run(row.config), changes),
            paper=setting.keys(row.table),
            variants=(
                Variant(f"SGD ({row.loss})", of=setting.name + suffix),
                Variant(f"ABSGD ({row.loss})"),
            ),
            choice=setting.choice(why),
            note="Weights divided by α and η divided by 100 an epoch early, once. "
            + note,
        )
        for suffix, row, changes, why, note in (
            ("", _ROWS[""], defaults, "These are the code's defaults.", ""),
            ("_cb_ce", _ROWS["_cb_ce"], code | example, of_example, dropout),
        )
    ]


def _figures(source: configs.Source) -> list[Preset]:
    """What the figures vary on the long tail of ratio 100, with cross-entropy.

    The run that they are held against is `_lt100`: λ = ∞, then 1 from epoch 160, at
    γ = 0.5 and with momentum. The other λ and γ of the figures are not published. The
    weights per class (later version, Fig. 4 right) are in the records of `_lt100` and
    `_st100`. CIFAR-100 has no t-SNE.
    """
    setting = _Setting(source, "lt", 100)
    ten = source == "cifar10"
    fixed = (_ABLATION, _TSNE, _EARLIER_TSNE) if ten else (_ABLATION,)
    varied: list[tuple[str, str, str, float, tuple[str, ...]]] = [
        (
            f"_gamma{round(100 * gamma)}",
            f"γ = {gamma:g}",
            "method.gamma",
            gamma,
            ("later version, Fig. 4 left",),
        )
        for gamma in (0.1, 0.3, 0.7, 0.9)
    ]
    varied += [
        ("_fixed", "λ = 1 from the first step", "method.start_at", 0.0, fixed),
        ("_no_momentum", "without momentum", "optimizer.momentum", 0.0, (_ABLATION,)),
    ]
    if ten:
        varied.append(
            ("_first100", "λ = 100, then 1", "method.first_lam", 100.0, (_TSNE,))
        )
    return [
        Preset(
            name=setting.name + suffix,
            family="CIFAR, imbalanced: figures",
            title=f"{setting.title}: CE, {what}",
            run=configs.replace(setting.run(configs.Loss()), {field: value}),
            figures=figures,
            note=f"To be held against {setting.name}; three seeds. "
            + (_CARRIED_NOTE if field == "method.first_lam" else "")
            + _NOTE,
        )
        for suffix, what, field, value, figures in varied
    ]
