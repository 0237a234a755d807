"""What is measured, a suite a module."""
