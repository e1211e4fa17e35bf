"""Small tools for text."""

__version__ = "3.1.0"
