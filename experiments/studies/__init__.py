"""Grids of runs, each with a page of its own."""
