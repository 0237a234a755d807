"""The method grid of `compare`: ABSGD and its baselines, each with a hyperparameter.

A method is given by its changes of one plain run, and by a grid of values of one
hyperparameter: its own, or the learning rate where it has none. All grids have the same
size; `at_rates` tunes all methods' learning rates too. Imports no JAX.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from experiments import configs

GRID = 3  # values that each method's hyperparameter is chosen among
RATE = "optimizer.learning_rate"
NORMALISED = "+norm"  # suffix: the same with logits divided by their norm
ADAM = "+adam"  # suffix: the same trained by Adam
ADAM_RATE = 1e-3

_SECOND_STAGE = 0.1  # of the first one's epochs, as Kang et al.'s 10 after 90
# Of the epochs, before weights begin where a preset does not say: the paper's share,
# and one after which a network has not learned wrong labels yet.
_LATE, _LATE_IF_NOISY = 0.8, 0.2
# Fractions of the epochs after which a radius begins under wrong labels, see
# docs/choosing_lambda.md.
_LATER = {"absgd_auto_late": (0.1, "a tenth"), "absgd_auto_half": (0.5, "a half")}


class MethodGrid(NamedTuple):
    """A method with the grid of its hyperparameter."""

    name: str  # on the command line
    title: str  # in tables
    changes: Mapping[str, Any]  # of the plain run, as in `configs.replace`
    hyperparameter: str  # its name in tables
    # Values as tables show them, and the changes of each.
    grid: tuple[tuple[str, Mapping[str, Any]], ...]
    backward: int = 1  # backward passes per update, those of meta batches included
    stage: Literal[1, 2] = 1  # 2 where it starts from a finished plain run
    # Post-hoc classifier of the features of a finished plain run: nearest class means,
    # or the head with its norms divided out.
    classifier: Literal["ncm", "tau"] | None = None

    def runs(self, plain: configs.Run) -> list[configs.Run]:
        """The run for each value of the grid."""
        each = ({**self.changes, **changes} for _, changes in self.grid)
        return [configs.replace(plain, changes) for changes in each]


def plain(run: configs.Run) -> configs.Run:
    """The run with plain method and loss, SGD on cross-entropy, which methods change.

    It has a validation set, and is evaluated at its end.
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
    """The methods that fit the data and network of a preset's run, by name.

    They are in the order of the documentation. γ, the fraction of the epochs after
    which weights begin, and whether labels are noisy are the run's. But where its λ
    follows a radius, these are of the automatic λ, which otherwise is the library's
    from the first step. Other weights then begin as class weights do, or later, and γ
    is that of `Method` unless it is not the radius's.
    """
    makers = (_weighting, _class_level, _learned, _two_stage, _noise)
    methods = [method for make in makers for method in make(run)]
    return {method.name: method for method in methods if _fits(method, run)}


def _fits(method: MethodGrid, run: configs.Run) -> bool:
    """Whether the network has what a method needs: one's own has no head to change."""
    changes_head = (
        method.stage == 2
        or "model.head" in method.changes
        or method.changes.get("loss.name") == "range"
    )
    return run.model.custom is None or not changes_head


def choose(run: configs.Run, names: str) -> list[MethodGrid]:
    """The methods of a comma-separated list, such as `absgd,ldam_drw`; empty for all.

    A name may end in `+norm`, `+adam` or `+adam+norm`. Plain SGD comes first, since it
    is the baseline of all others. Raises BadConfiguration where there is no such method
    for this run.
    """
    known = every(run)
    chosen = [name.strip() for name in names.split(",")] if names else list(known)
    methods = {"sgd": known["sgd"]}
    for name in chosen:
        base = name.removesuffix(NORMALISED).removesuffix(ADAM)
        if base not in known:
            raise configs.BadConfiguration(
                f"There is no method {name!r} for {run.data.source} and "
                f"{run.model.title}; there are {', '.join(known)}, and each with "
                f"{NORMALISED} at its end, those of SGD and ABSGD with {ADAM}."
            )
        method = known[base]
        if ADAM in name:
            method = _by_adam(method, run)
        if name.endswith(NORMALISED):
            changes = {**method.changes, "loss.logit_norm": 1.0}
            title = f"{method.title}, logits normalised"
            method = method._replace(title=title, changes=changes)
        methods[name] = method._replace(name=name)
    return list(methods.values())


