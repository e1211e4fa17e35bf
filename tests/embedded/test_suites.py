"""Suites on the embedded stack."""

from suite_cases import Suites


class TestSuites(Suites):
    """The cases of tests/suite_cases.py."""
