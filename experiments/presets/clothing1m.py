"""Clothing1M, a million labels off the web: Table 7 of the later version."""

from experiments import configs
from experiments.presets._preset import PRETRAINED, Preset, Variant
from experiments.results.paper import Key

_LOSSES = {
    "": ("CE", configs.Loss()),
    "_sce": ("SCE", configs.Loss("symmetric", alpha=0.1, beta=1.0)),
    "_tce": ("TCE", configs.Loss("truncated", q=0.7, k=0.5)),
}
_CHOICE = (
    "The paper chooses λ among -1, -5, -10 and -15 and does not give γ; λ = -5 and "
    "γ = 0.5 are those of the authors' readme. Choose on the data set's validation "
    "images, whose labels are clean."
)
_NOTE = (
    "The paper does not give the batch size, when λ begins or the clipping: 128, the "
    "middle of the training and 5 are the authors' readme's. Truncation never looks, "
    "as in their code, so TCE is GCE less a constant."
)


def presets() -> list[Preset]:
    """As the paper states it, and as the authors' readme does."""
    return [preset for suffix in _LOSSES for preset in _table(suffix)]


def _table(suffix: str) -> list[Preset]:
    """The rows of one loss in Table 7: means of three runs.

    EG is ABSGD with γ = 1, as the paper compares with it. The readme has another
    learning rate and decay, and its code divides weights by α, adds one to each, and
    does not clip the cross-entropy of SCE.
    """
    loss, config = _LOSSES[suffix]
    name, run = f"clothing1m{suffix}", _run(config)
    readme = {
        "optimizer.learning_rate": 0.005,
        "optimizer.weight_decay": 1e-3,
        "method.alpha": 0.5,
        "method.uniform": True,
    }
    note = (
        "η and decay are the readme's, not the paper's; one is added to every weight, "
        "and weights are divided by α = 0.5. "
    )
    if config.name == "symmetric":
        readme["loss.smallest_probability"] = 0.0
        note += (
            "Cross-entropy is not clipped where p_y falls below 1e-7, as it is in "
            "clothing1m_sce, SGD's row included. "
        )
    absgd = Variant(f"ABSGD ({loss})")
    as_stated = (
        Variant(f"SGD ({loss})", {"method.name": "sgd"}),
        Variant(f"EG ({loss})", {"method.gamma": 1.0}),
        absgd,
    )
    return [
        Preset(
            name=name + ending,
            family="Clothing1M",
            title=f"Clothing1M, ResNet-50: {loss}{what}",
            run=configs.replace(run, changes),
            paper=(Key("000", 7, "Clothing1M", "real noise"),),
            variants=rows,
            choice=_CHOICE,
            note=differs + _NOTE,
            pretrained=PRETRAINED.format("resnet50"),
        )
        for ending, what, changes, rows, differs in (
            ("", "", {}, as_stated, ""),
            (
                "_author_code",
                ", as the authors' readme",
                readme,
                (Variant(f"SGD ({loss})", of=name), absgd),
                note,
            ),
        )
    ]


def _run(loss: configs.Loss) -> configs.Run:
    """ResNet-50 for ten epochs; η over 10, and λ, from the fifth on."""
    return configs.Run(
        data=configs.Data(
            source="clothing1m",
            image_size=224,
            flip=True,
            mean=(0.6959, 0.6537, 0.6371),
            std=(0.3113, 0.3192, 0.3214),
        ),
        model=configs.Model("resnet50"),
        loss=loss,
        method=configs.Method(lam=-5.0, start_at=0.5, gamma=0.5, init_s=0.0),
        optimizer=configs.Optimizer(
            learning_rate=0.002,
            drop_at=(0.5,),
            drop_factor=10.0,
            weight_decay=1e-2,
            clip_norm=5.0,
        ),
        epochs=10,
        batch_size=128,
    )
