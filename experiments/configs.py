"""Configurations: frozen dataclasses. Imports no JAX, so `--help` is instant.

A `Run` is one training, down to its seed: two equal runs give the same numbers. A
`Session` has the settings that do not change the numbers: directories, devices,
loaders and checkpoints. A `Study` is one of the demo's comparisons. Named runs are in
`presets`.

Schedule points are fractions of the total epochs, in [0, 1], rounded to whole epochs,
so that a schedule keeps its shape when the number of epochs changes.
"""

import dataclasses
import math
import pathlib
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import tyro


class BadConfiguration(Exception):
    """The configuration does not fit the data, the network or the devices."""


def _refuse(condition: bool, message: str) -> None:
    if condition:
        raise ValueError(message)


def _refuse_share(**shares: float) -> None:
    for name, share in shares.items():
        _refuse(not 0.0 <= share <= 1.0, f"{name} must lie in [0, 1], got {share}.")


Source = Literal[
    "digits",
    "cifar10",
    "cifar100",
    "imdb",
    "imagenet_lt",
    "places_lt",
    "inaturalist18",
    "covid_lt",
    "clothing1m",
]


class Kind(NamedTuple):
    """What is known of a data set before it is loaded."""

    classes: int
    inputs: Literal["images", "text"]
    shape: tuple[int, ...]  # of one example as it is stored; () where that varies
    files: bool  # whether images are decoded for each batch, not held in memory


KINDS: dict[Source, Kind] = {
    "digits": Kind(10, "images", (8, 8, 1), files=False),
    "cifar10": Kind(10, "images", (32, 32, 3), files=False),
    "cifar100": Kind(100, "images", (32, 32, 3), files=False),
    "imdb": Kind(2, "text", (), files=False),
    "imagenet_lt": Kind(1000, "images", (), files=True),
    "places_lt": Kind(365, "images", (), files=True),
    "inaturalist18": Kind(8142, "images", (), files=True),
    "covid_lt": Kind(4, "images", (), files=True),
    "clothing1m": Kind(14, "images", (), files=True),
}


@dataclasses.dataclass(frozen=True)
class Data:
    """The data set: splits, imbalance, label noise, sampler and augmentation.

    Attributes:
      source: the data set.
      imbalance: how a balanced data set is subsampled: class counts decay exponentially
        (`long_tail`), or half of the classes keep a fraction (`step`).
      imbalance_ratio: examples of the largest class over those of the smallest; 1 keeps
        them all. 1 for data sets that are imbalanced already.
      total: training examples in all, to which the counts of the imbalance are scaled;
        None leaves them.
      scarce_first: whether the first classes are the scarce ones, not the last.
      noise: rule by which labels are flipped; see `corrupt`. `symmetric` flips equally
        many labels of each class, each to a random other class.
      noise_rate: fraction of the labels (in the classes that the rule affects) that are
        flipped, in [0, 1). Training and validation labels are both noisy, since who has
        mislabelled data has no clean validation set. Test labels are never flipped.
      corruption_seed: seed of split, subsampling and label noise, which then follow
        the published rules of selection. None draws them by the seed of the run.
      validation_per_class: training examples of each class that are held out as the
        validation set, before subsampling and label noise. 0 for none.
      test_per_class: examples of each class that are held out as the test set, where
        the data set has no test split; the same for every seed.
      clean_per_class: training examples of each class that are held out as the meta
        set, before subsampling and label noise: clean and balanced. Methods that learn
        weights use it; it is not the validation set. Other methods hold it out too and
        do not use it, so that all train on the same examples. 0 for none.
      examples_per_class: at most so many examples of each class and split are used;
        None for all.
      tail_classes: number of last classes that count as the tail; 0 for none.
      partial: whether a data set with fewer examples than published is accepted.
      sampling: sampler of an epoch, which has as many examples as the training set:
        each once (`shuffled`); with replacement, uniform over classes (`balanced`) or
        by the effective number of the class (`effective`, as LDAM); or class after
        class, four examples at a time (`class_aware`, as Kang et al.). See `sampling`.
      sampling_beta: β of `effective`, in [0, 1).
      crop_padding: zero padding, pixels, from which a training image is cropped at
        random; 0 for none.
      flip: whether training images are flipped horizontally at random.
      rotation: largest random rotation of a training image, degrees; nearest pixels.
      image_size: pixels a side. None keeps the stored size. Otherwise test images are
        resized (short side to 8/7 of it) and cropped at the centre.
      resized_crop: whether training images are random resized crops (8% to 100% of the
        area, sides 3:4 to 4:3) of `image_size`; otherwise they are resized as test
        images are, and cropped at random.
      jitter: largest relative change of brightness, contrast and saturation of a
        training image, in random order.
      augment_on: where images are cropped, flipped and rotated: on the `host` (NumPy)
        or on the `device`.
      mean: mean of each channel, for normalisation of pixels in [0, 1]; () for none.
      std: standard deviation of each channel, for normalisation; () for none.
      vocabulary: number of words with a token id, the most frequent ones of the
        training text.
      length: tokens of a text that are kept, from its end; shorter ones are padded in
        front.
    """

    source: Source = "digits"
    imbalance: Literal["long_tail", "step"] = "long_tail"
    imbalance_ratio: float = 1.0
    total: int | None = None
    scarce_first: bool = False
    noise: Literal[
        "symmetric",
        "symmetric_sce",
        "symmetric_gce",
        "asymmetric_sce",
        "asymmetric_author_code",
    ] = "symmetric"
    noise_rate: float = 0.0
    corruption_seed: int | None = None
    validation_per_class: int = 0
    test_per_class: int = 0
    clean_per_class: int = 0
    examples_per_class: int | None = None
    tail_classes: int = 0
    partial: bool = False
    sampling: Literal["shuffled", "balanced", "effective", "class_aware"] = "shuffled"
    sampling_beta: float = 0.9999
    crop_padding: int = 0
    flip: bool = False
    rotation: float = 0.0
    image_size: int | None = None
    resized_crop: bool = False
    jitter: float = 0.0
    augment_on: Literal["host", "device"] = "host"
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    vocabulary: int = 20_000
    length: int = 200

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
            not 0.0 <= self.sampling_beta < 1.0,
            f"sampling_beta must lie in [0, 1), got {self.sampling_beta}.",
        )
        counts = {
            "validation_per_class": self.validation_per_class,
            "test_per_class": self.test_per_class,
            "clean_per_class": self.clean_per_class,
            "tail_classes": self.tail_classes,
            "crop_padding": self.crop_padding,
            "rotation": self.rotation,
            "jitter": self.jitter,
        }
        for name, count in counts.items():
            _refuse(count < 0, f"{name} must not be negative, got {count}.")
        for name, count in {
            "examples_per_class": self.examples_per_class,
            "total": self.total,
            "image_size": self.image_size,
            "vocabulary": self.vocabulary,
            "length": self.length,
        }.items():
            _refuse(
                count is not None and count < 1,
                f"{name} must be at least 1, got {count}.",
            )
        _refuse(
            self.tail_classes >= self.classes,
            f"tail_classes must be fewer than the {self.classes} classes, got "
            f"{self.tail_classes}.",
        )
        _refuse(
            len(self.mean) != len(self.std) or min(self.std, default=1.0) <= 0.0,
            "mean and std must have one number for each channel, and std be positive, "
            f"got {self.mean} and {self.std}.",
        )
        _refuse(
            (self.source == "digits") != (self.test_per_class > 0),
            "test_per_class must be positive for digits, which have no test split, and "
            f"0 for the others, got {self.test_per_class} for {self.source}.",
        )
        _refuse(
            self.noise.startswith("asymmetric")
            and self.source not in ("cifar10", "cifar100"),
            f"noise {self.noise!r} is for cifar10 and cifar100, got {self.source}.",
        )
        images = {
            "crop_padding": self.crop_padding,
            "flip": self.flip,
            "rotation": self.rotation,
            "jitter": self.jitter,
            "resized_crop": self.resized_crop,
            "image_size": self.image_size,
        }
        asked = [name for name, value in images.items() if value]
        _refuse(
            self.kind.inputs == "text" and bool(asked),
            f"{self.source} is text, which has no {', '.join(asked)}.",
        )
        _refuse(
            self.kind.files and self.image_size is None,
            f"image_size must be given for {self.source}, whose images differ in size.",
        )
        _refuse(
            not self.kind.files and (self.resized_crop or self.jitter > 0.0),
            "resized_crop and jitter are for data sets of image files, got "
            f"{self.source}.",
        )
        _refuse(
            self.kind.files and (self.crop_padding > 0 or self.rotation > 0.0),
            "crop_padding and rotation are for data sets held in memory, got "
            f"{self.source}.",
        )

    @property
    def kind(self) -> Kind:
        """The kind of the source."""
        return KINDS[self.source]

    @property
    def classes(self) -> int:
        """Number of classes."""
        return self.kind.classes

    @property
    def channels(self) -> int:
        """Number of channels of an image."""
        return self.kind.shape[-1] if self.kind.shape else 3


