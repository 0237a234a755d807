"""Attentional-Biased SGD for JAX and Optax.

Weights every example of a mini-batch by `exp(loss / λ)` divided by its moving average,
at the price of plain SGD: λ > 0 for imbalanced data, λ < 0 for noisy labels.
"""

from absgd_jax import losses
from absgd_jax._alias import abadam, absgd
from absgd_jax._diagnostics import WeightStatistics, suggest_lam, weight_statistics
from absgd_jax._gradient import (
    TiltedValue,
    attentional_weights,
    tilted_loss,
    tilted_value_and_grad,
)
from absgd_jax._radius import KLRadius, effective_fraction, kl_radius
from absgd_jax._schedules import anneal, two_stage
from absgd_jax._state import (
    AttentionState,
    WeightBound,
    attention_state,
    normalizer,
)
from absgd_jax._transform import attentional_aggregate, scale_by_attention
from absgd_jax._weights import Attention, attention

__version__ = "0.1.0"

__all__ = [
    "Attention",
    "AttentionState",
    "KLRadius",
    "TiltedValue",
    "WeightBound",
    "WeightStatistics",
    "abadam",
    "absgd",
    "anneal",
    "attention",
    "attention_state",
    "attentional_aggregate",
    "attentional_weights",
    "effective_fraction",
    "kl_radius",
    "losses",
    "normalizer",
    "scale_by_attention",
    "suggest_lam",
    "tilted_loss",
    "tilted_value_and_grad",
    "two_stage",
    "weight_statistics",
]
