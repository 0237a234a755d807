"""Algorithm 1 in NumPy float64, as printed; shares no code with the library."""

import numpy as np


def softmax_regression(w, x, labels):
    """Cross-entropy losses [n] and per-example gradients [n, features, classes]."""
    logits = x @ w
    logits = logits - logits.max(axis=1, keepdims=True)
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    onehot = np.eye(w.shape[1])[labels]
    losses = -np.log((p * onehot).sum(axis=1))
    return losses, x[:, :, None] * (p - onehot)[:, None, :]


def algorithm1(w, batches, lam, gamma, *, eta, init_s=None, alpha=0.0, beta=0.0):
    """Runs Algorithm 1 with Eq. (2) on (x, labels, v) batches.

    Yields (w, s) after each step.
    """
    w = w.astype(np.float64)
    attention, momentum = Attention(lam, gamma, init_s), np.zeros_like(w)
    for x, labels, v in batches:
        losses, gradients = softmax_regression(w, x, labels)
        momentum = beta * momentum + attention.direction(losses, gradients, v)
        momentum = momentum + alpha * w
        w = w - eta * momentum
        yield w, attention.s


def tilted_mean(losses, lam, v):
    """T_λ in extended precision, by the textbook formula about the extreme loss."""
    losses, v = losses.astype(np.longdouble), v.astype(np.longdouble)
    if np.isinf(lam):
        return float((v * losses).sum() / v.sum())
    lam = np.longdouble(lam)
    c = losses.max() if lam > 0 else losses.min()
    lost = (v * np.expm1((losses - c) / lam)).sum() / v.sum()
    if lost > -0.5:
        return float(c + lam * np.log1p(lost))
    return float(c + lam * np.log((v * np.exp((losses - c) / lam)).sum() / v.sum()))


class Attention:
    """Algorithm 1's s, and the direction of Eq. (2), step by step.

    Args:
      lam: λ.
      gamma: γ.
      init_s: s_0; None divides s by the share that s_0 = 0 has lost, so that it is an
        average of the batches alone.
    """

    def __init__(self, lam, gamma=0.5, init_s=None):
        self.lam, self.gamma, self.corrected = lam, gamma, init_s is None
        self._s, self._share = init_s or 0.0, 1.0

    @property
    def s(self):
        return self._s / (1 - self._share) if self.corrected else self._s

    def weights(self, losses, v=None):
        """p [*batch] of a batch's losses [*batch]; s moves on."""
        losses = np.asarray(losses, np.float64)
        v = np.ones_like(losses) if v is None else np.asarray(v, np.float64)
        exponentials = np.exp(losses / self.lam)
        self._s *= 1 - self.gamma
        self._s += self.gamma * (v * exponentials).sum() / v.sum()
        self._share *= 1 - self.gamma
        return exponentials / self.s

    def direction(self, losses, jacobian, v=None):
        """`Σ v_i p_i ∇L_i / Σ v_i` from the losses' Jacobian [*batch, *parameter]."""
        v = np.ones(np.shape(losses)) if v is None else np.asarray(v, np.float64)
        share = v * self.weights(losses, v) / v.sum()
        return np.tensordot(share, np.asarray(jacobian, np.float64), share.ndim)
