"""Presets, named runs: every table and figure of both versions of the paper.

The presets of a recipe are a module here. The `doc` of each says how to run it, what
that costs, what the paper has for it and where it departs from the paper. `NAME_smoke`
is the preset NAME made so small that it is over in seconds. Imports no JAX.
"""

import difflib
import functools

from experiments import commands, configs
from experiments.presets import (
    cifar_imbalance,
    cifar_noise,
    clothing1m,
    digits,
    imdb_and_covid_lt,
    own,
    two_stages,
)
from experiments.presets._cost import steps_per_epoch
from experiments.presets._listing import table
from experiments.presets._preset import Preset, Variant, smoke_preset
from experiments.presets._smoke import smoke

__all__ = [
    "Preset",
    "UnknownPreset",
    "Variant",
    "every",
    "get",
    "listing",
    "main",
    "smoke",
    "steps_per_epoch",
]

_SMOKE = "_smoke"
# What a newcomer wants: what runs at once, and the paper's two kinds of data.
_FIRST = ("digits_long_tail", "digits_label_noise", "cifar10_lt100", "cifar10_sym40")


class UnknownPreset(configs.BadConfiguration, LookupError):
    """There is no preset of that name; the message says which there are."""


@functools.cache
def every() -> tuple[Preset, ...]:
    """All presets but the smoke presets and those for your own data."""
    return tuple(
        preset
        for family in (
            digits,
            cifar_imbalance,
            cifar_noise,
            two_stages,
            imdb_and_covid_lt,
            clothing1m,
        )
        for preset in family.presets()
    )


def get(name: str) -> Preset:
    """The preset of a name, which may end in `_smoke`.

    UnknownPreset if there is none; it suggests one.

    Examples:
      >>> get("cifar10_lt100").run.epochs
      200
      >>> get("cifar10_lt100_smoke").run.epochs
      3
    """
    published = {preset.name: preset for preset in every()}
    known = published | {preset.name: preset for preset in own.presets()}
    if name in known:
        return known[name]
    base = name.removesuffix(_SMOKE)
    if base in published:
        return smoke_preset(published[base], smoke(published[base].run))
    close = difflib.get_close_matches(base, known, n=3, cutoff=0.6)
    meant = f" Did you mean {' or '.join(close)}?" if close else ""
    raise UnknownPreset(
        f"There is no preset {name!r}.{meant} "
        "`python -m experiments list` has them all."
    )


def listing(pattern: str | None = None) -> str:
    """Data, models, schedules and costs in lines of at most 110 characters.

    Of the presets whose names contain the pattern, or of all; UnknownPreset if there
    are none.
    """
    known = (*own.presets(), *every())
    chosen = [preset for preset in known if (pattern or "") in preset.name]
    if not chosen:
        raise UnknownPreset(
            f"No preset has {pattern!r} in its name. `python -m experiments list` has "
            "them all."
        )
    return table(chosen, () if pattern else [get(name) for name in _FIRST])


def main(config: commands.List) -> int:
    """Prints the presets of a pattern."""
    print(listing(config.pattern))
    return 0
