"""Settings for the whole suite."""

import os

# Before JAX is imported: one CPU device, whatever machine the suite runs on.
os.environ.setdefault("JAX_PLATFORMS", "cpu")

from hypothesis import settings

# Compilation makes first calls slow, and a failure must be the same one tomorrow.
settings.register_profile("jax", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("jax")
