"""The method grid of `compare`: ABSGD and its baselines, each with a hyperparameter.

A method is given by its changes of one plain run, and by a grid of values of one
hyperparameter: its own, or the learning rate where it has none. All grids have the same
size. Imports no JAX.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

from experiments import configs

GRID = 3  # values that each method's hyperparameter is chosen among
NORMALISED = "+norm"  # suffix: the same with logits divided by their norm

_SECOND_STAGE = 0.1  # of the first one's epochs, as Kang et al.'s 10 after 90


class MethodGrid(NamedTuple):
    """A method with the grid of its hyperparameter.

    Attributes:
      name: on the command line.
      title: in tables.
      changes: of the plain run, as in `configs.replace`.
      hyperparameter: its name in tables.
      grid: values as tables show them, and the changes of each.
      backward: backward passes per update, those of meta batches included.
      stage: 2 where it starts from a finished plain run.
      classifier: post-hoc classifier of the features of a finished plain run: nearest
        class means (`ncm`), or the head with its norms divided out (`tau`).
    """

    name: str
    title: str
    changes: Mapping[str, Any]
    hyperparameter: str
    grid: tuple[tuple[str, Mapping[str, Any]], ...]
    backward: int = 1
    stage: Literal[1, 2] = 1
    classifier: Literal["ncm", "tau"] | None = None

    def runs(self, plain: configs.Run) -> list[configs.Run]:
        """The run for each value of the grid."""
        return [
            configs.replace(plain, {**self.changes, **changes})
            for _, changes in self.grid
        ]


def plain(run: configs.Run) -> configs.Run:
    """The baseline run that all methods change: SGD on cross-entropy.

    Args:
      run: whose data, network, schedule and optimizer it takes.

    Returns:
      The run with plain method and loss and a validation set, evaluated at its end.
    """
    held_out = run.data.validation_per_class or run.data.info.validation_per_class
    return configs.replace(
        run,
        {
            "data.validation_per_class": held_out,
            "data.sampling": "shuffled",
            "data.meta_per_class": 0,
            "model.head": "linear",
            "loss": configs.Loss(logit_norm=run.loss.logit_norm),
            "method": configs.Method("sgd", start_at=_start(run)),
            "eval_every": run.epochs,
        },
    )


def every(run: configs.Run) -> dict[str, MethodGrid]:
    """The methods that fit a run's data and network, by name.

    Args:
      run: a preset's, with γ, the fraction of the epochs after which weights begin, and
        whether labels are noisy.

    Returns:
      In the order of the documentation.
    """
    makers = (_weighting, _class_level, _learned, _two_stage, _noise)
    found = [method for make in makers for method in make(run)]
    return {method.name: method for method in found}


def choose(run: configs.Run, names: str) -> list[MethodGrid]:
    """The methods of a comma-separated list.

    Args:
      run: a preset's.
      names: such as `absgd,ldam_drw`; a name may end in `+norm`. Empty for all.

    Returns:
      Plain SGD first, since it is the baseline of all others.

    Raises:
      configs.BadConfiguration: there is no such method for this run.
    """
    known = every(run)
    chosen = [name.strip() for name in names.split(",")] if names else list(known)
    found = {"sgd": known["sgd"]}
    for name in chosen:
        base = name.removesuffix(NORMALISED)
        if base not in known:
            raise configs.BadConfiguration(
                f"There is no method {name!r} for {run.data.source} and "
                f"{run.model.name}; there are {', '.join(known)}, and each with "
                f"{NORMALISED} at its end."
            )
        method = known[base]
        if name != base:
            changes = {**method.changes, "loss.logit_norm": 1.0}
            title = f"{method.title}, logits normalised"
            method = method._replace(name=name, title=title, changes=changes)
        found[name] = method
    return list(found.values())


def _noisy(run: configs.Run) -> bool:
    return run.data.noise_rate > 0.0 or run.data.source == "clothing1m"


def _start(run: configs.Run) -> float:
    """The fraction of the epochs after which weights begin."""
    return run.method.start_at or run.loss.class_weights_from


def _grid(
    values: tuple[Any, Any, Any], changes: Callable[[Any], Mapping[str, Any]]
) -> tuple[tuple[str, Mapping[str, Any]], ...]:
    return tuple((f"{value:g}", changes(value)) for value in values)


def _rates(rate: float) -> tuple[tuple[str, Mapping[str, Any]], ...]:
    """Learning rates; the run's own first, which a second stage starts from."""
    values = (rate, rate / 2.0, rate * 2.0)
    return _grid(values, lambda value: {"optimizer.learning_rate": value})


