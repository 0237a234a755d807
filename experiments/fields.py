"""What the annotations of a configuration's fields declare: bounds, and who reads them.

`Checked` refuses numbers out of bounds, or that float32 does not hold. A field that is
an `Argument` of the compiled step, or that only the `Host` reads, does not decide which
program is compiled, and `compiled` takes it out; every other field is compiled in.
"""

import dataclasses
import functools
import math
import typing
from collections.abc import Callable, Iterator
from typing import Annotated, Any, NamedTuple, TypeVar

T = TypeVar("T")


class Bound(NamedTuple):
    """Declares a bound of a number, of one that may be None, or of those of a tuple."""

    rule: str  # after "must"
    kept: Callable[[Any], bool]  # False for NaN


def _at_most(most: int) -> Bound:
    return Bound(f"be at most {most:,}", lambda n: n <= most)


_INT32 = _at_most(2**31 - 1)  # what JAX takes for a seed, and an index
_POSITIVE = Bound("be at least 1", lambda n: n >= 1)
Count = Annotated[int, Bound("not be negative", lambda n: n >= 0), _INT32]
Size = Annotated[int, _POSITIVE, _INT32]
SmallSize = Annotated[int, _POSITIVE, _at_most(2**16)]  # all are in memory at once
AtLeastTwo = Annotated[int, Bound("be at least 2", lambda n: n >= 2), _at_most(2**20)]
NotNegative = Annotated[
    float, Bound("be finite and not negative", lambda x: 0.0 <= x < math.inf)
]
Positive = Annotated[float, Bound("be positive", lambda x: x > 0.0)]
Finite = Annotated[float, Bound("be finite", math.isfinite)]
PositiveFinite = Annotated[
    float, Bound("be positive and finite", lambda x: 0.0 < x < math.inf)
]
Nonzero = Annotated[float, Bound("be nonzero", lambda x: x < 0.0 or x > 0.0)]
AtLeastOne = Annotated[float, Bound("be at least 1", lambda x: x >= 1.0)]
Share = Annotated[float, Bound("lie in [0, 1]", lambda x: 0.0 <= x <= 1.0)]
PositiveShare = Annotated[float, Bound("lie in (0, 1]", lambda x: 0.0 < x <= 1.0)]
BelowOne = Annotated[float, Bound("lie in [0, 1)", lambda x: 0.0 <= x < 1.0)]
# Devices take smaller numbers for 0, and divide by some, and larger ones for inf.
_FLOAT32 = Bound(
    "be a float32: 0, infinite, or from 1.2e-38 to 3.4e38 in size",
    lambda x: x in (0.0, math.inf, -math.inf) or 2.0**-126 <= abs(x) <= 3.4e38,
)


class NotCompiled(NamedTuple):
    """Declares that no program has the value of a field compiled in."""

    where: Callable[[Any], bool] = lambda _: True  # in which configurations


Argument = Annotated[T, NotCompiled()]  # the compiled step gets it with each update
Host = Annotated[T, NotCompiled()]  # schedules, examples, files and bookkeeping


class Checked:
    """Base of a dataclass whose numbers must keep to their bounds.

    Raises:
      ValueError: a number does not; quotes the field, the rule and the number.
    """

    def __post_init__(self) -> None:
        for name, declared in _declared(type(self)).items():
            value = getattr(self, name)
            bounds = [each for each in declared if isinstance(each, Bound)]
            for number in value if isinstance(value, tuple) else (value,):
                for bound in [*bounds, _FLOAT32] if bounds else ():
                    if number is not None:
                        rule = f"{name} must {bound.rule}, got {number}."
                        refuse(not bound.kept(number), rule)


def refuse(condition: object, message: str) -> None:
    """Raises ValueError with the message if the condition holds."""
    if condition:
        raise ValueError(message)


def changed(config: Any, *names: str) -> str:
    """Those of the fields that do not have their defaults, with commas between them."""
    others = (n for n in names if getattr(config, n) != getattr(type(config), n))
    return ", ".join(others)


@functools.cache
def _declared(config: type) -> dict[str, tuple[Any, ...]]:
    """What the annotations of a dataclass declare, by field."""

    def metadata(hint: Any) -> Iterator[Any]:
        yield from getattr(hint, "__metadata__", ())
        for part in typing.get_args(hint):
            yield from metadata(part)

    hints = typing.get_type_hints(config, include_extras=True)
    return {f.name: (*metadata(hints[f.name]),) for f in dataclasses.fields(config)}


class _LeftOut:
    """Stands for a value that is left out of a configuration."""

    def __bool__(self) -> typing.NoReturn:
        raise TypeError("This field is left out: nothing here may depend on it.")


_LEFT_OUT = _LeftOut()


def only(config: T, *names: str, **values: Any) -> T:
    """A copy of a frozen dataclass with these fields, some of other values.

    It has no others, and is not checked. To compute with another field of it, or to
    take that for a truth value, is a TypeError.
    """
    copy = object.__new__(type(config))
    for name in _declared(type(config)):
        own = getattr(config, name) if name in names else _LEFT_OUT
        object.__setattr__(copy, name, values.get(name, own))
    return copy


def compiled(config: T) -> T:
    """A copy of a configuration with `only` what is compiled into programs.

    Configurations with equal copies share their programs.
    """
    kept = [
        name
        for name, declared in _declared(type(config)).items()
        if not any(isinstance(m, NotCompiled) and m.where(config) for m in declared)
    ]
    copy = only(config, *kept)
    for name in kept:
        if dataclasses.is_dataclass(value := getattr(config, name)):
            object.__setattr__(copy, name, compiled(value))
    return copy
