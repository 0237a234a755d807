"""The data sets and the methods: a line each, and what is known before they are run.

A new data set is a module of `experiments.data` with a function `load` (see
`data.datasets`) and a line in `DATASETS`; a new method is a module of
`experiments.methods` with a function `rule` (see `methods.weighting`) and a line in
`METHODS`. The command line offers the names. Imports no JAX and no NumPy, so that
`--help` is instant; the modules are imported when they are used.
"""

from typing import Literal, NamedTuple


class DatasetInfo(NamedTuple):
    """What is known of a data set before it is loaded.

    Attributes:
      module: in `experiments.data`, with its `load`.
      classes: number of classes; 0 for your own data, of which that is known once they
        are read.
      examples: training examples of each class as published; their number where only
        that is known.
      directory: below `--data-dir`; "" for a data set that needs none.
      inputs: what an example is; "" where that is known once the data are read.
      shape: of one example as it is stored; () where that varies.
      files: whether images are decoded for each batch, not held in memory.
      has_test: whether it has a test split; otherwise one is held out.
      validation_per_class: examples of each class that `compare` holds out where there
        is no validation split.
      meta_per_class: examples of each class that `compare` holds out as the meta set.
      dtype: of an example as it is stored.
      own: whether it is the user's own data, read from `--data.path`.
      class_names: of each class; () where they are numbered, or known once read.
    """

    module: str
    classes: int
    examples: tuple[int, ...] | int
    directory: str = ""
    inputs: Literal["images", "text", "table", ""] = "images"
    shape: tuple[int, ...] = ()
    files: bool = False
    has_test: bool = True
    validation_per_class: int = 0
    meta_per_class: int = 10
    dtype: Literal["uint8", "float32", "int32"] = "uint8"
    own: bool = False
    class_names: tuple[str, ...] = ()


def _files(module: str, classes: int, examples: int, directory: str) -> DatasetInfo:
    return DatasetInfo(module, classes, examples, directory, files=True)


def _own(module: str, inputs: Literal["images", "text", "table", ""]) -> DatasetInfo:
    return DatasetInfo(module, 0, 0, inputs=inputs, meta_per_class=2, own=True)


def _cifar(names: tuple[str, ...]) -> DatasetInfo:
    classes = len(names)
    return DatasetInfo(
        "cifar",
        classes,
        (50_000 // classes,) * classes,
        f"cifar{classes}",
        shape=(32, 32, 3),
        validation_per_class=1000 // classes,
        class_names=names,
    )


_DIGITS = (178, 182, 177, 183, 181, 182, 181, 179, 174, 180)
_CIFAR10 = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship",
    "truck",
)  # fmt: skip
_CIFAR100 = (
    "apple", "aquarium_fish", "baby", "bear", "beaver", "bed", "bee", "beetle",
    "bicycle", "bottle", "bowl", "boy", "bridge", "bus", "butterfly", "camel", "can",
    "castle", "caterpillar", "cattle", "chair", "chimpanzee", "clock", "cloud",
    "cockroach", "couch", "crab", "crocodile", "cup", "dinosaur", "dolphin", "elephant",
    "flatfish", "forest", "fox", "girl", "hamster", "house", "kangaroo", "keyboard",
    "lamp", "lawn_mower", "leopard", "lion", "lizard", "lobster", "man", "maple_tree",
    "motorcycle", "mountain", "mouse", "mushroom", "oak_tree", "orange", "orchid",
    "otter", "palm_tree", "pear", "pickup_truck", "pine_tree", "plain", "plate",
    "poppy", "porcupine", "possum", "rabbit", "raccoon", "ray", "road", "rocket",
    "rose", "sea", "seal", "shark", "shrew", "skunk", "skyscraper", "snail", "snake",
    "spider", "squirrel", "streetcar", "sunflower", "sweet_pepper", "table", "tank",
    "telephone", "television", "tiger", "tractor", "train", "trout", "tulip", "turtle",
    "wardrobe", "whale", "willow_tree", "wolf", "woman", "worm",
)  # fmt: skip
_COVID = ("other findings", "normal", "pneumonia", "COVID-19")
_CLOTHING1M = (
    "T-shirt", "shirt", "knitwear", "chiffon", "sweater", "hoodie", "windbreaker",
    "jacket", "down coat", "suit", "shawl", "dress", "vest", "underwear",
)  # fmt: skip

