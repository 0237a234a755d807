"""The learning rate and the other hyperparameters of an update, by the schedule."""

import math
from typing import NamedTuple

import numpy as np

from experiments import configs


class StepHyperparams(NamedTuple):
    """Hyperparameters of one update: arguments of the compiled step, not constants."""

    learning_rate: np.ndarray  # float32 []: η
    lam: np.ndarray  # float32 []: λ
    gamma: np.ndarray  # float32 []: γ
    init_s: np.ndarray  # float32 []: s_0; not used where the run has none
    restart: np.ndarray  # bool []: whether s is reset to s_0
    scale: np.ndarray  # float32 []: factor on the weights, 1/α
    uniform: np.ndarray  # float32 []: added to the weights after that
    step_size: np.ndarray  # float32 []: of what a baseline learns in addition to w
    cvar_alpha: np.ndarray  # float32 []: fraction of the batch that CVaR trains on
    on: np.ndarray  # bool []: whether the method is switched on


def step_hyperparams(
    run: configs.Run, steps_per_epoch: int, step: int
) -> StepHyperparams:
    """The hyperparameters of the update after so many, as scalars.

    η rises over the epochs of the warm-up and is divided at the first step of an epoch;
    a cosine falls step by step.

    Where plain training comes first (λ = ∞) and s_0 is given, Algorithm 1 begins at the
    switch: s starts there from s_0, not at the first step of all, as in the authors'
    code. Until then s is 1.
    """
    epoch, optimizer, method = step // steps_per_epoch, run.optimizer, run.method
    learning_rate = optimizer.learning_rate
    warmup = run.epoch_at(optimizer.warmup)
    if epoch < warmup:
        learning_rate *= (epoch + 1) / warmup
    if optimizer.decay == "cosine":
        share = step / (run.epochs * steps_per_epoch)
        learning_rate *= 0.5 * (1.0 + math.cos(math.pi * share))
    drops = sum(epoch >= run.epoch_at(share) for share in optimizer.drop_at)
    learning_rate /= optimizer.drop_factor**drops

    switch = run.epoch_at(method.start_at) * steps_per_epoch
    weights = method.weights and step >= switch
    lam = method.lam if weights else method.first_lam if method.weights else math.inf
    begins = 0 if math.isfinite(method.first_lam) else switch
    # The authors' variants hold where λ does; with a radius the library finds it.
    attends = math.isfinite(lam) or (weights and method.rho is not None)
    return StepHyperparams(
        np.float32(learning_rate),
        np.float32(lam),
        np.float32(method.gamma),
        np.float32(1.0 if step < begins else method.init_s or 0.0),
        np.bool_(method.init_s is not None and step == begins),
        np.float32(1.0 / method.alpha if attends else 1.0),
        np.float32(method.uniform and attends),
        np.float32(method.step_size),
        np.float32(method.cvar_alpha),
        np.bool_(weights),
    )