def _lams(run: configs.Run) -> tuple[tuple[str, Mapping[str, Any]], ...]:
    digits = run.data.source == "digits"
    if _noisy(run):
        values = (-2.0, -1.0, -0.5) if digits else (-10.0, -5.0, -1.0)
    else:
        values = (1.0, 0.5, 0.25) if digits else (5.0, 2.0, 1.0)
    return _grid(values, lambda value: {"method.lam": value})


def _method(run: configs.Run, name: configs.MethodName, **more: Any) -> configs.Method:
    """The method of that name, switched on at the run's own epoch."""
    return configs.Method(name, start_at=_start(run), **more)


def _weighting(run: configs.Run) -> list[MethodGrid]:
    """Methods that weight by losses: in the batch, over time, or of groups."""
    lams, rate = _lams(run), run.optimizer.learning_rate
    gamma, init_s = run.method.gamma, run.method.init_s
    attention = {"gamma": gamma, "init_s": init_s}
    adam = {"optimizer.learning_rate": 1e-3}
    # Steps as long as with momentum, which these do without.
    still = {
        "optimizer.momentum": 0.0,
        "optimizer.nesterov": False,
        "optimizer.learning_rate": rate / (1.0 - run.optimizer.momentum),
    }
    sign = 1.0 if _noisy(run) else -1.0

    def of(name: configs.MethodName, **more: Any) -> dict[str, Any]:
        return {"method": _method(run, name, **more)}

    return [
        MethodGrid("sgd", "SGD", {}, "η", _rates(rate)),
        MethodGrid("absgd", "ABSGD", of("absgd", **attention), "λ", lams),
        MethodGrid(
            "adam", "Adam", {"method": configs.Method("adam")}, "η", _rates(1e-3)
        ),
        MethodGrid("abadam", "ABAdam", of("abadam", **attention) | adam, "λ", lams),
        MethodGrid("eg", "EG, within the batch", of("eg"), "λ", lams),
        MethodGrid(
            "eg_examples",
            "EG, per example",
            of("eg_examples"),
            "step size",
            _grid(
                (0.1 * sign, 0.03 * sign, 0.3 * sign),
                lambda value: {"method.step_size": value},
            ),
        ),
        MethodGrid("term", "TERM, batch", of("term", gamma=1.0) | still, "λ", lams),
        MethodGrid(
            "term_stochastic",
            "TERM, stochastic",
            of("term", gamma=0.2) | still,
            "λ",
            lams,
        ),
        MethodGrid(
            "recover", "RECOVER", of("recover", gamma=0.5) | still, "λ", lams, 2
        ),
        MethodGrid(
            "group_dro",
            "Group DRO",
            of("group_dro"),
            "step size",
            _grid((0.01, 0.1, 0.001), lambda value: {"method.step_size": value}),
        ),
        MethodGrid(
            "cvar",
            "CVaR",
            of("cvar"),
            "α",
            _grid((0.5, 0.7, 0.9), lambda value: {"method.cvar_alpha": value}),
        ),
    ]


def _class_level(run: configs.Run) -> list[MethodGrid]:
    """Class-level methods: sampling, weights, margins."""
    start, rates = _start(run), _rates(run.optimizer.learning_rate)
    gamma, init_s = run.method.gamma, run.method.init_s
    weighted = {"loss.class_weights": True}
    deferral = {"loss.class_weights_from": start}
    # PyTorch's weighted mean, only for weighted cross-entropy: the focal loss, which
    # has the weights inside, is a plain mean in LDAM's code.
    always = weighted | {"loss.class_weights_norm": "weights"}
    deferred = always | deferral
    focal = weighted | {"loss.name": "focal"}
    attended = {
        "method": _method(run, "absgd", gamma=gamma, init_s=init_s),
        "loss.class_weights": True,
        "loss.class_weights_from": start,
    }
    betas = _grid((0.9999, 0.999, 0.99), lambda value: {"loss.effective_beta": value})
    focusing = _grid((1.0, 0.5, 2.0), lambda value: {"loss.focusing": value})
    margins = _grid((0.5, 0.3, 0.7), lambda value: {"loss.max_margin": value})
    cosine = {"loss.name": "ldam", "model.head": "cosine"}
    return [
        MethodGrid(
            "joint",
            "Joint: class-aware sampling",
            {"data.sampling": "class_aware"},
            "η",
            rates,
        ),
        MethodGrid(
            "resampling",
            "Resampling by effective number",
            {"data.sampling": "effective"},
            "η",
            rates,
        ),
        MethodGrid("cb_ce", "CB-CE, weights always on", always, "β", betas),
        MethodGrid("drw_ce", "CB-CE, weights deferred (DRW)", deferred, "β", betas),
        MethodGrid("focal", "Focal", {"loss.name": "focal"}, "focusing", focusing),
        MethodGrid(
            "cb_focal",
            "CB-Focal, weights always on",
            focal,
            "focusing",
            focusing,
        ),
        MethodGrid(
            "drw_focal",
            "CB-Focal, weights deferred",
            focal | deferral,
            "focusing",
            focusing,
        ),
        MethodGrid("ldam", "LDAM", cosine, "margin", margins),
        MethodGrid("ldam_drw", "LDAM-DRW", deferred | cosine, "margin", margins),
        MethodGrid(
            "logit_adjusted",
            "Logit adjustment",
            {"loss.name": "logit_adjusted"},
            "τ",
            _grid((1.0, 0.5, 1.5), lambda value: {"loss.tau": value}),
        ),
        MethodGrid("absgd_cb", "ABSGD (CB-CE)", attended, "λ", _lams(run)),
        MethodGrid(
            "absgd_cb_mean",
            "ABSGD (CB-CE), weighted mean",
            attended | {"loss.class_weights_norm": "weights"},
            "λ",
            _lams(run),
        ),
    ]


