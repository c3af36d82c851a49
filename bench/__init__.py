"""Measurements of what the agent costs: see run.sh."""