@dataclasses.dataclass(frozen=True)
class Model:
    """The network; see `experiments.models`.

    Attributes:
      name: which. `convnet` is the demo's own, the others are the papers'.
      widths: channels (or LSTM states per direction) of each stage; () as published.
      blocks: residual blocks in each stage; () as published.
      head: a linear layer; the cosines between features and class vectors (`cosine`)
        that LDAM asks for; a linear layer whose logits have a factor each (`scaled`),
        as LWS learns; or OLTR's memory of the classes (`memory`), with attention to the
        image before it. The last two are for second stages, and take what they can from
        a first one with a linear head.
      norm: BatchNorm, or GroupNorm, which does not mix examples.
      statistics_momentum: decay of BatchNorm's running statistics.
      dropout: dropout rate of the features that enter the head.
      dtype: of convolutions, matrix products and activations between them. Parameters,
        norms' statistics, features, logits, losses and the optimizer are float32 in any
        case. `bfloat16` is for accelerators that compute in it.
      pretrained: file of weights to start from, `.safetensors` or `.npz`, named as
        torchvision names them.
    """

    name: Literal[
        "convnet",
        "resnet20",
        "resnet32",
        "resnet18",
        "resnet34",
        "resnet50",
        "resnet152",
        "sce_cnn",
        "bilstm",
    ] = "convnet"
    widths: tuple[int, ...] = ()
    blocks: tuple[int, ...] = ()
    head: Literal["linear", "cosine", "scaled", "memory"] = "linear"
    norm: Literal["batch", "group"] = "batch"
    statistics_momentum: float = 0.9
    dropout: float = 0.0
    dtype: Literal["float32", "bfloat16"] = "float32"
    pretrained: pathlib.Path | None = None

    def __post_init__(self) -> None:
        for name in ("widths", "blocks"):
            values = getattr(self, name)
            _refuse(
                min(values, default=1) < 1, f"{name} must be positive, got {values}."
            )
        _refuse(
            not 0.0 <= self.statistics_momentum < 1.0,
            f"statistics_momentum must lie in [0, 1), got {self.statistics_momentum}.",
        )
        _refuse(
            not 0.0 <= self.dropout < 1.0,
            f"dropout must lie in [0, 1), got {self.dropout}.",
        )
        _refuse(
            self.dtype == "bfloat16" and self.name == "bilstm",
            "dtype 'bfloat16' is for networks that read images: an LSTM adds up its "
            "states over the words, got bilstm.",
        )