def _by_adam(method: MethodGrid, run: configs.Run) -> MethodGrid:
    """The method at Adam's learning rate, with Adam in the place of SGD."""
    objective = method.changes.get("method", plain(run).method)
    name: Any = {"sgd": "adam", "absgd": "abadam"}.get(objective.name)
    if name is None or method.stage == 2:
        raise configs.BadConfiguration(
            f"{ADAM} is for losses and weights of SGD and ABSGD in one stage, got "
            f"{method.name!r}."
        )
    grid = method.grid
    if method.hyperparameter == "η":
        _, grid = _rates(ADAM_RATE)
    adam = {"method": dataclasses.replace(objective, name=name), RATE: ADAM_RATE}
    return method._replace(
        title=f"{method.title}, Adam",
        changes={**method.changes, **adam},
        grid=grid,
    )


def at_rates(
    method: MethodGrid, run: configs.Run, factors: Sequence[float]
) -> MethodGrid:
    """A method whose grid has several learning rates.

    Args:
      method: with a grid at one rate.
      run: plain training.
      factors: the learning rates, over the method's own.

    Returns:
      The method with every value of its hyperparameter at every rate; what is shown of
      a setting has a rate where it is not the method's own. Where there is only the
      rate to choose, as many rates, from half of the smallest to twice the largest; its
      own is the first, which is taken where validation is equal.
    """
    if tuple(factors) == (1.0,):
        return method
    if method.hyperparameter == "η":
        (_, change), *_ = method.grid
        count = GRID * len(factors)
        spread = np.geomspace(min(factors) / 2.0, max(factors) * 2.0, count).round(6)
        spread[np.abs(np.log(spread)).argmin()] = 1.0
        nearest = sorted(spread, key=lambda f: abs(np.log(f)))
        rates = tuple(_scaled(change[RATE], factor) for factor in nearest)
        return method._replace(grid=_over("η", rates, RATE)[1])
    rate = method.changes.get(RATE, run.optimizer.learning_rate)
    grid = []
    for (value, changes), factor in itertools.product(method.grid, factors):
        scaled = _scaled(rate, factor)
        other = (f"{value}, η = {scaled:g}", {**changes, RATE: scaled})
        grid.append((value, changes) if factor == 1.0 else other)
    return method._replace(grid=tuple(grid))


def _scaled(rate: float, factor: float) -> float:
    """A learning rate times a factor, of three digits unless it is the rate itself."""
    return rate if factor == 1.0 else float(f"{rate * factor:.3g}")


def _noisy(run: configs.Run) -> bool:
    """Whether λ is negative, as in presets of wrong labels, or labels are flipped."""
    return run.method.lam < 0.0 or run.data.noise_rate > 0.0


def _start(run: configs.Run) -> float:
    """The fraction of the epochs after which weights begin, but those of a radius."""
    if run.method.rho is None:
        return run.method.start_at or run.loss.class_weights_from
    late = _LATE_IF_NOISY if _noisy(run) else _LATE
    return run.loss.class_weights_from or late


def _attention(run: configs.Run) -> dict[str, Any]:
    """γ and s_0 of a fixed λ, for which the γ of a preset's radius is too small."""
    gamma, of_radius = run.method.gamma, configs.AUTOMATIC.gamma
    if run.method.rho is not None and gamma == of_radius:
        gamma = configs.Method().gamma
    return {"gamma": gamma, "init_s": run.method.init_s}


def _over(
    hyperparameter: str, values: tuple[Any, ...], *fields: str
) -> tuple[str, tuple[tuple[str, Mapping[str, Any]], ...]]:
    """A hyperparameter and its grid; values of two fields are pairs."""
    grid = []
    for value in values:
        each = value if len(fields) > 1 else (value,)
        shown = ", ".join(one if isinstance(one, str) else f"{one:g}" for one in each)
        # A post-hoc classifier has no field: it changes nothing of the run.
        grid.append((shown, dict(zip(fields, each, strict=bool(fields)))))
    return hyperparameter, tuple(grid)


def _rates(rate: float) -> Any:
    """Learning rates; the run's own first, which a second stage starts from."""
    return _over("η", (rate, rate / 2.0, rate * 2.0), RATE)


def _lams(run: configs.Run) -> Any:
    digits = run.data.source == "digits"
    if _noisy(run):
        values = (-2.0, -1.0, -0.5) if digits else (-10.0, -5.0, -1.0)
    else:
        values = (1.0, 0.5, 0.25) if digits else (5.0, 2.0, 1.0)
    return _over("λ", values, "method.lam")


