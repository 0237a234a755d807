"""What is run: frozen values, and named ones. Imports no JAX, so `--help` is instant.

A `Run` is one training, down to its seed. A `Study` is a comparison: one run to be
repeated over seeds by SGD and by ABSGD, and the λs from which validation chooses.
"""

import dataclasses
import math
import pathlib
from typing import ClassVar


def _refuse(condition: bool, message: str) -> None:
    if condition:
        raise ValueError(message)


@dataclasses.dataclass(frozen=True)
class Data:
    """The examples, and what is done to them.

    Attributes:
      imbalance_ratio: training examples of the first class over those of the last, with
        an exponential decay between them; 1 is balanced.
      noise_rate: share of each class whose label is replaced by another one, in [0, 1).
        It strikes training and validation alike: who has mislabelled data has no clean
        part of it to choose λ on. The test set is never touched.
      validation_per_class: examples of each class that choose λ, never trained on.
      test_per_class: examples of each class that are only reported.
      tail_classes: number of last classes that count as the tail; 0 for none.
      max_shift: largest random translation of a training image, pixels.
    """

    imbalance_ratio: float = 1.0
    noise_rate: float = 0.0
    validation_per_class: int = 20
    test_per_class: int = 50
    tail_classes: int = 0
    max_shift: int = 1

    def __post_init__(self) -> None:
        _refuse(
            self.imbalance_ratio < 1.0,
            f"imbalance_ratio must be at least 1, got {self.imbalance_ratio}.",
        )
        _refuse(
            not 0.0 <= self.noise_rate < 1.0,
            f"noise_rate must lie in [0, 1), got {self.noise_rate}.",
        )
        _refuse(
            min(self.validation_per_class, self.test_per_class) < 1,
            "validation_per_class and test_per_class must be at least 1, got "
            f"{self.validation_per_class} and {self.test_per_class}.",
        )
        _refuse(
            min(self.tail_classes, self.max_shift) < 0,
            "tail_classes and max_shift must not be negative, got "
            f"{self.tail_classes} and {self.max_shift}.",
        )


@dataclasses.dataclass(frozen=True)
class Model:
    """The network; see `models.ConvNet`.

    Attributes:
      widths: channels of each convolution; every one after the first halves the image.
      classes: number of outputs.
      statistics_momentum: share of BatchNorm's running statistics that a step keeps.
    """

    widths: tuple[int, ...] = (16, 32, 64)
    classes: int = 10
    statistics_momentum: float = 0.9

    def __post_init__(self) -> None:
        _refuse(
            not self.widths or min(self.widths) < 1,
            f"widths must be positive, and at least one, got {self.widths}.",
        )
        _refuse(self.classes < 2, f"classes must be at least 2, got {self.classes}.")


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """What SGD and ABSGD share.

    Attributes:
      learning_rate: η before the drop.
      momentum: β, in [0, 1).
      weight_decay: α, on every parameter.
      drop_at: share of the training after which η is divided, in [0, 1].
      drop_factor: what η is then divided by, at least 1.
    """

    learning_rate: float
    momentum: float = 0.9
    weight_decay: float = 1e-3
    drop_at: float = 0.7
    drop_factor: float = 50.0

    def __post_init__(self) -> None:
        _refuse(
            not self.learning_rate > 0.0,
            f"learning_rate must be positive, got {self.learning_rate}.",
        )
        _refuse(
            not 0.0 <= self.momentum < 1.0,
            f"momentum must lie in [0, 1), got {self.momentum}.",
        )
        _refuse(
            self.weight_decay < 0.0,
            f"weight_decay must not be negative, got {self.weight_decay}.",
        )
        _refuse(
            not 0.0 <= self.drop_at <= 1.0,
            f"drop_at must lie in [0, 1], got {self.drop_at}.",
        )
        _refuse(
            self.drop_factor < 1.0,
            f"drop_factor must be at least 1, got {self.drop_factor}.",
        )


