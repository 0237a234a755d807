"""`python -m experiments bench`: the cost of steps, loaders and whole trainings.

How to read the tables. Every variant runs in a process of its own. All are compiled and
warm before the first is timed; then they are timed in turn, in a new random order every
round, so that a machine that slows down slows them all. A sample is the mean time of a
step over some steps. A ratio is taken within a round, variant over baseline, and
reported as the median over the rounds with its quartiles: ratios can be compared
between machines. Seconds are printed too, and hold for this machine and day.

Some suites have the baseline a second time, in another process. Its ratio is the noise
of the measurement: no ratio is known better than that.

FLOPs and bytes are the compiler's own account of the compiled program. They are the
same on every run, and `tests/test_costs_guard.py` holds them.

A suite is a module in `suites`: `measure` yields groups of variants. `trainer_step` has
the trainer's own step of a run, `library_step` SGD and the library's routes without the
trainer; both are compiled from shapes before any array is allocated, and `step_cost`
reads what they cost. `interleave` measures; the measured processes are `worker`, and
`torch_worker` for PyTorch.
"""
