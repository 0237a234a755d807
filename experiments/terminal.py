"""What a terminal can show, and when it may interrupt. Imports no JAX."""

import codecs
import os
import signal
import sys
from typing import Any

# In place of what an encoding such as ASCII or cp1252 lacks; everything else is "?".
_SPELLED = {
    "λ": "lambda", "γ": "gamma", "ρ": "rho", "β": "beta", "η": "eta", "α": "alpha",
    "Σ": "sum", "∇": "grad", "√": "sqrt", "∞": "inf", "±": "+-", "×": "x", "·": "*",
    "−": "-", "–": "-", "—": "-", "─": "-", "│": "|", "→": "->", "≤": "<=", "≥": ">=",
    "≈": "~", "…": "...", "’": "'", "ö": "oe", "é": "e", "²": "^2",
    **dict.fromkeys("╭╮╰╯┌┐└┘├┤┬┴┼", "+"),
}  # fmt: skip
_ERRORS = "experiments.spelled"


def spell() -> None:
    """Lets standard output and error spell out what their encoding lacks.

    One that is closed takes everything, and shows nothing.
    """
    codecs.register_error(_ERRORS, _spelled)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed, as by >&-
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        stream = getattr(sys, name)
        if hasattr(stream, "reconfigure"):  # not what replaces them under a notebook
            stream.reconfigure(errors=_ERRORS)


def _spelled(error: UnicodeEncodeError) -> tuple[str, int]:
    missing = error.object[error.start : error.end]
    # Paths that are not UTF-8 have surrogates.
    return "".join(_SPELLED.get(c, "?") for c in missing), error.end


def _end_at_once(*_: Any) -> None:
    os._exit(130)


def quiet_interrupts() -> None:
    """Lets Ctrl-C end the process at once, while it imports and nothing has begun.

    As an exception inside an import it would be a traceback, or another exception.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end_at_once)


def usual_interrupts() -> None:
    """Undoes `quiet_interrupts`: Ctrl-C raises KeyboardInterrupt again."""
    if signal.getsignal(signal.SIGINT) is _end_at_once:
        signal.signal(signal.SIGINT, signal.default_int_handler)