@dataclasses.dataclass(frozen=True)
class Attention:
    """What ABSGD adds, but for λ.

    Attributes:
      gamma: γ, share of the newest batch in the running normaliser, in (0, 1].
      start_at: share of the training after which λ is switched on, in [0, 1]; plain SGD
        before. The two-stage recipe.
    """

    gamma: float = 0.5
    start_at: float = 0.7

    def __post_init__(self) -> None:
        _refuse(
            not 0.0 < self.gamma <= 1.0, f"gamma must lie in (0, 1], got {self.gamma}."
        )
        _refuse(
            not 0.0 <= self.start_at <= 1.0,
            f"start_at must lie in [0, 1], got {self.start_at}.",
        )


@dataclasses.dataclass(frozen=True)
class Run:
    """One training.

    Attributes:
      data: the examples.
      model: the network.
      optimizer: what SGD and ABSGD share.
      attention: what ABSGD adds.
      epochs: passes over the training examples.
      batch_size: examples per update; the last of an epoch may have fewer.
      lam: λ, nonzero, in units of loss; ±inf is plain SGD.
      seed: of split, corruption, initial parameters and order. Two runs that differ
        in λ alone see the same examples in the same order from the same start.
    """

    data: Data
    model: Model
    optimizer: Optimizer
    attention: Attention
    epochs: int
    batch_size: int
    lam: float = math.inf
    seed: int = 0

    def __post_init__(self) -> None:
        _refuse(self.epochs < 1, f"epochs must be at least 1, got {self.epochs}.")
        _refuse(
            self.batch_size < 2,  # BatchNorm of one example is its bias
            f"batch_size must be at least 2, got {self.batch_size}.",
        )
        _refuse(
            self.lam == 0.0 or math.isnan(self.lam),
            f"lam must be nonzero, got {self.lam}.",
        )
        _refuse(self.seed < 0, f"seed must not be negative, got {self.seed}.")
        _refuse(
            self.data.tail_classes >= self.model.classes,
            f"tail_classes must be fewer than the {self.model.classes} classes, got "
            f"{self.data.tail_classes}.",
        )

    @property
    def method(self) -> str:
        """Its name in tables."""
        return "SGD" if math.isinf(self.lam) else "ABSGD"


@dataclasses.dataclass(frozen=True)
class Study:
    """SGD against ABSGD on one kind of data.

    Attributes:
      name: key in the records.
      title: in the words of a table's heading.
      run: to be repeated for every seed and λ; its own are not used.
      lams: λs among which validation accuracy chooses.
      seeds: number of seeds, from 0.
    """

    name: str
    title: str
    run: Run
    lams: tuple[float, ...]
    seeds: int = 8

    def __post_init__(self) -> None:
        _refuse(self.seeds < 1, f"seeds must be at least 1, got {self.seeds}.")
        _refuse(
            not self.lams or any(math.isinf(lam) for lam in self.lams),
            f"lams must be finite, and at least one, got {self.lams}.",
        )

    def runs(self, seed: int) -> list[Run]:
        """SGD, then ABSGD with every λ."""
        return [
            dataclasses.replace(self.run, lam=lam, seed=seed)
            for lam in (math.inf, *self.lams)
        ]


# Of the learning rates 0.05, 0.1 and 0.2 the middle one gives SGD its best validation
# accuracy on the long tail (85.6, 88.2, 86.0); under noise SGD does not tell them apart
# (57.6, 57.4, 57.9, each ± 0.5). The drop and the switches are the two-stage recipe's.
LONG_TAIL = Study(
    name="long-tail",
    title="Long-tailed digits (imbalance ratio 50)",
    run=Run(
        data=Data(imbalance_ratio=50.0, tail_classes=3),
        model=Model(),
        optimizer=Optimizer(learning_rate=0.1),
        # Many batches of 32 have no image of the tail, so a slow normaliser lets one
        # that has take an outsize step: λ = 0.25 gains 0.9 points on validation at
        # γ = 0.9, and loses 2.5 at 0.5 and 64 at 0.1.
        attention=Attention(gamma=0.9, start_at=0.7),
        epochs=66,
        batch_size=32,
    ),
    lams=(0.5, 0.25, 0.125),
)

