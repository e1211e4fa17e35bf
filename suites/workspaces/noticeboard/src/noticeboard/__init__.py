"""The notices of a house."""

__version__ = "1.4.0"
