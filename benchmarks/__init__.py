"""`python -m experiments bench`: what a step costs, and what surrounds it.

How to read it. Every contender runs in a process of its own. All are built and warm
before the first is timed; then they are asked in turn, in an order drawn anew for every
round, so that a machine that slows down slows them all. A sample is the mean time of
the steps of one turn. A ratio is taken within a round, contender over baseline, and
reported as the median over the rounds with its quartiles: that is what can be compared
between machines. Seconds are printed too, and say what this machine did that day.

Where a suite has a contender that is the baseline a second time, in another process,
its ratio is what two equal things differ by here: no ratio is known better than that.

FLOPs and bytes are the compiler's own account of the compiled program. They are the
same on every run, and `tests/test_costs_guard.py` holds them.

A suite is a module in `suites`: `measure` gives groups of contenders. Who measures is
`interleave`, who is measured `worker`, and `torch_worker` for PyTorch.
"""
