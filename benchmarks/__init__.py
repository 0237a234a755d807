"""`python -m experiments bench`: the cost of steps, loaders and whole trainings.

How to read the tables: docs/measured/overhead.md. Every variant is a process of its
own; all are warm before the first is timed, then timed in turn, in a new random order
every round. A ratio is taken within a round.

FLOPs and bytes are the compiler's own account of the compiled program. They are the
same on every run, and `tests/test_costs_guard.py` holds them.

A suite is a module in `suites`: `measure` yields groups of variants. `trainer_step` has
the trainer's own step of a run, `library_step` SGD and the library's routes without the
trainer; both are compiled from shapes before any array is allocated, and `step_cost`
reads what they cost. `interleave` measures; the measured processes are `worker`, and
`torch_worker` for PyTorch.
"""