LABEL_NOISE = Study(
    name="label-noise",
    title="Balanced digits, 40% of labels wrong",
    run=Run(
        data=Data(noise_rate=0.4),
        model=Model(),
        optimizer=Optimizer(learning_rate=0.1),
        attention=Attention(gamma=0.5, start_at=0.2),
        epochs=30,
        batch_size=64,
    ),
    lams=(-2.0, -1.0, -0.5),
)


@dataclasses.dataclass(frozen=True)
class Demo:
    """Trains with SGD and ABSGD on scikit-learn's handwritten digits.

    Twice: long-tailed (imbalance ratio 50), and balanced with 40% of the labels wrong.
    Prints a table, and writes to the run directory:

      config.json    what is run, in full
      records.jsonl  one JSON line per epoch
      table.md       the table
      demo.png       the figure

    A run directory that exists is overwritten: these four files, and no other. Ctrl-C
    keeps what is finished, reports on it and exits with 130. The same seeds give the
    same numbers on the same machine.

    Attributes:
      out: run directory.
      seeds: number of seeds, from 0; each trains every method on its own split.
      epochs: epochs of every training, in place of those of the two presets.
    """

    out: pathlib.Path = pathlib.Path("runs/demo")
    seeds: int = 8
    epochs: int | None = None

    def __post_init__(self) -> None:
        self.studies()  # refuses what they refuse

    def studies(self) -> list[Study]:
        """The two comparisons, with the seeds and epochs asked for."""
        return [
            dataclasses.replace(
                study,
                seeds=self.seeds,
                run=study.run
                if self.epochs is None
                else dataclasses.replace(study.run, epochs=self.epochs),
            )
            for study in (LONG_TAIL, LABEL_NOISE)
        ]


@dataclasses.dataclass(frozen=True)
class Recipes:
    """Varies when attention is switched on, γ and λ, on the demo's two data sets.

    Prints how far each recipe is from SGD on the test set, in points; a few minutes.

    Attributes:
      out: run directory; its table.md and records.jsonl (last epochs) are overwritten.
      seeds: number of seeds, from 0.
      epochs: epochs of every training, in place of those of the two presets.
    """

    out: pathlib.Path = pathlib.Path("runs/recipes")
    seeds: int = 8
    epochs: int | None = None

    # (share of the training before λ, γ, λ), the demo's own first.
    variants: ClassVar[dict[str, tuple[tuple[float, float, float], ...]]] = {
        LONG_TAIL.name: (
            *((0.7, 0.9, lam) for lam in (1.0, 0.5, 0.25, 0.125)),
            *((0.7, gamma, 0.5) for gamma in (0.5, 0.1)),
            *((0.0, 0.9, lam) for lam in (1.0, 0.5)),
        ),
        LABEL_NOISE.name: (
            *((0.2, 0.5, lam) for lam in (-2.0, -1.0, -0.5)),
            *((0.1, 0.5, lam) for lam in (-1.0, -0.5)),
            *((0.0, 0.5, lam) for lam in (-2.0, -1.0)),
        ),
    }

    def __post_init__(self) -> None:
        _refuse(self.seeds < 1, f"seeds must be at least 1, got {self.seeds}.")
        self.runs()  # refuses what it refuses

    def runs(self) -> dict[str, Run]:
        """Every recipe by name, SGD first; seeds to be filled in."""
        found = {}
        for study in (LONG_TAIL, LABEL_NOISE):
            run = study.run
            if self.epochs is not None:
                run = dataclasses.replace(run, epochs=self.epochs)
            found[study.name] = run
            for start_at, gamma, lam in self.variants[study.name]:
                attention = Attention(gamma=gamma, start_at=start_at)
                found[f"{study.name} {start_at:g} {gamma:g} {lam:g}"] = (
                    dataclasses.replace(run, attention=attention, lam=lam)
                )
        return found

    @staticmethod
    def baseline(name: str) -> str:
        """The SGD that a recipe is compared with."""
        return name.split(" ")[0]

    @staticmethod
    def study(name: str) -> Study:
        """The study that a recipe varies."""
        studies = {study.name: study for study in (LONG_TAIL, LABEL_NOISE)}
        return studies[Recipes.baseline(name)]
