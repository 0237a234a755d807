"""The paper's results for a run."""

import dataclasses

from experiments import configs, presets
from experiments.results import paper


def rows(preset: str | None, run: configs.Run) -> list[tuple[paper.Row, bool]]:
    """The paper's results for a preset; one that is not known has none.

    Each is with whether it is of this very run but for the seed, λ and γ, which are
    there to be chosen, and the files that it starts from.
    """
    try:
        known = presets.get(preset or "")
    except LookupError:
        return []
    own = {
        variant.method
        for variant in known.variants
        if not variant.of
        and _identity(configs.replace(known.run, variant.changes)) == _identity(run)
    }
    return [(row, row.method in own) for row in known.results]


def accuracy(row: paper.Row) -> str:
    """A result as the paper prints it, with a remark if it has one."""
    if not row.printed:
        return "not reported"
    return (
        f"{row.printed} (certainly a misprint)" if "typo" in row.note else row.printed
    )


def _identity(run: configs.Run) -> tuple[configs.Run, str]:
    """A key that is equal for runs that differ only in seed, λ, γ and start files."""
    method, title = run.method, run.method.title
    if title in ("ABSGD", "ABAdam"):
        # γ = 1 is what the paper calls EG.
        gamma = 1.0 if method.gamma == 1.0 else 0.5
        method = dataclasses.replace(method, lam=1.0, gamma=gamma)
    else:
        method = configs.Method()  # how it would weight does not matter
    common = dataclasses.replace(
        run,
        seed=0,
        start_from=None,
        eval_every=1,
        model=dataclasses.replace(run.model, pretrained=None),
        method=method,
    )
    return common, title
