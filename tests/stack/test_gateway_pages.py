"""MLflow's pages of the gateway on the Compose stack."""

import pytest
from pages import GatewayPages

pytestmark = pytest.mark.requires_browser


class TestGatewayPages(GatewayPages):
    """The cases of tests/pages.py."""
