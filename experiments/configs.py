"""A `Run`: one training, down to its seed, as frozen dataclasses. Imports no JAX.

Two equal runs give the same numbers; settings that do not change them are in
`train.session`. Named runs are in `presets`.

Schedule points are fractions of the total epochs, in [0, 1], rounded to whole epochs,
so that a schedule keeps its shape when the number of epochs changes.
"""

import dataclasses
import math
import pathlib
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from experiments import registry
from experiments.fields import (
    Argument,
    AtLeastOne,
    AtLeastTwo,
    BelowOne,
    Checked,
    Count,
    Finite,
    Host,
    Nonzero,
    NotCompiled,
    NotNegative,
    Positive,
    PositiveFinite,
    PositiveShare,
    Share,
    Size,
    SmallSize,
    T,
    changed,
    refuse,
)


class BadConfiguration(Exception):
    """The configuration does not fit the data, the network or the devices."""


if TYPE_CHECKING:
    Source = MethodName = LossName = str
else:  # so that the command line offers the names
    Source = Literal[tuple(registry.DATASETS)]
    MethodName = Literal[tuple(registry.METHODS)]
    LossName = Literal[tuple(registry.LOSSES)]


# Compiled in where images are augmented on the device.
Augmentation = Annotated[T, NotCompiled(where=lambda data: data.augment_on == "host")]


@dataclasses.dataclass(frozen=True)
class Contents:
    """What your own data have; read from them when a run starts, and kept with it.

    Attributes:
      inputs: what an example is.
      shape: of one example as the network gets it; () where that varies.
      class_names: of each class, in the order of the labels.
      class_sizes: examples of each class, in all splits; () where they are not known.
      digest: of inputs and labels in their order, or of the names of image files, since
        an example's place decides in which split it is; "" where it is not known.
    """

    inputs: Literal["images", "text", "table"]
    shape: tuple[int, ...]
    class_names: tuple[str, ...]
    class_sizes: tuple[int, ...] = ()
    digest: str = ""


