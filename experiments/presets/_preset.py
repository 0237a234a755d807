"""`Preset`, a named run, and its description."""

import dataclasses
import textwrap
from collections.abc import Mapping
from typing import Any, NamedTuple

from experiments import configs
from experiments.presets import _cost
from experiments.results.paper import VERSIONS, Key, Row, lookup

_COLUMNS = 80
PRETRAINED = "Weights trained on ImageNet, named as torchvision's {} names them"
# How images of 224 × 224 pixels are augmented and normalised.
IMAGENET_INPUTS: dict[str, Any] = {
    "image_size": 224,
    "resized_crop": True,
    "flip": True,
    "jitter": 0.4,
    "mean": (0.485, 0.456, 0.406),
    "std": (0.229, 0.224, 0.225),
}


class Variant(NamedTuple):
    """A row of the paper's table, as changes of the preset's run."""

    method: str  # as printed
    changes: Mapping[str, Any] = {}  # of the run, as in `configs.replace`
    of: str = ""  # name of another preset that the row is to be had from; "" for none

    @property
    def flags(self) -> str:
        """The changes on the command line."""
        return " ".join(_flag(name, value) for name, value in self.changes.items())

    @property
    def how(self) -> str:
        """How to run the row, in words or flags."""
        return f"see {self.of}" if self.of else self.flags or "as it is"


@dataclasses.dataclass(frozen=True)
class Preset:
    """A run with a name."""

    name: str  # on the command line
    family: str  # heading under which it is listed
    title: str  # what it is, in one line
    run: configs.Run
    paper: tuple[Key, ...] = ()  # blocks of the paper's tables that have its numbers
    # Its rows there: the run's own (without changes), and those to compare with it.
    variants: tuple[Variant, ...] = ()
    figures: tuple[str, ...] = ()  # of the paper, that are drawn from it
    choice: str = ""  # where the run's λ and γ come from, and how to choose λ
    note: str = ""  # how it differs from the paper, and what the paper does not give
    needs: str | None = None  # preset whose finished run this one starts from
    pretrained: str = ""  # description of the file of weights that the run needs
    smoke: bool = False

    @property
    def cost(self) -> str:
        """Steps, and time where it is known, in plain words."""
        if self.smoke:
            return "Seconds; more where thousands of classes have an image each."
        return _cost.cost(self.run)

    @property
    def results(self) -> tuple[Row, ...]:
        """The paper's results of its variants."""
        methods = {variant.method for variant in self.variants}
        return tuple(
            row for key in self.paper for row in lookup(key) if row.method in methods
        )

    @property
    def command(self) -> str:
        """Its command line."""
        command = f"python -m experiments train {self.name}"
        if self.run.data.info.own:
            command += " --data.path PATH"
        if self.run.data.info.directory:
            command += " --data-dir DIR"
        if self.pretrained:
            command += " --model.pretrained FILE"
        if self.needs is not None:
            command += f" --start-from runs/{self.needs}"
        return command

    @property
    def doc(self) -> str:
        """Its description: command, cost, the paper's numbers, differences from it.

        Lines that are not headings are indented, so that `--help` does not wrap them.
        """
        parts = [f"{self.title}.\n  {self.command}"]
        if self.pretrained:
            parts.append(_section("FILE", f"{self.pretrained}."))
        if self.needs is not None:
            stands = f"Stands for the directory of a finished run of {self.needs}."
            parts.append(_section(f"runs/{self.needs}", stands))
        parts.append(_section("Cost", self.cost))
        if self.results:
            parts.append(self._table())
        if self.figures:
            parts.append(_section("Figures", "; ".join(self.figures) + "."))
        if self.choice:
            parts.append(_section("λ and γ", self.choice))
        if self.note:
            parts.append(_section("Compared with the paper", self.note))
        return "\n\n".join(parts) + "\n"

    def _table(self) -> str:
        """The paper's numbers, version by version, and the flags of every row."""
        lines = ["The paper: accuracy on the test set, percent"]
        cells = [
            (
                f"{VERSIONS[row.version]}, Table {row.table}",
                row.method + ("" if row.metric == "top1" else f", {row.metric}"),
                row.printed or "not reported",
                f"{row.runs} runs" if row.runs else "",
                "certainly a misprint" if "typo" in row.note else "",
            )
            for row in self.results
        ]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        for row in cells:
            padded = map(str.ljust, row, widths)
            lines.append(f"  {'  '.join(padded)}".rstrip())
        lines += ["", "How its rows are run"]
        for variant in self.variants:
            lines.append(_filled(f"{variant.method}: {variant.how}"))
        return "\n".join(lines)


def smoke_preset(preset: Preset, run: configs.Run) -> Preset:
    """The smoke preset of a preset: same family, without numbers of the paper."""
    return Preset(
        f"{preset.name}_smoke",
        preset.family,
        f"{preset.title}, made small",
        run,
        note="A tiny network on a few examples, to see that everything runs.",
        needs=preset.needs and f"{preset.needs}_smoke",
        smoke=True,
    )


def _flag(name: str, value: Any) -> str:
    """One field on the command line."""
    name = name.replace("_", "-")
    if isinstance(value, bool):
        group, _, field = name.rpartition(".")
        return f"--{group}.{'' if value else 'no-'}{field}"
    values = value if isinstance(value, tuple | list) else [value]
    shown = (f"{one:g}" if isinstance(one, float) else str(one) for one in values)
    return " ".join([f"--{name}", *shown])


def _section(heading: str, text: str) -> str:
    return f"{heading}\n{_filled(text)}"


def _filled(text: str) -> str:
    """A paragraph, indented; flags are not broken at their hyphens."""
    return textwrap.fill(
        text,
        _COLUMNS,
        initial_indent="  ",
        subsequent_indent="  ",
        break_on_hyphens=False,
        break_long_words=False,
    )
