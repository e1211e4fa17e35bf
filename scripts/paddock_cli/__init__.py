"""Paddock's command line: what `./paddock` starts."""

__version__ = "0.1.0"