@dataclasses.dataclass(frozen=True)
class Data(Checked):
    """The data set: splits, imbalance, label noise, sampler and augmentation.

    Attributes:
      source: the data set. Your own is a `table` (CSV or Parquet), `arrays` (.npz or
        .npy), a `folder` of images in subfolders named after classes, `text` (CSV, or
        a folder of such subfolders) or what a function returns (`python`), each at
        `path`; see docs/your_data.md.
      path: of your own data: a file or a directory, or `module:function`.
      label: column of the labels in your own CSV; None for one named label, class,
        target or y, or else the last. Without a header, its number, from 1.
      text: column of the text in your own CSV; None for the one with the longest cells.
      drop: columns of your own CSV that are not used, such as an id.
      positive: of your own data of two classes, the one that average precision, F1 and
        its threshold are of; None for the second by number or by the alphabet.
      test_share: fraction of each class of your own data that is held out as the test
        set, where they have none; the same for every seed.
      validation_share: fraction of each class of your own training data that is held
        out as the validation set, where they have none and `validation_per_class` is 0.
      imbalance: how a balanced data set is subsampled: class counts decay exponentially
        (`long_tail`), or half of the classes keep a fraction (`step`).
      imbalance_ratio: examples of the largest class over those of the smallest; 1 keeps
        them all. 1 for data sets that are imbalanced already.
      total: training examples in all, to which the counts of the imbalance are scaled;
        None leaves them.
      scarce_first: whether the first classes are the scarce ones, not the last.
      noise: rule by which labels are flipped. The symmetric ones flip each to a random
        other class: `symmetric` the same fraction of every class; `symmetric_sce`
        equally many labels of every class; `symmetric_gce` each label by chance. The
        asymmetric ones, of CIFAR, flip to one class each: `asymmetric_sce` trucks to
        automobiles, birds to airplanes, cats to dogs and back, and deer to horses, or
        of every five classes of CIFAR-100 two to each other; `asymmetric_author_code`
        the same of CIFAR-10, where cats that are dogs by then may become cats again,
        and every class of CIFAR-100 to the next of its five.
      noise_rate: fraction of the labels (in the classes that the rule affects) that are
        flipped, in [0, 1). Training and validation labels are both noisy, since who has
        mislabelled data has no clean validation set. Test labels are never flipped.
      corruption_seed: seed of split, subsampling and label noise, which then follow
        the published rules of selection. None draws them by the seed of the run, and
        is 0 for COVID-LT.
      validation_per_class: training examples of each class that are held out as the
        validation set, before subsampling and label noise. 0 for none.
      test_per_class: examples of each class that are held out as the test set, where
        the data set has no test split; the same for every seed.
      meta_per_class: training examples of each class that are held out as the meta
        set, before subsampling and label noise: clean and balanced. Methods that learn
        weights use it; it is not the validation set. The counts of an imbalance are
        those without it, as far as examples are left. 0 for none.
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
      image_size: pixels a side. None keeps the stored size. Otherwise test images of
        image files are resized (short side to 8/7 of it) and cropped at the centre;
        images held in memory are averaged over squares, and their side is a multiple.
      resized_crop: whether training images are random resized crops (8% to 100% of the
        area, sides 3:4 to 4:3) of `image_size`; otherwise they are resized as test
        images are, and cropped at random.
      jitter: largest relative change of brightness, contrast and saturation of a
        training image, in random order.
      augment_on: where images are cropped, flipped and rotated: on the `host` (NumPy)
        or on the `device`.
      mean: mean of each channel, or of all, for normalisation of pixels in [0, 1]; ()
        for none.
      std: standard deviation of each channel, or of all, for normalisation; () for
        none.
      vocabulary: number of words with a token id, the most frequent ones of the
        training text.
      length: tokens of a text that are kept, from its end; shorter ones are padded in
        front.
    """

    source: Source = "digits"
    path: Host[str | None] = None
    label: Host[str | None] = None
    text: Host[str | None] = None
    drop: Host[tuple[str, ...]] = ()
    positive: Host[str | None] = None
    test_share: Host[BelowOne] = 0.2
    validation_share: Host[BelowOne] = 0.1
    imbalance: Host[Literal["long_tail", "step"]] = "long_tail"
    imbalance_ratio: Host[AtLeastOne] = 1.0
    total: Host[Size | None] = None
    scarce_first: Host[bool] = False
    noise: Host[
        Literal[
            "symmetric",
            "symmetric_sce",
            "symmetric_gce",
            "asymmetric_sce",
            "asymmetric_author_code",
        ]
    ] = "symmetric"
    noise_rate: Host[BelowOne] = 0.0
    corruption_seed: Host[Count | None] = None
    validation_per_class: Host[Count] = 0
    test_per_class: Host[Count] = 0
    meta_per_class: Host[Count] = 0
    examples_per_class: Host[Size | None] = None
    tail_classes: Host[Count] = 0
    partial: Host[bool] = False
    sampling: Host[Literal["shuffled", "balanced", "effective", "class_aware"]] = (
        "shuffled"
    )
    sampling_beta: Host[BelowOne] = 0.9999
    crop_padding: Augmentation[Count] = 0
    flip: Augmentation[bool] = False
    rotation: Augmentation[NotNegative] = 0.0
    image_size: SmallSize | None = None
    resized_crop: Host[bool] = False
    jitter: Host[NotNegative] = 0.0
    augment_on: Literal["host", "device"] = "host"
    mean: tuple[Finite, ...] = ()
    std: tuple[PositiveFinite, ...] = ()
    vocabulary: Size = 20_000
    length: SmallSize = 200
    # Of no flag: `datasets.resolve` reads it from the data.
    contents: Annotated[Contents | None, tyro.conf.Suppress] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_own()
        refuse(
            self.known and self.tail_classes >= self.info.classes,
            f"tail_classes must be fewer than the {self.info.classes} classes, got "
            f"{self.tail_classes}.",
        )
        refuse(
            len(self.mean) != len(self.std),
            "mean and std must have one number for each channel, got "
            f"{self.mean} and {self.std}.",
        )
        refuse(
            self.info.has_test == (self.test_per_class > 0),
            "test_per_class must be positive for digits, which have no test split, and "
            f"0 for the others, got {self.test_per_class} for {self.source}.",
        )
        refuse(
            self.noise.startswith("asymmetric")
            and self.source not in ("cifar10", "cifar100"),
            f"noise {self.noise!r} is for cifar10 and cifar100, got {self.source}.",
        )
        of_images = ("crop_padding", "flip", "rotation", "jitter", "resized_crop")
        of_images += ("image_size", "augment_on", "mean", "std")
        asked = changed(self, *of_images)
        refuse(
            self.info.inputs in ("text", "table") and asked,
            f"{self.source} is {'text' if self.info.inputs == 'text' else 'a table'}, "
            f"which has no {asked}.",
        )
        refuse(
            self.known and len(self.mean) not in (0, 1, self.channels),
            "mean and std must have one number, or one for each channel, of which "
            f"{self.source} has {self.channels}, got {self.mean} and {self.std}.",
        )
        refuse(
            self.info.files and self.image_size is None,
            f"image_size must be given for {self.source}, whose images differ in size.",
        )
        refuse(
            self.image_size is not None
            and not self.info.files
            and self.info.shape[0] % self.image_size > 0,
            f"image_size must divide the side of {self.source}'s images of shape "
            f"{self.info.shape}, got {self.image_size}.",
        )
        refuse(
            not self.info.files and (self.resized_crop or self.jitter > 0.0),
            "resized_crop and jitter are for data sets of image files, got "
            f"{self.source}.",
        )
        refuse(
            self.info.files and (self.crop_padding > 0 or self.rotation > 0.0),
            "crop_padding and rotation are for data sets held in memory, got "
            f"{self.source}.",
        )

    def _check_own(self) -> None:
        """Refuses what is for your own data elsewhere, and the reverse."""
        own = registry.DATASETS[self.source].own
        asked = changed(self, "path", "label", "text", "drop", "positive")
        refuse(
            not own and asked,
            f"For your own data only (--data.source table, ...): {asked}, got "
            f"{self.source}.",
        )
        refuse(
            own and self.test_share == 0.0,
            "test_share must be positive: where your data have no test set, so much of "
            "them is held out as one, got 0.0.",
        )
        refuse(
            self.source in ("arrays", "python") and self.image_size is not None,
            f"image_size is for image files, got {self.image_size} for {self.source}.",
        )

    @property
    def info(self) -> registry.DatasetInfo:
        """What is known of the data set before it is loaded."""
        info = registry.DATASETS[self.source]
        if self.contents is None:
            return info
        names = self.contents.class_names
        return info._replace(
            classes=len(names),
            inputs=self.contents.inputs,
            shape=self.contents.shape,
            class_names=names,
        )

    @property
    def known(self) -> bool:
        """Whether classes and shape are known; not before your own data are read."""
        return self.contents is not None or not registry.DATASETS[self.source].own

    @property
    def classes(self) -> int:
        """Number of classes."""
        refuse(
            not self.known,
            f"The classes of {self.path} are not known: see `datasets.resolve`.",
        )
        return self.info.classes

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of an example as the network gets it, in evaluation."""
        if self.info.inputs == "text":
            return (self.length,)
        if self.image_size is not None:
            return (self.image_size, self.image_size, self.channels)
        return self.info.shape

    @property
    def class_names(self) -> tuple[str, ...]:
        """A name for each class, its number where it has no name."""
        return self.info.class_names or tuple(map(str, range(self.classes)))

    @property
    def channels(self) -> int:
        """Number of channels of an image."""
        return self.info.shape[-1] if self.info.shape else 3


@dataclasses.dataclass(frozen=True)
class Model(Checked):
    """The network; see `experiments.models`.

    Attributes:
      name: which. `convnet` is the demo's own and `mlp`, of hidden layers, for tables;
        the others are the papers'.
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
      custom: a network of your own, `module:function`, in place of `name`, to which the
        command line also lets you give it: the function takes (classes, shape, rngs)
        and returns a module of flax.nnx from inputs to logits; see
        docs/your_network.md. `widths`, `blocks`, `statistics_momentum` and `dropout`
        are then not used, and `norm` says whether it mixes examples.
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
        "mlp",
    ] = "convnet"
    widths: tuple[SmallSize, ...] = ()
    blocks: tuple[SmallSize, ...] = ()
    head: Literal["linear", "cosine", "scaled", "memory"] = "linear"
    norm: Literal["batch", "group"] = "batch"
    statistics_momentum: BelowOne = 0.9
    dropout: BelowOne = 0.0
    dtype: Literal["float32", "bfloat16"] = "float32"
    pretrained: Host[pathlib.Path | None] = None
    custom: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.custom is not None:
            refuse(
                re.fullmatch(r"[\w.]+:[\w.]+", self.custom) is None,
                f"custom must be module:function, such as my_networks:small, got "
                f"{self.custom!r}.",
            )
            asked = changed(self, "head", "dtype", "pretrained")
            refuse(
                asked,
                f"{asked} are for the networks of this package, got {self.custom}.",
            )
            return
        refuse(
            self.dtype == "bfloat16" and self.name == "bilstm",
            "dtype 'bfloat16' is for networks that read images: an LSTM adds up its "
            "states over the words, got bilstm.",
        )

    @property
    def title(self) -> str:
        """Its name in texts."""
        return self.custom or self.name


