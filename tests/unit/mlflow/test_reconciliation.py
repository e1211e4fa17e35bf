"""Hundreds of calls, and three accounts of what they cost: the ledger's, the usage traces', and price × tokens by hand.

The calls go through the whole application to a provider over HTTP, in every protocol, whole and streamed.
"""

import json
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import provider_answers as answers
import pytest
from identities import ADMIN
from scripted_provider import Answer, ScriptedProvider, make_endpoint, scripted_provider
from sqlalchemy import func, select, text
from tenacity import retry, stop_after_delay, wait_fixed

from paddock_mlflow.ledger.types import Usage

CALLS = 240
EXACT = Decimal("0.00001")
"""A cent-thousandth: what the accounts may differ by in all."""


@dataclass(frozen=True)
class PriceList:
    """USD per million tokens, from the providers' own pages; not from the catalogue that is under test."""

    input: str
    cache_read: str
    cache_write: str
    output: str
    reasoning: str

    def cost(self, usage: Usage) -> Decimal:
        plain = usage.input - usage.cache_read - usage.cache_write
        parts = (
            (plain, self.input),
            (usage.cache_read, self.cache_read),
            (usage.cache_write, self.cache_write),
            (usage.output - usage.reasoning, self.output),
            (usage.reasoning, self.reasoning),
        )
        return sum((count * Decimal(price) for count, price in parts), Decimal(0)) / 1_000_000


MINI = PriceList("0.15", "0.075", "0.15", "0.6", "0.6")
CLAUDE = PriceList("3", "0.3", "3.75", "15", "15")
# Prompts of more than 200 000 tokens.
CLAUDE_LONG = PriceList("6", "0.6", "7.5", "22.5", "22.5")
EMBEDDING = PriceList("0.02", "0.02", "0.02", "0", "0")
# A model of our own, whose reasoning has a price of its own.
REASONER = PriceList("1", "0.1", "1", "4", "7")


@dataclass(frozen=True)
class Kind:
    """A way to call, and how the provider answers it."""

    path: str
    endpoint: str
    body: dict[str, Any]
    answer: Callable[[str, Usage], dict[str, Any] | bytes]
    model: str
    prices: PriceList
    writes_cache: bool = False
    reasons: bool = True


CHAT = {"messages": [{"role": "user", "content": "hi"}]}
STREAM = CHAT | {"stream": True}
CLAUDES = {"max_tokens": 100} | CHAT
UNIFIED, OPENAI = "/gateway/mlflow/v1/chat/completions", "/gateway/openai/v1/chat/completions"
RESPONSES, ANTHROPIC = "/gateway/openai/v1/responses", "/gateway/anthropic/v1/messages"
SONNET, GPT, OWN, SMALL = "claude-sonnet-4-5", "gpt-4o-mini", "reconciled-reasoner", "text-embedding-3-small"
MESSAGES, MESSAGES_STREAM = answers.messages, answers.messages_stream

KINDS = [
    Kind(UNIFIED, "sums-openai", CHAT, answers.chat, GPT, MINI),
    Kind(UNIFIED, "sums-openai", STREAM, answers.chat_stream, GPT, MINI),
    Kind(OPENAI, "sums-openai", CHAT, answers.chat, GPT, MINI),
    Kind(OPENAI, "sums-openai", STREAM, answers.chat_stream, GPT, MINI),
    Kind(RESPONSES, "sums-openai", {"input": "hi"}, answers.responses, GPT, MINI),
    Kind(RESPONSES, "sums-openai", {"input": "hi", "stream": True}, answers.responses_stream, GPT, MINI),
    Kind("/gateway/openai/v1/embeddings", "sums-embeddings", {"input": "hi"}, answers.embeddings, SMALL, EMBEDDING),
    Kind(ANTHROPIC, "sums-anthropic", CLAUDES, MESSAGES, SONNET, CLAUDE, writes_cache=True, reasons=False),
    Kind(ANTHROPIC, "sums-anthropic", CLAUDES | {"stream": True}, MESSAGES_STREAM, SONNET, CLAUDE, True, False),
    Kind(UNIFIED, "sums-anthropic", CLAUDES, MESSAGES, SONNET, CLAUDE, writes_cache=True, reasons=False),
    Kind(UNIFIED, "sums-anthropic", CLAUDES | {"stream": True}, MESSAGES_STREAM, SONNET, CLAUDE, True, False),
    Kind(OPENAI, "sums-own", CHAT, answers.chat, OWN, REASONER),
    Kind(UNIFIED, "sums-own", STREAM, answers.chat_stream, OWN, REASONER),
]  # fmt: skip


