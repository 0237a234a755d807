"""The paper's experiments. Run with `python -m experiments`."""
