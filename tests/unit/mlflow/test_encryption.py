"""Secrets of webhooks: what a process encrypted, every other process of the stack must be able to read."""

from typing import Any

import pytest

from paddock_mlflow.encryption import webhook_key

VARIABLE = "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY"


@pytest.fixture
def column(server: Any) -> Any:
    """MLflow's type of the column; each one made stands for that of another process, which makes its key once."""
    from mlflow.store.model_registry.dbmodels.models import EncryptedString

    return EncryptedString


def test_stock_mlflow_reads_no_webhook_of_another_process(
    column: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cryptography.fernet import InvalidToken

    monkeypatch.delenv(VARIABLE)
    written = column().process_bind_param("signs-with-this", None)
    with pytest.raises(InvalidToken):
        column().process_result_value(written, None)


def test_the_stack_s_processes_share_the_key(column: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, webhook_key("a-token"))
    written = column().process_bind_param("signs-with-this", None)
    monkeypatch.setenv(VARIABLE, webhook_key("a-token"))
    assert column().process_result_value(written, None) == "signs-with-this"
    assert webhook_key("a-token") != webhook_key("another-token")