@dataclasses.dataclass(frozen=True)
class Loss:
    """The loss of one example; see `absgd_jax.losses`.

    Attributes:
      name: which. `oltr` and `range` are cross-entropy and a penalty on the features of
        the batch; see `feature_losses`.
      focusing: focal loss's exponent.
      max_margin: LDAM's margin for the scarcest class.
      scale: LDAM's factor on the logits.
      alpha: symmetric cross-entropy's factor on cross-entropy.
      beta: symmetric cross-entropy's factor on reverse cross-entropy.
      smallest_probability: of the label, below which symmetric cross-entropy clips it
        inside cross-entropy, as its authors' Keras code does, in [0, 1); 0 never clips,
        as ABSGD's code and the PyTorch code that it follows.
      q: exponent of generalised cross-entropy, in (0, 1].
      k: probability of the label below which truncation drops an example.
      prune_from: fraction of the epochs after which truncation drops examples.
      prune_every: epochs from one pruning to the next.
      tau: logit adjustment's factor on the log of the class priors.
      range_intra: range loss's factor on distances within classes. The authors' values
        of the three range parameters are not published; these are modest ones of ours.
      range_inter: range loss's factor on the shortfall of the distance between the
        nearest two class means from the margin.
      range_margin: squared distance between class means above which range loss has no
        penalty.
      class_weights: whether classes are weighted by their effective number.
      effective_beta: β of the effective number.
      class_weights_from: fraction of the epochs after which classes are weighted.
      class_weights_norm: what the batch's sum of gradients is divided by: the number of
        examples, or the sum of their class weights (`weights`, as PyTorch's weighted
        mean). Published baselines divide cross-entropy and LDAM by the weights, and the
        focal loss, which has them inside, by the examples.
      logit_norm: exponent of the logits' norm by which logits are divided in training;
        0 for no normalisation.
    """

    name: Literal[
        "cross_entropy",
        "focal",
        "ldam",
        "symmetric",
        "generalized",
        "truncated",
        "logit_adjusted",
        "oltr",
        "range",
    ] = "cross_entropy"
    focusing: float = 1.0
    max_margin: float = 0.5
    scale: float = 30.0
    alpha: float = 0.1
    beta: float = 1.0
    smallest_probability: float = 1e-7
    q: float = 0.7
    k: float = 0.5
    prune_from: float = 1.0
    prune_every: int = 1
    tau: float = 1.0
    range_intra: float = 0.01
    range_inter: float = 0.01
    range_margin: float = 10.0
    class_weights: bool = False
    effective_beta: float = 0.9999
    class_weights_from: float = 0.0
    class_weights_norm: Literal["examples", "weights"] = "examples"
    logit_norm: float = 0.0

    def __post_init__(self) -> None:
        _refuse_share(
            prune_from=self.prune_from, class_weights_from=self.class_weights_from
        )
        _refuse(
            self.prune_every < 1,
            f"prune_every must be at least 1, got {self.prune_every}.",
        )
        _refuse(
            not 0.0 <= self.effective_beta < 1.0,
            f"effective_beta must lie in [0, 1), got {self.effective_beta}.",
        )
        _refuse(
            not 0.0 <= self.smallest_probability < 1.0,
            "smallest_probability must lie in [0, 1), got "
            f"{self.smallest_probability}.",
        )
        for name in ("logit_norm", "range_intra", "range_inter", "range_margin"):
            value = getattr(self, name)
            _refuse(value < 0.0, f"{name} must not be negative, got {value}.")


MethodName = Literal[
    "sgd",
    "absgd",
    "adam",
    "abadam",
    "eg",
    "eg_examples",
    "term",
    "recover",
    "group_dro",
    "cvar",
    "meta",
    "l2rw",
    "mw_net",
]