@dataclass
class Books:
    """The endpoints, and what was called."""

    server: Any
    provider: ScriptedProvider
    endpoints: dict[str, tuple[str, str]]
    expected: dict[str, Decimal]
    made: int = 0


@pytest.fixture(scope="module")
def books(server: Any) -> Iterator[Books]:
    from paddock_mlflow import settings, upstreams

    allowed = settings.load().private_upstreams
    with own_price(OWN, REASONER), scripted_provider() as provider:
        upstreams.allow(allowed | {provider.address})
        made = Books(server, provider, {}, {})
        for name, model in {
            "sums-openai": f"openai/{GPT}",
            "sums-embeddings": f"openai/{SMALL}",
            "sums-anthropic": f"anthropic/{SONNET}",
            "sums-own": f"openai/{OWN}",
        }.items():
            made.endpoints[name] = make_endpoint(server, name, [model], provider.url)
        call_all(made)
        yield made
        upstreams.allow(allowed)


class own_price:
    """A model of one's own in the catalogue that the server reads, while the tests run."""

    def __init__(self, model: str, prices: PriceList) -> None:
        import os

        self._file = Path(urlparse(os.environ["MLFLOW_MODEL_CATALOG_URI"]).path) / "openai.json"
        self._before = self._file.read_bytes()
        self._model, self._prices = model, prices

    def __enter__(self) -> None:
        from paddock_mlflow.pricing import REREAD_SECONDS

        catalogue = json.loads(self._before)
        pricing = {f"{kind}_per_million_tokens": float(price) for kind, price in vars(self._prices).items()}
        catalogue["models"][self._model] = {"mode": "chat", "pricing": pricing}
        self._file.write_text(json.dumps(catalogue))
        # The server looks at the file so often.
        time.sleep(REREAD_SECONDS)

    def __exit__(self, *_: object) -> None:
        self._file.write_bytes(self._before)


def call_all(books: Books) -> None:
    """Each kind in turn, with tokens that differ from call to call."""
    source = random.Random(20_260_310)
    for number in range(CALLS):
        kind = KINDS[number % len(KINDS)]
        usage = tokens(kind, source)
        prices = CLAUDE_LONG if kind.prices is CLAUDE and usage.input > 200_000 else kind.prices
        name = kind.endpoint
        books.expected[name] = books.expected.get(name, Decimal(0)) + prices.cost(usage)
        body = kind.answer(kind.model, usage)
        books.provider.answer = lambda path, received, body=body: Answer(body)
        sent = kind.body | {"model": name}
        answer = books.server.http.post(kind.path, json=sent, auth=ADMIN)
        assert answer.status_code == 200, f"{kind.path}: {answer.text}"
        assert answers.WORDS[0] in answer.text or "embedding" in answer.text
        books.made += 1


def tokens(kind: Kind, source: random.Random) -> Usage:
    given = source.randrange(1, 300_000 if kind.prices is CLAUDE else 30_000)
    if kind.prices is EMBEDDING:
        return Usage(input=given)
    read = source.randrange(given + 1)
    output = source.randrange(1, 4000)
    return Usage(
        input=given,
        output=output,
        cache_read=read,
        cache_write=source.randrange(given - read + 1) if kind.writes_cache else 0,
        reasoning=source.randrange(output + 1) if kind.reasons else 0,
    )


