"""Programs for accelerators, made without one."""

import re

import jax
from jax import export

PLATFORMS = ("cuda", "tpu")


def exported(function, *arguments, **named):
    """The program of a function for GPUs and TPUs, as text.

    Raises for an operation that one of them has no program for, and for a call of what
    XLA does not promise to keep. No number may be of 64 bits: a GPU is slow at them,
    and a TPU has none.
    """
    made = export.export(jax.jit(function), platforms=PLATFORMS)(*arguments, **named)
    assert made.platforms == PLATFORMS
    program = made.mlir_module()
    assert not re.search("tensor<[^>]*f64>", program)
    return program
