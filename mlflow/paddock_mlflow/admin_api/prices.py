"""Prices of the declared configuration: list, set, remove. A change counts everywhere within a few seconds."""

from decimal import Decimal
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException
from pydantic import BaseModel, ConfigDict, Field

from paddock_mlflow import declared_prices
from paddock_mlflow.database import engine, raise_config_version
from paddock_mlflow.settings import load

router = APIRouter(prefix="/prices")

Amount = Annotated[Decimal, Field(ge=0, le=1_000_000, max_digits=18, decimal_places=10)]


class Price(BaseModel):
    """USD per million tokens; a kind of token without a price of its own has that of the wider kind."""

    model_config = ConfigDict(extra="forbid")

    kind: str = Field(min_length=1, max_length=64)
    model: str = Field(min_length=1, max_length=200)
    input: Amount
    output: Amount
    cache_read: Amount | None = None
    cache_write: Amount | None = None
    cache_write_1h: Amount | None = None
    reasoning: Amount | None = None


@router.get("")
def list_prices() -> dict[str, Any]:
    """Amounts are texts: JSON's numbers are not exact."""
    with engine(load().tracking_database).connect() as connection:
        rows = declared_prices.read(connection)
    return {
        "prices": [
            {
                name: f"{value.normalize():f}" if isinstance(value, Decimal) else value
                for name, value in row.items()
            }
            for row in rows
        ]
    }


@router.put("")
def set_price(price: Price) -> dict[str, Any]:
    """Set the price of a model, whether or not it had one."""
    table = declared_prices.table
    with engine(load().tracking_database).begin() as connection:
        connection.execute(table.delete().where(*_is(price.kind, price.model)))
        connection.execute(table.insert().values(**price.model_dump()))
        raise_config_version(connection)
    return {}


@router.delete("")
def remove_price(kind: str, model: str) -> dict[str, Any]:
    """From now on MLflow's catalogue holds for the model. 404 where it has no declared price."""
    with engine(load().tracking_database).begin() as connection:
        removed = connection.execute(declared_prices.table.delete().where(*_is(kind, model))).rowcount
        if not removed:
            raise HTTPException(
                404,
                f"expected a declared price of {kind}/{model}, found none; list them: GET /api/3.0/paddock/prices",
            )
        raise_config_version(connection)
    return {}


def _is(kind: str, model: str) -> tuple[Any, ...]:
    columns = declared_prices.table.c
    return columns.kind == kind, columns.model == model
