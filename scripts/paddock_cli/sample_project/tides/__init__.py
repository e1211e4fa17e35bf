"""Tide prediction from harmonic constants."""
