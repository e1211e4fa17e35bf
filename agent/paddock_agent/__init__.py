"""Runs one OpenHands agent task through the AI Gateway, traced in MLflow: one process a run."""

__version__ = "0.1.0"
