"""A proxy on loopback, with the outside played by servers of the test."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT / "services" / "egress"), str(Path(__file__).parent)]

from outside import Outside  # noqa: E402


@pytest.fixture(scope="session")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outside]:
    """TLS servers with certificates of a test authority."""
    with Outside(tmp_path_factory.mktemp("outside")) as running:
        yield running