@dataclasses.dataclass(frozen=True)
class Method:
    """The method: how examples are weighted.

    Attributes:
      name: plain `sgd` or `adam`; either with attention: `absgd`, `abadam`; or SGD with
        the weights of a baseline, see docs/methods.md.
      lam: λ from `start_at` on, nonzero, in units of loss; ±inf for equal weights.
      rho: radius ρ, in nats: λ adapts so that the weights stay that far from uniform,
        see `absgd_jax.kl_radius`; `lam` is then ±inf and gives the sign. None for a
        fixed λ.
      first_lam: λ before `start_at`. From one finite λ to another the running estimate
        F of the objective is carried on, in units of loss, so that s = exp(F/λ) holds
        for the new λ at once. The authors' code carries s itself, which is then an
        average of exp(L/λ) with the old λ until γ has renewed it. From ±inf both begin
        with `init_s`.
      start_at: fraction of the epochs after which `lam` holds: the two-stage recipe.
      gamma: γ, weight of the newest batch in the running normaliser, in (0, 1]; also
        that of `term`, and a of `recover`.
      init_s: s_0; 0 as in the earlier version of the paper, None for weights that
        average one from the start.
      max_weight: upper bound on each weight, at least 1; None for none.
      alpha: constant by which the weights are divided; the paper's is 1, the authors'
        code has 0.5.
      uniform: whether one is added to every weight from `start_at` on, as the authors'
        code for noisy labels does.
      route: how the weighted gradient is computed: one backward pass from the weights
        (`pullback`), the gradient of the tilted loss (`value`), or per-example
        gradients (`dense`).
      microbatch_size: examples per microbatch on the `value` and `dense` routes; None
        for the whole batch.
      step_size: step size of what a baseline learns in addition to the network: the
        weights of examples (`eg_examples`), of groups (`group_dro`) or of a batch
        (`meta`), or the weighting network (`mw_net`).
      cvar_alpha: α of CVaR: fraction of the batch, its largest losses, that `cvar`
        trains on, in (0, 1].
      clean_batch_size: examples of the meta set in an update of `meta`, `l2rw` and
        `mw_net`; all of them where there are fewer. As published, 100.
    """

    name: MethodName = "absgd"
    lam: float = math.inf
    rho: float | None = None
    first_lam: float = math.inf
    start_at: float = 0.0
    gamma: float = 0.5
    init_s: float | None = None
    max_weight: float | None = None
    alpha: float = 1.0
    uniform: bool = False
    route: Literal["pullback", "value", "dense"] = "pullback"
    microbatch_size: int | None = None
    step_size: float = 0.01
    cvar_alpha: float = 0.5
    clean_batch_size: int = 100

    def __post_init__(self) -> None:
        for name in ("lam", "first_lam"):
            value = getattr(self, name)
            _refuse(
                value == 0.0 or math.isnan(value),
                f"{name} must be nonzero, got {value}.",
            )
        _refuse(
            self.rho is not None and not 0.0 < self.rho < math.inf,
            f"rho must be positive and finite, got {self.rho}.",
        )
        _refuse(
            self.rho is not None
            and not (math.isinf(self.lam) and math.isinf(self.first_lam)),
            "With rho, λ adapts: lam is inf or -inf and first_lam inf, got "
            f"{self.lam} and {self.first_lam}.",
        )
        _refuse(
            self.rho is not None and self.init_s is not None,
            f"With rho, init_s must be None, got {self.init_s}.",
        )
        _refuse(
            not 0.0 < self.gamma <= 1.0, f"gamma must lie in (0, 1], got {self.gamma}."
        )
        _refuse_share(start_at=self.start_at)
        _refuse(
            self.init_s is not None and not self.init_s >= 0.0,
            f"init_s must not be negative, got {self.init_s}.",
        )
        _refuse(
            self.max_weight is not None and not self.max_weight >= 1.0,
            f"max_weight must be at least 1, got {self.max_weight}.",
        )
        _refuse(not self.alpha > 0.0, f"alpha must be positive, got {self.alpha}.")
        _refuse(
            self.route != "pullback" and self.uniform,
            f"uniform needs the pullback route, got {self.route!r}.",
        )
        _refuse(
            self.route != "pullback"
            and self.max_weight is not None
            and self.init_s is not None,
            "max_weight together with init_s needs the pullback route, got "
            f"{self.route!r}.",
        )
        _refuse(
            self.microbatch_size is not None
            and (self.microbatch_size < 1 or self.route == "pullback"),
            "microbatch_size must be positive, on the value and dense routes, got "
            f"{self.microbatch_size} with {self.route}.",
        )
        _refuse(
            not math.isfinite(self.step_size),
            f"step_size must be finite, got {self.step_size}.",
        )
        _refuse(
            not 0.0 < self.cvar_alpha <= 1.0,
            f"cvar_alpha must lie in (0, 1], got {self.cvar_alpha}.",
        )
        _refuse(
            self.clean_batch_size < 2,  # BatchNorm of one example is its bias
            f"clean_batch_size must be at least 2, got {self.clean_batch_size}.",
        )
        of_attention = {
            "route": self.route != "pullback",
            "max_weight": self.max_weight is not None,
            "rho": self.rho is not None,
            "alpha": self.alpha != 1.0,
            "uniform": self.uniform,
            "first_lam": not math.isinf(self.first_lam),
        }
        asked = [name for name, value in of_attention.items() if value]
        _refuse(
            self.baseline and bool(asked),
            f"{', '.join(asked)} are for attention, got {self.name}.",
        )

    @property
    def attends(self) -> bool:
        """Whether examples are weighted by attention, as ABSGD does."""
        return self.name in ("absgd", "abadam")

    @property
    def baseline(self) -> bool:
        """Whether the weights are those of a baseline, not of attention."""
        return self.weights and not self.attends

    @property
    def uses_meta_set(self) -> bool:
        """Whether weights are learned on a meta set, whose labels are clean."""
        return self.name in ("meta", "l2rw", "mw_net")

    @property
    def weights(self) -> bool:
        """Whether examples are weighted at all."""
        return self.name not in ("sgd", "adam")

    @property
    def title(self) -> str:
        """Its name in tables."""
        weighting = self.attends and (self.rho is not None or not math.isinf(self.lam))
        return {
            "sgd": "SGD",
            "adam": "Adam",
            "absgd": "ABSGD" if weighting else "SGD",
            "abadam": "ABAdam" if weighting else "Adam",
            "eg": "EG",
            "eg_examples": "EG per example",
            "term": "TERM",
            "recover": "RECOVER",
            "group_dro": "Group DRO",
            "cvar": "CVaR",
            "meta": "META",
            "l2rw": "L2RW",
            "mw_net": "Meta-Weight-Net",
        }[self.name]


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """The optimizer and its schedule, the same for all methods.

    Attributes:
      learning_rate: η at its highest.
      warmup: fraction of the epochs in which η rises, epoch by epoch.
      decay: schedule of η: divided by `drop_factor` at each of `drop_at` (`drops`), or
        half a `cosine` to zero.
      drop_at: fractions of the epochs after which η is divided.
      drop_factor: what η is divided by at each drop, at least 1.
      momentum: β, in [0, 1).
      nesterov: whether momentum is Nesterov's.
      b1: decay of Adam's first moment, which is corrected for bias.
      b2: decay of Adam's second moment.
      eps: added to the root of Adam's second moment.
      weight_decay: weight decay of every trained parameter, added to the gradient
        before momentum as in the published code; for Adam after its moments (decoupled,
        as Eq. 9 prints it), where the package of ABSGD's authors adds it before them.
      hidden_weight_decay: weight decay of the hidden layer of `sce_cnn` and the norm
        after it; None for `weight_decay`.
      clip_norm: largest norm of the gradient, before weight decay; None for no
        clipping.
    """

    learning_rate: float = 0.1
    warmup: float = 0.0
    decay: Literal["drops", "cosine"] = "drops"
    drop_at: tuple[float, ...] = ()
    drop_factor: float = 10.0
    momentum: float = 0.9
    nesterov: bool = False
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0
    hidden_weight_decay: float | None = None
    clip_norm: float | None = None

    def __post_init__(self) -> None:
        _refuse(
            not self.learning_rate > 0.0,
            f"learning_rate must be positive, got {self.learning_rate}.",
        )
        for name in ("momentum", "b1", "b2"):
            value = getattr(self, name)
            _refuse(not 0.0 <= value < 1.0, f"{name} must lie in [0, 1), got {value}.")
        _refuse(
            min(self.weight_decay, self.hidden_weight_decay or 0.0) < 0.0,
            "weight_decay and hidden_weight_decay must not be negative, got "
            f"{self.weight_decay} and {self.hidden_weight_decay}.",
        )
        _refuse_share(warmup=self.warmup)
        for share in self.drop_at:
            _refuse_share(drop_at=share)
        _refuse(
            self.drop_factor < 1.0,
            f"drop_factor must be at least 1, got {self.drop_factor}.",
        )
        _refuse(
            self.clip_norm is not None and not self.clip_norm > 0.0,
            f"clip_norm must be positive, got {self.clip_norm}.",
        )
        _refuse(not self.eps > 0.0, f"eps must be positive, got {self.eps}.")


