"""The figures of training runs, each in a file of its own, by its `draw`."""
