"""What lies in the stockroom, where, and for whom."""

__version__ = "0.9.2"