@dataclasses.dataclass(frozen=True)
class Run:
    """One training.

    Attributes:
      data: the data set.
      model: the network.
      loss: the loss of one example.
      method: how examples are weighted.
      optimizer: optimizer and schedule.
      epochs: passes over the training examples.
      batch_size: examples per update; the last of an epoch may have fewer.
      trainable: which parameters are trained: all, the last residual block and what
        follows it, the head (with OLTR's attention, if there is one), or the factors
        (`scale`) of a scaled head. BatchNorm's statistics are updated in any case, as
        in the authors' code.
      start_from: directory of a finished run of the same network, whose parameters this
        one starts from; the second stage of two. Its head may be linear where this
        one's is scaled, and anything where this one's is a memory.
      new_head: whether the head is reinitialised instead of taken from `start_from`.
      eval_every: epochs from one evaluation to the next; the last epoch always has one.
      seed: of split, label noise, initial parameters, order and augmentation. Two runs
        that differ only in the method train on the same batches from the same start.
    """

    data: Data = Data(test_per_class=50, validation_per_class=20)
    model: Model = Model()
    loss: Loss = Loss()
    method: Method = Method()
    optimizer: Optimizer = Optimizer()
    epochs: int = 30
    batch_size: int = 128
    trainable: Literal["all", "last_block", "head", "scale"] = "all"
    start_from: pathlib.Path | None = None
    new_head: bool = False
    eval_every: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        _refuse(self.epochs < 1, f"epochs must be at least 1, got {self.epochs}.")
        _refuse(
            self.batch_size < 2,  # BatchNorm of one example is its bias
            f"batch_size must be at least 2, got {self.batch_size}.",
        )
        _refuse(
            self.eval_every < 1,
            f"eval_every must be at least 1, got {self.eval_every}.",
        )
        _refuse(self.seed < 0, f"seed must not be negative, got {self.seed}.")
        text = self.data.kind.inputs == "text"
        _refuse(
            text != (self.model.name == "bilstm"),
            "bilstm reads text, the other networks images, got "
            f"{self.model.name} for {self.data.source}.",
        )
        _refuse(
            self.model.norm == "batch"
            and self.model.name != "bilstm"
            and (
                self.method.route == "dense" or self.method.microbatch_size is not None
            ),
            "Under BatchNorm the gradient of an example depends on the others of its "
            "batch, so neither the dense route nor microbatches give the gradient of "
            "the batch: take the pullback route, or GroupNorm (--model.norm group).",
        )
        _refuse(
            self.loss.name == "ldam" and self.model.head != "cosine",
            "LDAM's margins are between cosines: set model.head to 'cosine', got "
            f"{self.model.head!r}.",
        )
        _refuse(
            self.loss.name == "oltr" and self.model.head != "memory",
            "OLTR's loss draws features to the centroids of its memory: set model.head "
            f"to 'memory', got {self.model.head!r}.",
        )
        _refuse(
            self.loss.name in ("oltr", "range") and self.method.route != "pullback",
            f"The {self.loss.name} loss of an example depends on the others of its "
            f"batch: take the pullback route, got {self.method.route!r}.",
        )
        _refuse(
            self.trainable == "scale" and self.model.head != "scaled",
            "trainable 'scale' is for a scaled head: set model.head to 'scaled', got "
            f"{self.model.head!r}.",
        )
        _refuse(
            self.method.uses_meta_set and not self.data.clean_per_class,
            f"{self.method.title} learns weights from clean examples: set "
            "data.clean_per_class to at least 1, got 0.",
        )
        _refuse(
            self.method.name == "meta" and self.loss.class_weights_norm == "weights",
            "META weights classes itself and divides by the examples: set "
            "loss.class_weights_norm to 'examples', got 'weights'.",
        )

    def epoch_at(self, share: float) -> int:
        """The epoch, from 0, at a fraction of the total epochs."""
        return round(share * self.epochs)


@dataclasses.dataclass(frozen=True)
class Session:
    """Settings that do not change a run's numbers, but for float32 rounding.

    Attributes:
      out: run directory; None makes one from the preset's name, λ and the seed.
      data_dir: where the data sets are, as TFDS or as published archives unpacked.
      download: whether TFDS may fetch what is missing.
      parallel: `jit` partitions the program by the sharding of the batch, `pmap` runs
        it on each device with explicit collectives.
      devices: number of devices; None for all there are.
      distributed: whether this is one process of several; see `jax.distributed`.
      coordinator: address of the first process, `host:port`; None to ask the cluster.
      processes: number of processes; None to ask the cluster.
      process: index of this process, from 0; None to ask the cluster.
      workers: processes that decode image files; as many more for the meta set, if the
        method uses it.
      prefetch: batches that are loaded ahead of the device.
      steps_per_dispatch: most updates in a dispatch. 1 sends batch by batch. More run a
        device loop: the training set stays on the device, and a dispatch sends the
        indices of many batches. For accelerators, where a small update takes less time
        than its launch; not for a CPU, whose convolutions are some 35 times slower in
        such a loop.
      checkpoint_seconds: seconds between two checkpoints within an epoch; every epoch
        also ends with one.
      checkpoints: number of checkpoints that are kept.
      tensorboard: whether metrics are written for TensorBoard too.
    """

    out: pathlib.Path | None = None
    data_dir: pathlib.Path | None = None
    download: bool = False
    parallel: Literal["jit", "pmap"] = "jit"
    devices: int | None = None
    distributed: bool = False
    coordinator: str | None = None
    processes: int | None = None
    process: int | None = None
    workers: int = 2
    prefetch: int = 2
    steps_per_dispatch: int = 1
    checkpoint_seconds: float = 300.0
    checkpoints: int = 2
    tensorboard: bool = True

    def __post_init__(self) -> None:
        for name, smallest in {
            "devices": 1,
            "processes": 1,
            "process": 0,
            "workers": 0,
            "prefetch": 1,
            "steps_per_dispatch": 1,
            "checkpoints": 2,
        }.items():
            value = getattr(self, name)
            _refuse(
                value is not None and value < smallest,
                f"{name} must be at least {smallest}, got {value}.",
            )
        _refuse(
            self.checkpoint_seconds < 0.0,
            f"checkpoint_seconds must not be negative, got {self.checkpoint_seconds}.",
        )
        _refuse(
            self.distributed and self.parallel == "pmap",
            "pmap runs on one host; take --parallel jit with --distributed.",
        )
        _refuse(
            self.steps_per_dispatch > 1
            and (self.distributed or self.parallel == "pmap"),
            "Many steps per dispatch run in one process, under --parallel jit, got "
            f"{self.steps_per_dispatch}.",
        )
        _refuse(
            self.coordinator is not None and not self.distributed,
            "coordinator needs --distributed.",
        )


