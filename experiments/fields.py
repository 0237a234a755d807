"""What the annotations of a configuration's fields declare: bounds, and who reads them.

A number's bounds are `annotated_types`, which pydantic checks too when it reads a file;
`Checked` refuses a value outside of them. A field that is an `Argument` of the compiled
step, or read by the `Host` only, does not decide which program is compiled: `compiled`
takes it out. Every other field is compiled in.
"""

import dataclasses
import functools
import math
import typing
from collections.abc import Callable, Iterator
from typing import Annotated, Any, TypeVar

from annotated_types import Interval, Predicate

T = TypeVar("T")


def _nonzero(number: float) -> bool:
    return number < 0.0 or number > 0.0  # NaN is neither


Count = Annotated[int, Interval(ge=0)]
Size = Annotated[int, Interval(ge=1)]
NotNegative = Annotated[float, Interval(ge=0)]
Positive = Annotated[float, Interval(gt=0)]
AtLeastOne = Annotated[float, Interval(ge=1)]
Finite = Annotated[float, Interval(gt=-math.inf, lt=math.inf)]
PositiveFinite = Annotated[float, Interval(gt=0, lt=math.inf)]
Share = Annotated[float, Interval(ge=0, le=1)]
PositiveShare = Annotated[float, Interval(gt=0, le=1)]
BelowOne = Annotated[float, Interval(ge=0, lt=1)]
Nonzero = Annotated[float, Predicate(_nonzero)]


@dataclasses.dataclass(frozen=True)
class NotCompiled:
    """Marks a field whose value no program has compiled in.

    Attributes:
      but_none: whether programs differ between None and numbers all the same.
      where: whether the mark holds for a configuration; for all by default.
    """

    but_none: bool = False
    where: Callable[[Any], bool] = lambda _: True


# Runs that differ only in such fields share their programs.
Argument = Annotated[T, NotCompiled(but_none=True)]  # the compiled step takes its value
Host = Annotated[T, NotCompiled()]  # schedules, examples, files and bookkeeping


class Checked:
    """Base of a dataclass whose numbers stay within the bounds of their annotations.

    None is within all bounds; a tuple is, if each of its elements is.

    Raises:
      ValueError: a number is not; quotes the field, the rule and the number.
    """

    def __post_init__(self) -> None:
        for name, declared in _declared(type(self)).items():
            value = getattr(self, name)
            for number in value if isinstance(value, tuple) else (value,):
                for bounds in declared:
                    if number is not None and (rule := _broken(bounds, number)):
                        raise ValueError(f"{name} must {rule}, got {number}.")


def refuse(condition: bool, message: str) -> None:
    """Raises ValueError with the message if the condition holds."""
    if condition:
        raise ValueError(message)


@functools.cache
def _declared(config: type) -> dict[str, tuple[Any, ...]]:
    """What the annotations of a dataclass declare, by field."""
    hints = typing.get_type_hints(config, include_extras=True)
    return {f.name: (*_metadata(hints[f.name]),) for f in dataclasses.fields(config)}


def _metadata(hint: Any) -> Iterator[Any]:
    """The metadata of an annotation and of the types in it."""
    yield from getattr(hint, "__metadata__", ())
    for part in typing.get_args(hint):
        yield from _metadata(part)


def _broken(bounds: Any, number: Any) -> str | None:
    """The rule that a number breaks, None if it keeps to the bounds."""
    match bounds:
        case Predicate():
            kept, rule = bounds.func(number), "be nonzero"
        case Interval(gt=gt, ge=ge, lt=lt, le=le):
            kept = (
                (gt is None or number > gt)
                and (ge is None or number >= ge)
                and (lt is None or number < lt)
                and (le is None or number <= le)
            )
            match gt, ge, lt, le:
                case None, 0, None, None:
                    rule = "not be negative"
                case None, _, None, None:
                    rule = f"be at least {ge}"
                case 0, None, None, None:
                    rule = "be positive"
                case 0, None, math.inf, None:
                    rule = "be positive and finite"
                case _, None, math.inf, None:
                    rule = "be finite"
                case _:
                    low = f"({gt}" if ge is None else f"[{ge}"
                    high = f"{lt})" if le is None else f"{le}]"
                    rule = f"lie in {low}, {high}"
        case _:
            return None
    return None if kept else rule


class _Missing:
    """Stands for a value that is left out of a configuration."""

    def __bool__(self) -> typing.NoReturn:
        raise TypeError("This field is left out: nothing here may depend on it.")

    def __repr__(self) -> str:
        return "(left out)"


_MISSING = _Missing()


def only(config: T, *names: str) -> T:
    """A copy of a configuration with some of its fields.

    Args:
      config: a frozen dataclass.
      names: the fields.

    Returns:
      The copy, not checked. To compute with another field of it, or to take that for a
      truth value, is a TypeError.
    """
    copy = object.__new__(type(config))
    for name in _declared(type(config)):
        value = getattr(config, name) if name in names else _MISSING
        object.__setattr__(copy, name, value)
    return copy


def compiled(config: T) -> T:
    """A copy of a configuration with only the fields that are compiled into programs.

    Args:
      config: a frozen dataclass.

    Returns:
      The copy, as `only` makes it. Configurations with equal copies share programs.
    """
    declared = _declared(type(config))
    copy = only(config, *(name for name in declared if _compiled(config, name)))
    for name in declared:
        if dataclasses.is_dataclass(value := getattr(copy, name)):
            object.__setattr__(copy, name, compiled(value))
    return copy


def _compiled(config: Any, name: str) -> bool:
    """Whether programs depend on a field of a configuration."""
    return not any(
        mark.where(config) and not (mark.but_none and getattr(config, name) is None)
        for mark in _declared(type(config))[name]
        if isinstance(mark, NotCompiled)
    )
