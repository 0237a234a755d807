"""The suites of the benchmark, one per module."""
