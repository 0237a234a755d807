"""Which modules pytest does not look for examples in."""

collect_ignore = ["torch_worker.py"]  # PyTorch is not among what we need
