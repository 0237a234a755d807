"""The methods: one module per weighting rule, and the descent that they share.

A method is a rule that weights examples, and a descent along the weighted gradient.
ABSGD's rule is `attention`; the others are the paper's baselines. `registry.METHODS`
has a line for each.
"""

import importlib

from experiments import configs
from experiments.methods.descent import descent
from experiments.methods.hyperparams import StepHyperparams, step_hyperparams
from experiments.methods.weighting import Rule, WeightingInput, WeightingResult

__all__ = [
    "Rule",
    "StepHyperparams",
    "WeightingInput",
    "WeightingResult",
    "descent",
    "rule",
    "step_hyperparams",
]


def rule(run: configs.Run) -> Rule:
    """The rule by which a run weights examples, by its method and loss."""
    module = importlib.import_module(f"experiments.methods.{run.method.info.module}")
    return module.rule(run)
