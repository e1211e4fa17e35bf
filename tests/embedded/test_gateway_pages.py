"""MLflow's pages of the gateway and of judges on the embedded stack."""

import pytest
from pages import GatewayPages, JudgePages

pytestmark = pytest.mark.requires_browser


class TestGatewayPages(GatewayPages):
    """The cases of tests/pages.py."""


class TestJudgePages(JudgePages):
    """The cases of tests/pages.py."""