@dataclasses.dataclass(frozen=True)
class Study:
    """SGD against ABSGD on one kind of data.

    Attributes:
      name: key in the log.
      title: heading of its table.
      run: repeated for every seed and λ; its own are not used.
      lams: grid of λ, from which validation accuracy chooses.
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
            replace(self.run, {"method.lam": lam, "seed": seed})
            for lam in (math.inf, *self.lams)
        ]


def replace(config: Any, changes: dict[str, Any]) -> Any:
    """A copy of a configuration with other values.

    Args:
      config: a frozen dataclass.
      changes: values by name; a dot leads into a nested dataclass, which is the new one
        if the changes replace it too.

    Returns:
      A configuration of the same class.

    Examples:
      >>> replace(Run(), {"epochs": 3, "method.lam": 0.5}).method.lam
      0.5
      >>> replace(Run(), {"method.lam": 0.5, "method": Method("eg")}).method.title
      'EG'
    """
    nested: dict[str, dict[str, Any]] = {}
    own = {}
    for name, value in changes.items():
        first, dot, rest = name.partition(".")
        if dot:
            nested.setdefault(first, {})[rest] = value
        else:
            own[first] = value
    for name, inner in nested.items():
        own[name] = replace(own.get(name, getattr(config, name)), inner)
    return dataclasses.replace(config, **own)


# Of the learning rates 0.05, 0.1 and 0.2 the middle one gives SGD its best validation
# accuracy on the long tail (85.6, 88.2, 86.0); under noise they do not differ (57.6,
# 57.4, 57.9, each ± 0.5). The drop and the switches are the two-stage recipe's.
_DIGITS = Run(
    data=Data(validation_per_class=20, test_per_class=50, crop_padding=1),
    optimizer=Optimizer(
        learning_rate=0.1, drop_at=(0.7,), drop_factor=50.0, weight_decay=1e-3
    ),
)

LONG_TAIL = Study(
    name="long-tail",
    title="Long-tailed digits (imbalance ratio 50)",
    run=replace(
        _DIGITS,
        {
            "data.imbalance_ratio": 50.0,
            "data.tail_classes": 3,
            # Many batches of 32 have no image of the tail, so with a slow normaliser
            # one that has takes an outsize step: λ = 0.5 gains 1.6 points on validation
            # at γ = 0.9, 0.4 at 0.5, and loses 14 at 0.1.
            "method.gamma": 0.9,
            "method.start_at": 0.7,
            "epochs": 66,
            "batch_size": 32,
        },
    ),
    lams=(0.5, 0.25, 0.125),
)

LABEL_NOISE = Study(
    name="label-noise",
    title="Balanced digits, 40% of labels wrong",
    run=replace(
        _DIGITS,
        {
            "data.noise_rate": 0.4,
            "method.gamma": 0.5,
            "method.start_at": 0.2,
            "epochs": 30,
            "batch_size": 64,
        },
    ),
    lams=(-2.0, -1.0, -0.5),
)


@dataclasses.dataclass(frozen=True)
class Demo:
    """Trains with SGD and ABSGD on scikit-learn's handwritten digits.

    Twice: long-tailed (imbalance ratio 50), and balanced with 40% of the labels wrong.
    Prints a table, and writes to the output directory:

      grid.json  what all trainings of a study share
      table.md   the table
      demo.png   the figure
      runs/      config.json and records.jsonl of each training, as `train` writes them

    Finished trainings are not repeated; another number of epochs needs another
    directory. Ctrl-C reports on the finished runs and exits with 130; the same command
    then continues. The same seeds give the same numbers on the same machine.

    Attributes:
      out: output directory.
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
                study, seeds=self.seeds, run=_evaluated_last(study.run, self.epochs)
            )
            for study in (LONG_TAIL, LABEL_NOISE)
        ]


def _evaluated_last(run: Run, epochs: int | None) -> Run:
    """The run with one evaluation, after the last epoch, and another number of epochs.

    None keeps the run's own number.
    """
    epochs = run.epochs if epochs is None else epochs
    return dataclasses.replace(run, epochs=epochs, eval_every=epochs)


@dataclasses.dataclass(frozen=True)
class Recipes:
    """Varies when attention is switched on, γ and λ, on the demo's two data sets.

    Prints how far each recipe is from SGD on the test set, in points; a few minutes.

    Attributes:
      out: output directory, with the files of the demo but its figure; finished
        trainings are not repeated.
      seeds: number of seeds, from 0.
      epochs: epochs of every training, in place of those of the two presets.
    """

    out: pathlib.Path = pathlib.Path("runs/recipes")
    seeds: int = 8
    epochs: int | None = None

    # (fraction of the epochs before λ, γ, λ), the demo's own first.
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
        """Every recipe by name, SGD first; the caller sets the seeds."""
        recipes = {}
        for study in (LONG_TAIL, LABEL_NOISE):
            run = _evaluated_last(study.run, self.epochs)
            recipes[study.name] = run
            for start_at, gamma, lam in self.variants[study.name]:
                changes = {
                    "method.start_at": start_at,
                    "method.gamma": gamma,
                    "method.lam": lam,
                }
                recipes[f"{study.name} {start_at:g} {gamma:g} {lam:g}"] = replace(
                    run, changes
                )
        return recipes

    @staticmethod
    def baseline(name: str) -> str:
        """The SGD that a recipe is compared with."""
        return name.split(" ")[0]

    @staticmethod
    def study(name: str) -> Study:
        """The study that a recipe varies."""
        studies = {study.name: study for study in (LONG_TAIL, LABEL_NOISE)}
        return studies[Recipes.baseline(name)]


@dataclasses.dataclass(frozen=True)
class Train:
    """One training; the defaults of its command line are those of a preset.

    Attributes:
      run: what is trained.
      session: directories, devices and loaders.
    """

    # No prefix: the fields are --seed and --method.lam, not --run.seed.
    run: Annotated[Run, tyro.conf.arg(name="")]
    session: Annotated[Session, tyro.conf.arg(name="")] = Session()


