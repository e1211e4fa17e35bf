"""Household accounts in a plain text file."""

__version__ = "0.6.0"
