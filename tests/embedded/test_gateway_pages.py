"""MLflow's pages of the gateway on the embedded stack."""

import pytest
from pages import GatewayPages

pytestmark = pytest.mark.requires_browser


class TestGatewayPages(GatewayPages):
    """The cases of tests/pages.py."""
