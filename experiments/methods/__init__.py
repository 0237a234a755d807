"""The methods: one module per weighting rule, and the descent that they share.

A method is a rule that weights examples, and a descent along the weighted gradient.
ABSGD's rule is `attention`; the others are the paper's baselines.
"""

from experiments import configs
from experiments.methods import (
    attention,
    cvar,
    eg,
    eg_examples,
    group_dro,
    l2rw,
    meta,
    mw_net,
    recover,
    term,
)
from experiments.methods.descent import descent
from experiments.methods.hyperparams import StepHyperparams, step_hyperparams
from experiments.methods.rule import Rule, WeightingInput, WeightingResult

__all__ = [
    "Rule",
    "StepHyperparams",
    "WeightingInput",
    "WeightingResult",
    "descent",
    "rule",
    "step_hyperparams",
]

_RULES = {
    "sgd": attention.rule,
    "adam": attention.rule,
    "absgd": attention.rule,
    "abadam": attention.rule,
    "eg": eg.rule,
    "eg_examples": eg_examples.rule,
    "term": term.rule,
    "recover": recover.rule,
    "group_dro": group_dro.rule,
    "cvar": cvar.rule,
    "meta": meta.rule,
    "l2rw": l2rw.rule,
    "mw_net": mw_net.rule,
}


def rule(run: configs.Run) -> Rule:
    """The rule by which a run weights examples.

    Args:
      run: method and loss.

    Returns:
      Pure functions of a `WeightingInput`, which has all that changes between updates.
    """
    return _RULES[run.method.name](run)
