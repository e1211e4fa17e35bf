"""Counts what the edge servers write."""

__version__ = "2.3.1"