@dataclasses.dataclass(frozen=True)
class Loss(Checked):
    """The loss of one example; see `absgd_jax.losses`.

    Attributes:
      name: which. `oltr` and `range` are cross-entropy and a penalty on the features of
        the batch; see `feature_penalties`.
      focusing: focal loss's exponent.
      max_margin: LDAM's margin for the scarcest class.
      scale: LDAM's factor on the logits.
      alpha: symmetric cross-entropy's factor on cross-entropy.
      beta: symmetric cross-entropy's factor on reverse cross-entropy.
      smallest_probability: of the label, below which symmetric cross-entropy clips it
        inside cross-entropy, as its authors' Keras code does, in [0, 1); 0 never clips,
        as ABSGD's code and the PyTorch code that it follows.
      q: exponent of generalised cross-entropy, in (0, 1].
      k: probability of the label, in [0, 1), below which truncation drops an example.
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
      class_weights_in: what class weights are under attention: factors of the losses,
        to which it then attends (`loss`), or base weights of the examples (`base`): it
        attends to unweighted losses, and the gradient is divided by the sum of the base
        weights.
      logit_norm: exponent of the logits' norm by which logits are divided in training;
        0 for no normalisation.
    """

    name: LossName = "cross_entropy"
    focusing: NotNegative = 1.0
    max_margin: NotNegative = 0.5
    scale: PositiveFinite = 30.0
    alpha: NotNegative = 0.1
    beta: NotNegative = 1.0
    smallest_probability: BelowOne = 1e-7
    q: PositiveShare = 0.7
    k: BelowOne = 0.5
    prune_from: Host[Share] = 1.0
    prune_every: Host[Size] = 1
    tau: NotNegative = 1.0
    range_intra: NotNegative = 0.01
    range_inter: NotNegative = 0.01
    range_margin: NotNegative = 10.0
    class_weights: Host[bool] = False
    effective_beta: Host[BelowOne] = 0.9999
    class_weights_from: Host[Share] = 0.0
    class_weights_norm: Literal["examples", "weights"] = "examples"
    class_weights_in: Literal["loss", "base"] = "loss"
    logit_norm: NotNegative = 0.0


