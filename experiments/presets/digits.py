"""The demo's two studies as single runs, on data that scikit-learn carries."""

from experiments import configs
from experiments.presets._preset import Preset
from experiments.studies.digits import LABEL_NOISE, LONG_TAIL, Study

_FAMILY = "Digits"


def presets() -> list[Preset]:
    """A long tail of ratio 50, 40% of the labels wrong, and a tail with wrong labels.

    Not of the paper: small enough for a laptop, and in need of no download. `python -m
    experiments demo` compares all λs over eight seeds on the first two.
    """
    both = {"data.imbalance_ratio": 10.0, "data.tail_classes": 3, "epochs": 90}
    both |= {"data.noise_rate": 0.3}
    return [
        _preset("digits_long_tail", LONG_TAIL, 0.5),
        _preset("digits_label_noise", LABEL_NOISE, -1.0),
        Preset(
            name="digits_noisy_long_tail",
            family=_FAMILY,
            title="Long-tailed digits (imbalance ratio 10), 30% of labels wrong",
            run=configs.replace(LABEL_NOISE.run, both | {"method.lam": -1.0}),
            choice="λ is that of digits_label_noise; nothing is chosen for these data.",
            note="Its data set is not the paper's, which has no such data.",
        ),
    ]


def _preset(name: str, study: Study, lam: float) -> Preset:
    return Preset(
        name=name,
        family=_FAMILY,
        title=study.title,
        run=configs.replace(study.run, {"method.lam": lam}),
        choice=f"λ = {lam:g} is one of the three values that the demo chooses from by "
        "validation accuracy. The preset holds out 20 validation images of each class.",
        note="Its data set is not the paper's; the two-stage recipe is.",
    )
