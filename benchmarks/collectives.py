"""Parses the collectives from the text of a compiled program.

Text is the one form in which every version of XLA shows a program that it has
partitioned.
"""

import math
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

_KINDS = (
    "all-gather",
    "all-reduce",
    "all-to-all",
    "collective-broadcast",
    "collective-permute",
    "ragged-all-to-all",
    "reduce-scatter",
)
_HEAVY = ("convolution", "dot")

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(  # root, name, shape, opcode, and the rest of the line
    r"^\s+(ROOT )?%?([\w.\-]+) = (.*?) ([a-z][a-z0-9\-]*)\((.*)$"
)
_CALLED = re.compile(
    r"(?:calls|to_apply|body|condition|\w+_computation|branch_computations)="
    r"(\{[^}]*\}|%?[\w.\-]+)"
)
_ARRAY = re.compile(r"([a-z]+)(\d*)[a-z0-9]*\[([\d,]*)\]")


class Collective(NamedTuple):
    """One collective operation."""

    kind: str  # such as "all-reduce add": the operation, and how it reduces
    arrays: tuple[str, ...]  # ("f32[5]",): what each device has afterwards
    bytes: int  # the size of those
    waiting: int  # convolutions and matrix products that need it, directly or not
    repeated: bool  # whether inside a loop; it counts once here


class Program(NamedTuple):
    """The collectives of a program, in order, and its number of products."""

    collectives: list[Collective]
    heavy: int  # convolutions and matrix products


class _Instruction(NamedTuple):
    root: bool
    name: str
    shape: str
    opcode: str
    called: frozenset[str]  # computations
    operands: frozenset[str]  # instructions


_Computations = dict[str, list[_Instruction]]


def read(text: str) -> Program:
    """Finds every collective of a scheduled program, wherever it is called from.

    A tuple that XLA has combined into one collective counts as one; so does an
    asynchronous pair, with the shape of its `-done`. What a loop repeats counts once,
    and what waits for it is what comes after the loop. The text is that of
    `compiled.as_text()`; `ValueError` if there is no entry computation in it.
    """
    computations, entry = _parse(text)
    steps = [(step, [*_inside(step, computations)]) for step in computations[entry]]
    heavy = {
        step.name: sum(each.opcode in _HEAVY for each in inside)
        for step, inside in steps
    }
    found = []
    for position, (step, inside) in enumerate(steps):
        for each in inside:
            kind = each.opcode.removesuffix("-done")
            if kind in _KINDS:
                arrays, sizes = zip(*_arrays(each.shape), strict=True)
                found.append(
                    Collective(
                        " ".join([kind, *_reduction(each, computations)]),
                        arrays,
                        sum(sizes),
                        sum(heavy[name] for name in _after(steps[position:])),
                        step.opcode == "while",
                    )
                )
    return Program(found, sum(heavy.values()))


def _parse(text: str) -> tuple[_Computations, str]:
    """Every computation's instructions, and the name of the entry."""
    computations: _Computations = {}
    entry, current = None, []
    for line in text.splitlines():
        if opened := _COMPUTATION.match(line):
            current = computations.setdefault(opened[2], [])
            entry = opened[2] if opened[1] else entry
        elif found := _INSTRUCTION.match(line):
            root, *words, rest = found.groups()
            names = " ".join(_CALLED.findall(rest))
            called = frozenset(re.findall(r"[\w.\-]+", names))
            operands = frozenset(re.findall(r"%([\w.\-]+)", rest)) - called
            current.append(_Instruction(root is not None, *words, called, operands))
    if entry is None:
        raise ValueError(f"No entry computation in this text: {text[:80]!r}...")
    return computations, entry


def _inside(
    instruction: _Instruction, computations: _Computations
) -> Iterator[_Instruction]:
    """An instruction, and all that it calls."""
    yield instruction
    if instruction.opcode not in ("async-update", "async-done"):  # the start did
        for name in instruction.called:
            for each in computations.get(name, []):
                yield from _inside(each, computations)


def _after(steps: list[tuple[_Instruction, Any]]) -> Iterator[str]:
    """Names of those that need the first one; a scheduled program is in order."""
    needing = {steps[0][0].name}
    for instruction, _ in steps[1:]:
        if instruction.operands & needing:
            needing.add(instruction.name)
            yield instruction.name


def _reduction(instruction: _Instruction, computations: _Computations) -> list[str]:
    """The reduction of a collective: the root of what it, or its start, calls."""
    called = {*instruction.called}
    for instructions in computations.values():
        for each in instructions:
            if each.name in instruction.operands and each.opcode.endswith("-start"):
                called |= each.called
    return [each.opcode for name in called for each in computations[name] if each.root]


def _arrays(shape: str) -> Iterator[tuple[str, int]]:
    """Each array of a shape that may be a tuple: its type, and its bytes."""
    for found in _ARRAY.finditer(shape):
        letters, bits, dimensions = found.groups()
        count = math.prod(int(n) for n in dimensions.split(",") if n)
        size = 1 if letters == "pred" else int(bits or 0) / 8
        yield found[0], math.ceil(count * size)