def _step_sizes(*values: float) -> Any:
    return _over("step size", values, "method.step_size")


def _of(run: configs.Run, name: configs.MethodName, **more: Any) -> dict[str, Any]:
    """The change to a method that is switched on at the run's own epoch."""
    return {"method": configs.Method(name, start_at=_start(run), **more)}


def _weighting(run: configs.Run) -> list[MethodGrid]:
    """Methods that weight by losses: in the batch, over time, or of groups."""
    of = functools.partial(_of, run)
    lams, rate = _lams(run), run.optimizer.learning_rate
    attention = _attention(run)
    adam, by_adam = {RATE: ADAM_RATE}, {"method": configs.Method("adam")}
    sign = 1.0 if _noisy(run) else -1.0
    own = configs.AUTOMATIC if run.method.rho is None else run.method
    radius = dataclasses.replace(own, name="absgd", lam=-sign * math.inf)
    # Steps as long as with momentum, which these do without.
    still = {
        "optimizer.momentum": 0.0,
        "optimizer.nesterov": False,
        RATE: rate / (1.0 - run.optimizer.momentum),
    }
    by_example = _step_sizes(0.1 * sign, 0.03 * sign, 0.3 * sign)
    by_group, balanced = _step_sizes(0.01, 0.1, 0.001), {"data.sampling": "balanced"}
    alphas = _over("α", (0.5, 0.7, 0.9), "method.cvar_alpha")
    batch, stochastic = of("term", gamma=1.0), of("term", gamma=0.2)
    recover = of("recover", gamma=0.5)
    automatic = MethodGrid(
        "absgd_auto", "ABSGD, automatic λ", {"method": radius}, *_rates(rate)
    )
    later = [
        automatic._replace(
            name=name,
            title=f"{automatic.title} after {words}",
            changes={"method": dataclasses.replace(radius, start_at=start_at)},
        )
        for name, (start_at, words) in _LATER.items()
        if _noisy(run)
    ]
    return [
        MethodGrid("sgd", "SGD", {}, *_rates(rate)),
        MethodGrid("absgd", "ABSGD", of("absgd", **attention), *lams),
        automatic,
        *later,
        MethodGrid("adam", "Adam", by_adam, *_rates(ADAM_RATE)),
        MethodGrid("abadam", "ABAdam", of("abadam", **attention) | adam, *lams),
        MethodGrid("eg", "EG, within the batch", of("eg"), *lams),
        MethodGrid("eg_examples", "EG, per example", of("eg_examples"), *by_example),
        MethodGrid("term", "TERM, batch", batch | still, *lams),
        MethodGrid("term_stochastic", "TERM, stochastic", stochastic | still, *lams),
        MethodGrid("recover", "RECOVER", recover | still, *lams, backward=2),
        MethodGrid("group_dro", "Group DRO", of("group_dro") | balanced, *by_group),
        MethodGrid("cvar", "CVaR", of("cvar"), *alphas),
    ]


def _class_level(run: configs.Run) -> list[MethodGrid]:
    """Class-level methods: sampling, weights, margins."""
    rates, lams = _rates(run.optimizer.learning_rate), _lams(run)
    weighted = {"loss.class_weights": True}
    deferral = {"loss.class_weights_from": _start(run)}
    # PyTorch's weighted mean, only for weighted cross-entropy: the focal loss, which
    # has the weights inside, is a plain mean in LDAM's code.
    mean = {"loss.class_weights_norm": "weights"}
    always, deferred = weighted | mean, weighted | mean | deferral
    focused = {"loss.name": "focal"}
    focal = weighted | focused
    absgd = _of(run, "absgd", **_attention(run))
    attended = absgd | weighted | deferral
    base = {"loss.class_weights_in": "base"}
    betas = _over("β", (0.9999, 0.999, 0.99), "loss.effective_beta")
    focusing = _over("focusing", (1.0, 0.5, 2.0), "loss.focusing")
    margins = _over("margin", (0.5, 0.3, 0.7), "loss.max_margin")
    taus = _over("τ", (1.0, 0.5, 1.5), "loss.tau")
    cosine = {"loss.name": "ldam", "model.head": "cosine"}
    aware, effective = ({"data.sampling": s} for s in ("class_aware", "effective"))
    adjusted = {"loss.name": "logit_adjusted"}
    return [
        MethodGrid("joint", "Joint: class-aware sampling", aware, *rates),
        MethodGrid("resampling", "Resampling by effective number", effective, *rates),
        MethodGrid("cb_ce", "CB-CE, weights always on", always, *betas),
        MethodGrid("drw_ce", "CB-CE, weights deferred (DRW)", deferred, *betas),
        MethodGrid("focal", "Focal", focused, *focusing),
        MethodGrid("cb_focal", "CB-Focal, weights always on", focal, *focusing),
        MethodGrid(
            "drw_focal", "CB-Focal, weights deferred", focal | deferral, *focusing
        ),
        MethodGrid("ldam", "LDAM", cosine, *margins),
        MethodGrid("ldam_drw", "LDAM-DRW", deferred | cosine, *margins),
        MethodGrid("logit_adjusted", "Logit adjustment", adjusted, *taus),
        MethodGrid("absgd_cb", "ABSGD (CB-CE)", attended, *lams),
        MethodGrid(
            "absgd_cb_mean", "ABSGD (CB-CE), weighted mean", attended | mean, *lams
        ),
        MethodGrid("absgd_cb_base", "ABSGD (CB base weights)", attended | base, *lams),
        MethodGrid("absgd_focal", "ABSGD (Focal)", absgd | focused, *lams),
        MethodGrid("absgd_cb_focal", "ABSGD (CB-Focal)", attended | focused, *lams),
    ]