@dataclasses.dataclass(frozen=True)
class Compare:
    """Trains many methods on one preset's data, network and budget, and tabulates them.

    Every method has one hyperparameter, chosen among three values by validation
    accuracy over all seeds. Resumes from what the run directory holds, also with more
    methods or seeds. Writes there:

      grid.json     what all trainings share
      table.md      one row a method
      results.json  the metrics of the table, seed by seed, and all values of every grid
      costs.json    time and memory of a step, and how they were measured
      runs/         a run directory for each training

    Attributes:
      run: data, network, schedule and optimizer; its loss and method are not used.
      methods: names with commas between them, such as `absgd,ldam_drw,tce+norm`; empty
        for all that fit. `+norm` divides the logits by their norm in training.
      seeds: number of seeds, from 0; each trains every method on its own split.
      measure: whether the steps are timed, each in turn with a step of plain SGD.
      session: directories, devices and loaders.
    """

    run: Annotated[Run, tyro.conf.arg(name="")]
    methods: str = ""
    seeds: int = 3
    measure: bool = True
    session: Annotated[Session, tyro.conf.arg(name="")] = Session()

    def __post_init__(self) -> None:
        _refuse(self.seeds < 1, f"seeds must be at least 1, got {self.seeds}.")
        _refuse(
            self.session.distributed or self.session.parallel == "pmap",
            "A comparison runs in one process, under --parallel jit.",
        )


@dataclasses.dataclass(frozen=True)
class Sweep:
    """Trains one preset for every seed, λ and γ, as vmapped runs of one program.

    For accelerators, which one small network leaves idle. The metrics are those of the
    same runs under `train`, to float32 rounding. λ and γ are chosen by validation
    accuracy at the last epoch, the mean over the seeds; test accuracy is shown only for
    the chosen ones. Writes to the output directory:

      grid.json     what all trainings share
      table.md      one row for every λ and γ
      results.json  the same, seed by seed
      runs/         config.json and records.jsonl of each training, as `train` writes
                    them; `report` reads them

    Finished runs are not trained again, also with more values or seeds. A run whose
    loss is not finite ends there, and the others go on.

    Attributes:
      run: the run of which seed, λ and γ vary.
      lams: values of `method.lam` with commas between them, such as `--lams=-1,0.5`
        (with =, since the first begins with a minus sign) or `--lams 0.5,inf`; empty
        for the preset's own.
      gammas: values of `method.gamma` with commas between them; empty for the preset's
        own.
      seeds: number of seeds, from 0; each trains on its own split, and all training
        sets must be of one size.
      vmapped: most runs in one program, which holds as many networks; None for all.
      session: directories and loaders; one process and one device.
    """

    run: Annotated[Run, tyro.conf.arg(name="")]
    lams: str = ""
    gammas: str = ""
    seeds: int = 3
    vmapped: int | None = None
    session: Annotated[Session, tyro.conf.arg(name="")] = Session()

    def __post_init__(self) -> None:
        _refuse(self.seeds < 1, f"seeds must be at least 1, got {self.seeds}.")
        _refuse(
            self.vmapped is not None and self.vmapped < 1,
            f"vmapped must be at least 1, got {self.vmapped}.",
        )
        _refuse(
            self.session.distributed
            or self.session.parallel == "pmap"
            or self.session.devices not in (None, 1),
            "A sweep runs in one process, on one device, under --parallel jit.",
        )
        self.settings()  # refuses what they refuse

    def settings(self) -> list[Run]:
        """A run for every λ and γ; the caller sets the seed."""
        lams = _numbers("lams", self.lams) or (self.run.method.lam,)
        gammas = _numbers("gammas", self.gammas) or (self.run.method.gamma,)
        return [
            replace(self.run, {"method.lam": lam, "method.gamma": gamma})
            for lam in lams
            for gamma in gammas
        ]