def _learned(run: configs.Run) -> list[MethodGrid]:
    """Methods that learn weights on a clean, balanced meta set."""
    clean = {"data.meta_per_class": run.data.info.meta_per_class}
    weighted = {"loss.class_weights": True, "loss.class_weights_from": _start(run)}

    def rates(*values: float) -> Any:
        return _grid(values, lambda value: {"method.step_size": value})

    def of(name: configs.MethodName) -> dict[str, Any]:
        return {"method": _method(run, name)} | clean

    return [
        MethodGrid(
            "meta",
            "META",
            of("meta") | weighted,
            "step size",
            rates(0.01, 1.0, 100.0),
            3,
        ),
        MethodGrid(
            "l2rw", "L2RW", of("l2rw"), "η", _rates(run.optimizer.learning_rate), 2
        ),
        MethodGrid(
            "mw_net",
            "Meta-Weight-Net",
            of("mw_net"),
            "step size",
            rates(1e-3, 1e-4, 1e-2),
            3,
        ),
    ]


def _two_stage(run: configs.Run) -> list[MethodGrid]:
    """Two-stage methods: another classifier on the features of plain training."""
    rate, epochs = run.optimizer.learning_rate, run.epochs
    second = {
        "data.sampling": "class_aware",
        "epochs": max(1, round(_SECOND_STAGE * epochs)),
        "optimizer.decay": "cosine",
        "optimizer.warmup": 0.0,
        "optimizer.drop_at": (),
    }
    found = [
        MethodGrid(
            "crt",
            "cRT",
            second | {"trainable": "head", "new_head": True},
            "η",
            _rates(rate),
            stage=2,
        ),
        MethodGrid(
            "lws",
            "LWS",
            second | {"trainable": "scale", "model.head": "scaled"},
            "η",
            _rates(rate),
            stage=2,
        ),
        MethodGrid(
            "ncm",
            "NCM",
            {},
            "features",
            tuple((name, {}) for name in ("centred", "l2", "plain")),
            backward=0,
            stage=2,
            classifier="ncm",
        ),
        MethodGrid(
            "tau",
            "τ-normalised",
            {},
            "τ",
            tuple((name, {}) for name in ("1", "0.5", "1.5")),
            backward=0,
            stage=2,
            classifier="tau",
        ),
    ]
    if run.model.name not in ("sce_cnn", "bilstm"):  # which have no map to attend to
        changes = second | {"model.head": "memory", "loss.name": "oltr"}
        slower = _rates(rate / 10.0)
        found.append(MethodGrid("oltr", "OLTR", changes, "η", slower, stage=2))
    intra = _grid((0.01, 0.001, 0.1), lambda value: {"loss.range_intra": value})
    found.append(
        MethodGrid("range", "Range loss", {"loss.name": "range"}, "intra", intra)
    )
    return found


def _noise(run: configs.Run) -> list[MethodGrid]:
    """Losses that are robust to label noise."""
    return [
        MethodGrid(
            "sce",
            "SCE",
            {"loss.name": "symmetric"},
            "α, β",
            tuple(
                (f"{alpha:g}, {beta:g}", {"loss.alpha": alpha, "loss.beta": beta})
                for alpha, beta in ((0.1, 1.0), (1.0, 1.0), (6.0, 0.1))
            ),
        ),
        MethodGrid(
            "gce",
            "GCE",
            {"loss.name": "generalized"},
            "q",
            _grid((0.7, 0.5, 0.9), lambda value: {"loss.q": value}),
        ),
        MethodGrid(
            "tce",
            "Truncated GCE",
            {"loss.name": "truncated", "loss.prune_from": _start(run)},
            "k",
            _grid((0.5, 0.3, 0.1), lambda value: {"loss.k": value}),
        ),
    ]