# The sign of a radius is compiled in, and whether there is an s_0.
_FIXED_LAM = NotCompiled(where=lambda method: method.rho is None)
_GIVEN_INIT_S = NotCompiled(where=lambda method: method.init_s is not None)


@dataclasses.dataclass(frozen=True)
class Method(Checked):
    """The method: how examples are weighted.

    Attributes:
      name: plain `sgd` or `adam`; either with attention: `absgd`, `abadam`; or SGD with
        the weights of a baseline, see docs/methods.md.
      lam: λ from `start_at` on, nonzero, in units of loss; ±inf for equal weights if
        rho is None. With rho only its sign counts.
      rho: radius ρ, in nats: λ adapts so that the weights stay that far from uniform,
        see `absgd_jax.kl_radius`; `lam` is then ±inf and gives the sign. None for a
        fixed λ.
      first_lam: λ before `start_at`. From one finite λ to another the running estimate
        F of the objective is carried on, in units of loss, so that s = exp(F/λ) holds
        for the new λ at once. The authors' code carries s itself, which is then an
        average of exp(L/λ) with the old λ until γ has renewed it. From ±inf both begin
        with `init_s`, if it is given; else F, the mean loss by then, is carried on.
      start_at: fraction of the epochs after which `lam` holds: the two-stage recipe.
      gamma: γ, weight of the newest batch in the running normaliser, in (0, 1]; also
        that of `term`, and a of `recover`.
      init_s: s_0; 0 as in the earlier version of the paper, None for weights that
        average one from the start.
      max_weight: upper bound on each weight, at least 1; None for 2 with rho, and for
        none otherwise.
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
      meta_batch_size: examples of the meta set in an update of `meta`, `l2rw` and
        `mw_net`; all of them where there are fewer. As published, 100.
    """

    name: MethodName = "absgd"
    lam: Annotated[Nonzero, _FIXED_LAM] = math.inf
    rho: PositiveFinite | None = None
    first_lam: Argument[Nonzero] = math.inf
    start_at: Host[Share] = 0.0
    gamma: Argument[PositiveShare] = 0.5
    init_s: Annotated[NotNegative | None, _GIVEN_INIT_S] = None
    max_weight: AtLeastOne | None = None
    alpha: Argument[PositiveFinite] = 1.0
    uniform: Argument[bool] = False
    route: Literal["pullback", "value", "dense"] = "pullback"
    microbatch_size: Size | None = None
    step_size: Argument[Finite] = 0.01
    cvar_alpha: Argument[PositiveShare] = 0.5
    meta_batch_size: Host[AtLeastTwo] = 100  # BatchNorm of one example is its bias

    def __post_init__(self) -> None:
        super().__post_init__()
        adapts, pullback = self.rho is not None, self.route == "pullback"
        refuse(
            adapts and not (math.isinf(self.lam) and math.isinf(self.first_lam)),
            "With rho, λ adapts: lam is inf or -inf and first_lam inf, got "
            f"{self.lam} and {self.first_lam}. A fixed λ has no rho, and no max_weight "
            "of 2: --method.rho None --method.max-weight None --method.gamma 0.5.",
        )
        refuse(
            adapts and self.init_s is not None,
            f"With rho, init_s must be None, got {self.init_s}.",
        )
        refuse(
            self.uniform and not pullback,
            f"uniform needs the pullback route, got {self.route!r}.",
        )
        refuse(
            not (pullback or self.max_weight is None or self.init_s is None),
            "max_weight together with init_s needs the pullback route, got "
            f"{self.route!r}.",
        )
        refuse(
            self.microbatch_size is not None and pullback,
            "microbatch_size needs the value or the dense route, got "
            f"{self.microbatch_size} with {self.route}.",
        )
        of_attention = ("route", "max_weight", "rho", "alpha", "uniform", "first_lam")
        asked = changed(self, *of_attention)
        refuse(self.baseline and asked, f"{asked} are for attention, got {self.name}.")

    @property
    def info(self) -> registry.MethodInfo:
        """What is known of the method before it is run."""
        return registry.METHODS[self.name]

    @property
    def attends(self) -> bool:
        """Whether examples are weighted by attention, as ABSGD does."""
        return self.info.plain is not None

    @property
    def baseline(self) -> bool:
        """Whether the weights are those of a baseline, not of attention."""
        return self.weights and not self.attends

    @property
    def weights(self) -> bool:
        """Whether examples are weighted at all."""
        return self.info.weights

    @property
    def bound(self) -> float | None:
        """Upper bound on each weight in training, None for none."""
        if self.max_weight is None and self.rho is not None:
            return AUTOMATIC.max_weight
        return self.max_weight

    @property
    def switches(self) -> bool:
        """Whether attention after `start_at` is another than before."""
        return self.attends and (self.rho is not None or self.lam != self.first_lam)

    @property
    def title(self) -> str:
        """Its name in tables; that of the plain method where λ is ±∞."""
        plain = self.rho is None and math.isinf(self.lam) and self.info.plain
        return registry.METHODS[plain].title if plain else self.info.title