@pytest.fixture(scope="module")
def ledger(books: Books) -> dict[str, Decimal]:
    """Endpoint → what the ledger says that its calls cost, once all are settled."""
    from paddock_mlflow.database import calls

    columns = calls.c

    @retry(stop=stop_after_delay(30), wait=wait_fixed(0.1), reraise=True)
    def settled() -> dict[str, Decimal]:
        query = select(
            columns.endpoint_name, func.sum(columns.cost_usd), func.count(), func.count(columns.ended_at)
        )
        with books.server.store.engine.connect() as connection:
            rows = connection.execute(
                query.where(columns.endpoint_name.in_(books.endpoints)).group_by(columns.endpoint_name)
            ).all()
        assert sum(row[2] for row in rows) == sum(row[3] for row in rows) == books.made
        return {row[0]: row[1] for row in rows}

    return settled()


@pytest.fixture(scope="module")
def traces(books: Books, ledger: dict[str, Decimal]) -> None:
    """The usage traces are written."""
    from paddock_mlflow.usage_traces import UsageTraces

    writer = UsageTraces(str(books.server.store.engine.url))
    writer.tick()
    assert writer.backlog().waiting == 0


def test_enough_calls() -> None:
    assert CALLS >= 200
    assert len(KINDS) <= CALLS // 10


def test_the_ledger_agrees_with_the_price_lists(books: Books, ledger: dict[str, Decimal]) -> None:
    assert ledger.keys() == books.expected.keys()
    for name, cost in ledger.items():
        assert abs(cost - books.expected[name]) < EXACT, name


@pytest.mark.usefixtures("traces")
def test_the_usage_traces_agree(books: Books, ledger: dict[str, Decimal]) -> None:
    store = books.server.store
    now = int(time.time() * 1000) + 60_000
    for name, (endpoint_id, _) in books.endpoints.items():
        summed = store.sum_gateway_trace_cost(0, now, endpoint_id=endpoint_id)
        assert abs(Decimal(summed) - ledger[name]) < EXACT, name
    total = sum(store.sum_gateway_trace_cost(0, now, endpoint_id=id) for id, _ in books.endpoints.values())
    assert abs(Decimal(total) - sum(books.expected.values())) < EXACT


@pytest.mark.usefixtures("traces")
def test_each_trace_and_its_spans_agree_with_the_call(books: Books) -> None:
    query = text(
        "SELECT c.call_id, c.cost_usd, c.input_tokens, c.output_tokens, t.total_cost, t.input_tokens, t.output_tokens,"
        " (SELECT sum(s.total_cost) FROM spans s WHERE s.trace_id = t.request_id)"
        " FROM paddock_calls c LEFT JOIN trace_info t ON t.request_id = 'tr-' || c.call_id"
        " WHERE c.endpoint_name LIKE 'sums-%'"
    )
    with books.server.store.engine.connect() as connection:
        rows = connection.execute(query).all()
    assert len(rows) == CALLS
    for call_id, units, given, made, total, trace_given, trace_made, spans in rows:
        # SQLite keeps money in units of 10⁻¹⁰ USD.
        cost = units / 1e10
        assert (trace_given, trace_made) == (given, made), call_id
        assert total == pytest.approx(cost, abs=1e-10), call_id
        assert spans == pytest.approx(cost, abs=1e-10), call_id


@pytest.mark.usefixtures("traces")
def test_the_report_agrees(books: Books, ledger: dict[str, Decimal]) -> None:
    answer = books.server.http.get("/api/3.0/paddock/costs", params={"by": "endpoint"}, auth=ADMIN)
    found = {row["group"]: Decimal(row["cost_usd"]) for row in answer.json()["groups"]}
    assert {name: found[name] for name in ledger} == ledger
