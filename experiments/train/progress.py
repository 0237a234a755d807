"""What a person sees of a training: a line an epoch, and the numbers of the bar."""

import contextlib
import dataclasses
import sys
import time
from collections.abc import Callable
from typing import Any

from tqdm import tqdm

from experiments import configs

Event = dict[str, Any]  # of an epoch, as it is logged


def say(message: str) -> None:
    """Writes a message to standard error, above a progress bar if there is one."""
    with contextlib.suppress(OSError):  # a log on a disk that is full
        # In one piece: a line that another thread logs must not end up within it.
        tqdm.write(message + "\n", file=sys.stderr, end="")


@dataclasses.dataclass
class EpochLines:
    """Writes a line after every epoch of a run, by a function that takes lines."""

    run: configs.Run
    write: Callable[[str], None]

    def __post_init__(self) -> None:
        self._last = time.monotonic()
        self._seconds: list[float] = []  # of the epochs of this process

    def __call__(self, event: Event) -> None:
        """Writes the line of an epoch; other events have none."""
        if event.get("event") != "epoch":
            return
        now = time.monotonic()
        self._seconds.append(now - self._last)
        self._last = now
        # The first epoch compiles, and says little of the others.
        measured = self._seconds[1:] or self._seconds
        left = self.run.epochs - event["epoch"]
        eta = left * sum(measured) / len(measured)
        self.write(line(self.run, event, self._seconds[-1], eta))


def line(run: configs.Run, event: Event, seconds: float, eta: float) -> str:
    """An epoch in a line, with the seconds that it took, its evaluation included.

    Such as `epoch 3/30  loss 0.512  val 81.2%  test 83.0%  λ 0.84  effective sample
    71%  2.1 s  ETA 00:57`; an en dash for a split that was not evaluated. λ and the
    effective sample size only for methods that have them. `eta` is in seconds.
    """
    parts = [f"epoch {event['epoch']}/{run.epochs}", f"loss {event['loss']:.3f}"]
    for name, split in (("val", "validation"), ("test", "test")):
        parts.append(f"{name} {_accuracy(event.get(split))}")
    if run.method.attends:
        parts.append(f"λ {float(event['lam']):.3g}")
    if run.method.weights:
        parts.append(f"effective sample {event['effective_sample_size']:.0%}")
    return "  ".join(
        [*parts, f"{seconds:.1f} s", f"ETA {tqdm.format_interval(round(eta))}"]
    )


def accuracies(event: Event | None) -> str:
    """The accuracies of an epoch in words, after a colon; "" where there are none."""
    splits = [(name, (event or {}).get(name)) for name in ("test", "validation")]
    known = [f"{name} accuracy {_accuracy(found)}" for name, found in splits if found]
    return f": {', '.join(known)}" if known else ""


def bar(run: configs.Run, shown: dict[str, float]) -> dict[str, str]:
    """The numbers of a step for the bar, by the names that a person knows."""
    numbers = {"loss": f"{shown['loss']:.3g}"}
    if run.method.weights:
        numbers["effective sample"] = f"{shown['effective']:.0%}"
        numbers["largest weight"] = f"{shown['largest']:.3g}"
    return numbers


def _accuracy(found: dict[str, Any] | None) -> str:
    return "–" if found is None else f"{found['accuracy']:.1%}"