# What `absgd_jax.absgd` does where no λ is given.
AUTOMATIC = Method(rho=0.4, gamma=0.1, max_weight=2.0)


@dataclasses.dataclass(frozen=True)
class Optimizer(Checked):
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

    learning_rate: Argument[PositiveFinite] = 0.1
    warmup: Host[Share] = 0.0
    decay: Host[Literal["drops", "cosine"]] = "drops"
    drop_at: Host[tuple[Share, ...]] = ()
    drop_factor: Host[AtLeastOne] = 10.0
    momentum: BelowOne = 0.9
    nesterov: bool = False
    b1: BelowOne = 0.9
    b2: BelowOne = 0.999
    eps: Positive = 1e-8
    weight_decay: NotNegative = 0.0
    hidden_weight_decay: NotNegative | None = None
    clip_norm: Positive | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse(
            self.decay == "cosine" and self.drop_at,
            f"drop_at is for decay 'drops', got {self.drop_at} with 'cosine'.",
        )


@dataclasses.dataclass(frozen=True)
class Run(Checked):
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
    epochs: Host[Size] = 30
    batch_size: AtLeastTwo = 128  # BatchNorm of one example is its bias
    trainable: Literal["all", "last_block", "head", "scale"] = "all"
    start_from: Host[pathlib.Path | None] = None
    new_head: Host[bool] = False
    eval_every: Host[Size] = 1
    seed: Host[Count] = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        data, model, loss, method = self.data, self.model, self.loss, self.method
        if model.custom is not None:
            for asked, what in (
                (loss.name in ("ldam", "oltr", "range"), f"The {loss.name} loss"),
                (self.trainable != "all", f"trainable {self.trainable!r}"),
                (self.new_head, "new_head"),
            ):
                refuse(
                    asked,
                    f"{what} needs the head of a network of this package, got "
                    f"{model.custom}.",
                )
        reads = {"bilstm": "text", "mlp": "table"}.get(model.name, "images")
        fitting = {"text": "bilstm", "table": "mlp"}.get(data.info.inputs, "convnet")
        of_shape = f", of the shape {data.info.shape}" if data.contents else ""
        refuse(
            model.custom is None and data.info.inputs not in ("", reads),
            f"bilstm reads text, mlp tables, the other networks images, got "
            f"{model.name} for {data.source}{of_shape}: set model.name to {fitting!r}.",
        )
        refuse(
            (method.route == "dense" or method.microbatch_size is not None)
            and model.norm == "batch"
            and (model.name not in ("bilstm", "mlp") or model.custom is not None),
            "Under BatchNorm the gradient of an example depends on the others of its "
            "batch, so neither the dense route nor microbatches give the gradient of "
            "the batch: take the pullback route, or GroupNorm (--model.norm group).",
        )
        draws = "OLTR's loss draws features to the centroids of its memory"
        for asked, head, reason in (
            (loss.name == "ldam", "cosine", "LDAM's margins are between cosines"),
            (loss.name == "oltr", "memory", draws),
            (self.trainable == "scale", "scaled", "'scale' trains a scaled head"),
        ):
            refuse(
                asked and model.head != head,
                f"{reason}: set model.head to {head!r}, got {model.head!r}.",
            )
        refuse(
            loss.name in ("oltr", "range") and method.route != "pullback",
            f"The {loss.name} loss of an example depends on the others of its batch: "
            f"take the pullback route, got {method.route!r}.",
        )
        in_base = loss.class_weights_in == "base"
        refuse(
            in_base
            and not (
                method.info.module == "attention"
                and method.route == "pullback"
                and loss.class_weights_norm == "examples"
            ),
            "Base weights are of SGD, ABSGD, Adam and ABAdam on the pullback route, "
            "and divide the gradient already (class_weights_norm 'examples'), got "
            f"{method.name}, {method.route} and {loss.class_weights_norm}.",
        )
        refuse(
            method.info.uses_meta_set and not data.meta_per_class,
            f"{method.title} learns weights on a meta set: set "
            "data.meta_per_class to at least 1, got 0.",
        )
        refuse(
            method.name == "meta" and loss.class_weights_norm == "weights",
            "META weights classes itself and divides by the examples: set "
            "loss.class_weights_norm to 'examples', got 'weights'.",
        )

    def epoch_at(self, share: float) -> int:
        """The epoch, from 0, at a fraction of the total epochs."""
        return round(share * self.epochs)

    @property
    def too_late(self) -> str:
        """What would begin after the last epoch, such as method.start_at 0.8, or "".

        No configuration is refused for it, since a run may be trained for more epochs.
        """
        method, loss = self.method, self.loss
        weights, prunes = loss.class_weights_from, loss.prune_from
        for name, share, begins in (
            ("method.start_at", method.start_at, method.baseline or method.switches),
            ("loss.class_weights_from", weights, loss.class_weights),
            ("loss.prune_from", prunes, loss.name == "truncated" and prunes < 1.0),
        ):
            if begins and self.epoch_at(share) >= self.epochs:
                return f"{name} {share:g}"
        return ""

    def refuse_too_late(self) -> None:
        """Refuses to begin a training of which something is `too_late`."""
        if late := self.too_late:
            flag = late.split()[0].replace("_", "-")
            raise BadConfiguration(
                f"{late} would never come, as it is after the last of {self.epochs} "
                f"epochs, rounded to whole ones: give --epochs more, or --{flag} less."
            )


def replace(config: Any, changes: Mapping[str, Any]) -> Any:
    """A copy of a configuration, a frozen dataclass, with other values by name.

    A dot leads into a nested dataclass, which is the new one if the changes replace it
    too.

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