def _numbers(name: str, text: str) -> tuple[float, ...]:
    """Parses comma-separated numbers, which must differ."""
    try:
        values = tuple(float(part) for part in text.split(",") if text.strip())
    except ValueError:
        raise ValueError(
            f"{name} must be numbers with commas between them, got {text!r}."
        ) from None
    _refuse(len(set(values)) < len(values), f"{name} must differ, got {text!r}.")
    return values


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Evaluates the newest checkpoint of a run, on validation and test examples.

    Prints the numbers and writes them to evaluation.json in the run directory.

    Attributes:
      dir: run directory.
      data_dir: where the data sets are; None for where they were in training.
      devices: number of devices; None for all there are.
    """

    dir: tyro.conf.Positional[pathlib.Path]
    data_dir: pathlib.Path | None = None
    devices: int | None = None


@dataclasses.dataclass(frozen=True)
class Report:
    """Tables and figures of one run or several, also of unfinished runs.

    Runs that differ only in the seed are averaged.

    Attributes:
      dirs: run directories.
      out: where report.md and the figures go; None for the run directory, of several
        the first one's parent.
      features: whether to draw the penultimate features by t-SNE.
      data_dir: where the data sets are, for the features; None for where they were in
        training.
    """

    dirs: tyro.conf.Positional[tuple[pathlib.Path, ...]]
    out: pathlib.Path | None = None
    features: bool = False
    data_dir: pathlib.Path | None = None


@dataclasses.dataclass(frozen=True)
class List:
    """Lists the presets: data, model, schedule and cost.

    Attributes:
      pattern: part of the names to be listed; None for all.
    """

    pattern: tyro.conf.Positional[str | None] = None


@dataclasses.dataclass(frozen=True)
class Toy:
    """Draws the paper's toy figure: one step on 16 points of two unequal classes.

    Attributes:
      out: directory of the figure.
      seed: of the points.
      lam: λ, in units of loss.
    """

    out: pathlib.Path = pathlib.Path("runs/toy")
    seed: int = 0
    lam: float = 0.2

    def __post_init__(self) -> None:
        _refuse(
            self.lam == 0.0 or math.isnan(self.lam),
            f"lam must be nonzero, got {self.lam}.",
        )
        _refuse(self.seed < 0, f"seed must not be negative, got {self.seed}.")


@dataclasses.dataclass(frozen=True)
class Untuned:
    """Compares radii without tuning with SGD and ten fixed λ, on five data sets.

    Attributes:
      data_dir: of mammography.csv, oil-spill.csv and phoneme.csv: no header, the label
        last.
      seeds: number of seeds, from 0; of splits, networks and batches.
      out: JSON lines, one per run; runs that it has are not repeated. The page is
        written next to it, with the suffix .md.
      data: some of the data sets; all if none is given.
    """

    data_dir: pathlib.Path = pathlib.Path("data")
    seeds: int = 5
    out: pathlib.Path = pathlib.Path("runs/untuned.jsonl")
    data: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _refuse(self.seeds < 1, f"seeds must be at least 1, got {self.seeds}.")


@dataclasses.dataclass(frozen=True)
class AfterFirstStage:
    """Whether the losses after plain training predict that a fixed λ > 0 harms.

    Attributes:
      data_dir: of mammography.csv, oil-spill.csv and phoneme.csv: no header, the label
        last.
      seeds: number of seeds, from 0; of splits, networks and batches.
      out: JSON lines, one per data set and seed; data sets that it has are not
        repeated. The page is written next to it, with the suffix .md.
    """

    data_dir: pathlib.Path = pathlib.Path("data")
    seeds: int = 10
    out: pathlib.Path = pathlib.Path("runs/after_first_stage.jsonl")

    def __post_init__(self) -> None:
        _refuse(self.seeds < 1, f"seeds must be at least 1, got {self.seeds}.")


@dataclasses.dataclass(frozen=True)
class Reproduce:
    """Trains the cells of the paper's tables on CIFAR at the full protocol.

    200 epochs of ResNet-32, three seeds, λ chosen on validation examples; in order of
    importance, and resumable: a recorded cell is not trained again, and a training that
    ran out of time is resumed. Several processes may share one directory.

    Attributes:
      minutes: time after which trainings stop, each with a checkpoint.
      out: directory of the trainings.
      data_dir: of the official binary files, or TFDS's.
      packed: folder that --pack wrote, in place of `data_dir`.
      records: JSON lines, one per cell; None for `out`/records.jsonl.
      settings: columns of the tables, such as cifar10_lt100; all if none is given.
      rows: rows by name, such as "SGD (CE)"; all if none is given.
      seeds: number of seeds, from 0.
      smoke: whether to train the smoke presets: tiny networks on a few examples.
      pack: folder to write the settings' images to, for a machine that all of the data
        cannot be sent to; nothing is trained.
      list: whether the cells that can be trained next are printed, and nothing trained.
      features: .npz file to write what enters the last layer after plain training to,
        for the first of the settings; networks that are not there are trained.
    """

    minutes: float = 25.0
    out: pathlib.Path = pathlib.Path("runs/reproduce")
    data_dir: pathlib.Path | None = None
    packed: pathlib.Path | None = None
    records: pathlib.Path | None = None
    settings: tuple[str, ...] = ()
    rows: tuple[str, ...] = ()
    seeds: int = 3
    smoke: bool = False
    pack: pathlib.Path | None = None
    list: bool = False
    features: pathlib.Path | None = None

    def __post_init__(self) -> None:
        _refuse(self.seeds < 1, f"seeds must be at least 1, got {self.seeds}.")
        _refuse(
            not 0.0 < self.minutes < math.inf,
            f"minutes must be positive and finite, got {self.minutes}.",
        )


@dataclasses.dataclass(frozen=True)
class Results:
    """Writes the page of the results of `reproduce`, next to the paper's numbers.

    Attributes:
      records: JSON lines of `reproduce`.
      out: Markdown file to write.
    """

    records: pathlib.Path = pathlib.Path("results/reproduce.jsonl")
    out: pathlib.Path = pathlib.Path("docs/results.md")


Suite = Literal["overhead", "dense", "peers", "input", "end_to_end", "sweep"]


@dataclasses.dataclass(frozen=True)
class Bench:
    """Measures the cost of a step, of loading data and of whole trainings.

    Every variant is a process of its own; they are timed in turn, in random order, so
    that the machine's drift affects all alike. Prints tables, and writes by suite:

      SUITE.json  device, versions, load, all samples, medians and quartiles
      SUITE.png   the figure

    The suites: ABSGD over SGD, over sizes and batches (overhead); per-example gradients
    (dense); other methods, Flax and PyTorch (peers); the loaders without a step
    (input); whole trainings, and their start-up time (end_to_end); vmapped runs
    (sweep). How to read the tables is in benchmarks/__init__.py.

    Attributes:
      suites: which to run; all if none is given.
      out: directory of the results.
      data_dir: where CIFAR-10 is, for end_to_end; without it that part is left out.
      repeats: samples of every variant.
      sizes: numbers of parameters, for overhead.
      batches: numbers of examples, for overhead and dense.
      quick: whether to run tiny sizes and three samples: a smoke test.
      torch_python: an interpreter with torch, and with `absgd` if it is to be measured,
        for peers; None leaves PyTorch out.
    """

    suites: tyro.conf.Positional[tuple[Suite, ...]] = ()
    out: pathlib.Path = pathlib.Path("runs/bench")
    data_dir: pathlib.Path | None = None
    repeats: int = 20
    sizes: tuple[int, ...] = (10_000, 100_000, 1_000_000, 10_000_000, 100_000_000)
    batches: tuple[int, ...] = (32, 256, 1024, 4096)
    quick: bool = False
    torch_python: pathlib.Path | None = None

    def __post_init__(self) -> None:
        for name in ("sizes", "batches"):
            values = getattr(self, name)
            _refuse(
                min(values, default=0) < 1,
                f"{name} must be positive, and at least one, got {values}.",
            )
        _refuse(self.repeats < 1, f"repeats must be at least 1, got {self.repeats}.")

    @property
    def parameters(self) -> tuple[int, ...]:
        """The sizes that are measured."""
        return (1_000,) if self.quick else self.sizes

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """The batches that are measured."""
        return (4, 16) if self.quick else self.batches

    @property
    def rounds(self) -> int:
        """Samples of every variant."""
        return 3 if self.quick else self.repeats

    @property
    def sample_seconds(self) -> float:
        """Least seconds of a sample."""
        return 0.002 if self.quick else 0.2
