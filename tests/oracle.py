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


def algorithm1(
    w, batches, lam, gamma, *, eta, init_s=0.0, alpha=0.0, beta=0.0, corrected=False
):
    """Runs Algorithm 1 with Eq. (2) on (x, labels, v) batches.

    Yields (w, s) after each step. `corrected` divides s by the share that s_0 = 0 has
    lost, so that s is an average of the batches alone.
    """
    w = w.astype(np.float64)
    s, share, momentum = float(init_s), 1.0, np.zeros_like(w)
    for x, labels, v in batches:
        losses, gradients = softmax_regression(w, x, labels)
        exponentials = np.exp(losses / lam)
        s = (1 - gamma) * s + gamma * (v * exponentials).sum() / v.sum()
        share = (1 - gamma) * share
        s_used = s / (1 - share) if corrected else s
        p = exponentials / s_used
        direction = ((v * p)[:, None, None] * gradients).sum(axis=0) / v.sum()
        momentum = beta * momentum + direction + alpha * w
        w = w - eta * momentum
        yield w, s_used


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
    """Algorithm 1's s without s_0, and the direction of Eq. (2), step by step.

    Args:
      lam: λ.
      gamma: γ.
    """

    def __init__(self, lam, gamma=0.5):
        self.lam, self.gamma = lam, gamma
        self.s, self.share = 0.0, 1.0

    def weights(self, losses, v=None):
        """p [*batch] of a batch's losses [*batch]; s moves on."""
        losses = np.asarray(losses, np.float64)
        v = np.ones_like(losses) if v is None else np.asarray(v, np.float64)
        exponentials = np.exp(losses / self.lam)
        self.s *= 1 - self.gamma
        self.s += self.gamma * (v * exponentials).sum() / v.sum()
        self.share *= 1 - self.gamma
        return exponentials / (self.s / (1 - self.share))

    def direction(self, losses, jacobian, v=None):
        """`Σ v_i p_i ∇L_i / Σ v_i` from the losses' Jacobian [*batch, *parameter]."""
        v = np.ones(np.shape(losses)) if v is None else np.asarray(v, np.float64)
        share = v * self.weights(losses, v) / v.sum()
        return np.tensordot(share, np.asarray(jacobian, np.float64), share.ndim)
