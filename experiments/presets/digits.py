"""The demo's two studies as single runs, on data that scikit-learn carries."""

from experiments import configs
from experiments.presets._preset import Preset
from experiments.studies.digits import LABEL_NOISE, LONG_TAIL, Study


def presets() -> list[Preset]:
    """A long tail of ratio 50, and 40% of the labels wrong.

    Not of the paper: small enough for a laptop, and in need of no download. `python -m
    experiments demo` compares all λs over eight seeds.
    """
    return [
        _preset("digits_long_tail", LONG_TAIL, 0.5),
        _preset("digits_label_noise", LABEL_NOISE, -1.0),
    ]


def _preset(name: str, study: Study, lam: float) -> Preset:
    return Preset(
        name=name,
        family="Digits",
        title=study.title,
        run=configs.replace(study.run, {"method.lam": lam}),
        choice=f"λ = {lam:g} is what validation chooses in the demo. The preset holds "
        "out 20 validation images of each class.",
        note="Its data set is not the paper's; the two-stage recipe is.",
    )
