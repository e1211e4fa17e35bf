"""An admission does not wait for the disk: a PostgreSQL that dies may forget it, and its cost counts all the same."""

from decimal import Decimal
from typing import Any

import pytest
from ledgers import Books, admission, settlement
from sqlalchemy import text

from paddock_mlflow.ledger.types import Outcome


@pytest.mark.parametrize(("cost", "counted"), [("0.10", "0.10"), (None, "0.35")])
def test_a_forgotten_admission_is_written_down_again_at_its_settlement(
    postgres_url: str, cost: str | None, counted: str
) -> None:
    books = Books(postgres_url)
    books.clear()
    policy = books.policy(5)

    async def work(ledger: Any) -> Any:
        kept, forgotten = await admission(ledger), await admission(ledger)
        for asked in (kept, forgotten):
            await ledger.admit(asked)
        # What is left after a crash: the transaction of the second admission was not on the disk.
        with books.engine.begin() as connection:
            connection.execute(
                text("DELETE FROM paddock_calls WHERE call_id = :id"), {"id": forgotten.call_id}
            )
            connection.execute(
                text("UPDATE paddock_budget_windows SET reserved = reserved - :bound"),
                {"bound": forgotten.bound},
            )
        for asked in (kept, forgotten):
            await ledger.settle(settlement(asked.call_id, cost, outcome=Outcome.OK))
        await ledger.settle(settlement(forgotten.call_id, cost, outcome=Outcome.OK))
        return forgotten

    asked = books.run(work)
    assert books.window(policy) == (2 * Decimal(counted), Decimal(0))
    row = books.call(asked.call_id)
    assert (row.username, row.endpoint_id, row.cost_usd) == ("ada", "e-coder", Decimal(counted))