DATASETS = {
    "digits": DatasetInfo(
        "digits",
        10,
        _DIGITS,
        shape=(8, 8, 1),
        has_test=False,
        meta_per_class=5,
        dtype="float32",
    ),
    "cifar10": _cifar(_CIFAR10),
    "cifar100": _cifar(_CIFAR100),
    "imdb": DatasetInfo(
        "imdb",
        2,
        (12_500,) * 2,
        "imdb_reviews",
        "text",
        validation_per_class=250,
        dtype="int32",
        class_names=("negative", "positive"),
    ),
    "imagenet_lt": _files("image_lists", 1000, 115_846, "imagenet_lt"),
    "places_lt": _files("image_lists", 365, 62_500, "places_lt"),
    "inaturalist18": _files("image_lists", 8142, 437_513, "inaturalist18"),
    "covid_lt": _files("covid", 4, 48_075, "covid_lt")._replace(
        validation_per_class=20, class_names=_COVID
    ),
    "clothing1m": _files("clothing1m", 14, 1_000_000, "clothing1m")._replace(
        class_names=_CLOTHING1M
    ),
    "table": _own("own_table", "table"),
    "arrays": _own("own_arrays", ""),
    "folder": _own("own", "images")._replace(files=True),
    "text": _own("own_text", "text"),
    "python": _own("own_arrays", ""),
}


class MethodInfo(NamedTuple):
    """What is known of a method before it is run.

    Attributes:
      module: in `experiments.methods`, with its `rule`.
      title: in tables.
      weights: whether examples are weighted at all.
      plain: the method that it is at λ = ±∞, in whose name its runs are then tabulated:
        one compiled program serves all λ, plain training included. Only attention has
        one.
      adam: whether it descends with Adam, not with SGD.
      uses_meta_set: whether weights are learned on a meta set, whose labels are clean.
      reads: its hyperparameters, fields of `configs.Method`.
    """

    module: str
    title: str
    weights: bool = True
    plain: str | None = None
    adam: bool = False
    uses_meta_set: bool = False
    reads: tuple[str, ...] = ()


_ATTENTION = (
    "lam", "rho", "first_lam", "gamma", "init_s", "max_weight", "alpha", "uniform",
)  # fmt: skip
_LEARNED = ("step_size", "meta_batch_size")

METHODS = {
    "sgd": MethodInfo("attention", "SGD", weights=False),
    "absgd": MethodInfo("attention", "ABSGD", plain="sgd", reads=_ATTENTION),
    "adam": MethodInfo("attention", "Adam", weights=False, adam=True),
    "abadam": MethodInfo(
        "attention", "ABAdam", plain="adam", adam=True, reads=_ATTENTION
    ),
    "eg": MethodInfo("eg", "EG", reads=("lam",)),
    "eg_examples": MethodInfo("eg_examples", "EG per example", reads=("step_size",)),
    "term": MethodInfo("term", "TERM", reads=("lam", "gamma")),
    "recover": MethodInfo("recover", "RECOVER", reads=("lam", "gamma")),
    "group_dro": MethodInfo("group_dro", "Group DRO", reads=("step_size",)),
    "cvar": MethodInfo("cvar", "CVaR", reads=("cvar_alpha",)),
    "meta": MethodInfo("meta", "META", uses_meta_set=True, reads=_LEARNED),
    "l2rw": MethodInfo("l2rw", "L2RW", uses_meta_set=True, reads=_LEARNED[1:]),
    "mw_net": MethodInfo(
        "mw_net", "Meta-Weight-Net", uses_meta_set=True, reads=_LEARNED
    ),
}
# The parameters of each loss, fields of `configs.Loss`.
LOSSES: dict[str, tuple[str, ...]] = {
    "cross_entropy": (),
    "focal": ("focusing",),
    "ldam": ("max_margin", "scale"),
    "symmetric": ("alpha", "beta", "smallest_probability"),
    "generalized": ("q",),
    "truncated": ("q", "k", "prune_from", "prune_every"),
    "logit_adjusted": ("tau",),
    "oltr": (),
    "range": ("range_intra", "range_inter", "range_margin"),
}
