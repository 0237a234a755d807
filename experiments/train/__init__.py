"""The training step, its loops, checkpoints and run directories."""