def _learned(run: configs.Run) -> list[MethodGrid]:
    """Methods that learn weights on a clean, balanced meta set."""
    clean = {"data.meta_per_class": run.data.info.meta_per_class}
    weighted = {"loss.class_weights": True, "loss.class_weights_from": _start(run)}
    meta, l2rw, mw_net = (_of(run, m) | clean for m in ("meta", "l2rw", "mw_net"))
    slow, fast = _step_sizes(1e-3, 1e-4, 1e-2), _step_sizes(0.01, 1.0, 100.0)
    rates = _rates(run.optimizer.learning_rate)
    return [
        MethodGrid("meta", "META", meta | weighted, *fast, backward=3),
        MethodGrid("l2rw", "L2RW", l2rw, *rates, backward=2),
        MethodGrid("mw_net", "Meta-Weight-Net", mw_net, *slow, backward=3),
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
    crt = second | {"trainable": "head", "new_head": True}
    lws = second | {"trainable": "scale", "model.head": "scaled"}
    oltr = second | {"model.head": "memory", "loss.name": "oltr"}
    ncm, tau = ("centred", "l2", "plain"), ("1", "0.5", "1.5")
    after = functools.partial(MethodGrid, backward=0, stage=2)
    methods = [
        MethodGrid("crt", "cRT", crt, *_rates(rate), stage=2),
        MethodGrid("lws", "LWS", lws, *_rates(rate), stage=2),
        after("ncm", "NCM", {}, *_over("features", ncm), classifier="ncm"),
        after("tau", "τ-normalised", {}, *_over("τ", tau), classifier="tau"),
    ]
    without_a_map = ("sce_cnn", "bilstm", "mlp")  # to attend to
    if run.model.name not in without_a_map:
        methods.append(MethodGrid("oltr", "OLTR", oltr, *_rates(rate / 10.0), stage=2))
    intra = _over("intra", (0.01, 0.001, 0.1), "loss.range_intra")
    return [*methods, MethodGrid("range", "Range loss", {"loss.name": "range"}, *intra)]


def _noise(run: configs.Run) -> list[MethodGrid]:
    """Losses that are robust to label noise."""
    pairs = ((0.1, 1.0), (1.0, 1.0), (6.0, 0.1))
    symmetric = _over("α, β", pairs, "loss.alpha", "loss.beta")
    generalized = _over("q", (0.7, 0.5, 0.9), "loss.q")
    truncated = {"loss.name": "truncated", "loss.prune_from": _start(run)}
    cuts = _over("k", (0.5, 0.3, 0.1), "loss.k")
    absgd = _of(run, "absgd", **_attention(run))
    attended = absgd | {"loss.name": "symmetric"}
    return [
        MethodGrid("sce", "SCE", {"loss.name": "symmetric"}, *symmetric),
        MethodGrid("gce", "GCE", {"loss.name": "generalized"}, *generalized),
        MethodGrid("tce", "Truncated GCE", truncated, *cuts),
        MethodGrid("absgd_sce", "ABSGD (SCE)", attended, *_lams(run)),
    ]
