"""Suites: many tasks, each tried on several models and several times, checked, judged, and compared."""
