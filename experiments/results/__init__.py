"""Run directories: logs, metrics and configurations, and how they are read."""
