"""Tokens become money: by hand, beside MLflow's own arithmetic where that is right, and where it is wrong."""

import json
import os
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from paddock_mlflow.errors import SettingsError
from paddock_mlflow.ledger.types import Usage
from paddock_mlflow.prices import write_catalog
from paddock_mlflow.pricing import Prices

MILLION = 1_000_000


@pytest.fixture(scope="module")
def prices(tmp_path_factory: pytest.TempPathFactory) -> Prices:
    folder = tmp_path_factory.mktemp("prices")
    write_catalog(folder)
    return Prices(folder)


Priced = Callable[..., Prices]


@pytest.fixture
def priced(tmp_path: Path) -> Priced:
    """A catalogue with one model `m` of `openai`."""

    def make(**pricing: Any) -> Prices:
        base = {"input_per_million_tokens": 1.0, "output_per_million_tokens": 10.0}
        write_catalog(tmp_path, extra={"openai": {"m": base | pricing}})
        return Prices(tmp_path)

    return make


def cost_of(prices: Prices, provider: str, model: str, **tokens: Any) -> Decimal:
    found = prices.cost(provider, model, Usage(**tokens))
    assert found is not None
    assert found.total == found.input + found.output
    return found.total


class TestByHand:
    def test_cached_tokens(self, prices: Prices) -> None:
        cost = prices.cost("openai", "gpt-4o-mini", Usage(input=1000, output=500, cache_read=100))
        assert cost is not None
        # 900 × 0.15 + 100 × 0.075 and 500 × 0.60 USD a million.
        assert (cost.input, cost.output, cost.total) == (
            Decimal("0.0001425"),
            Decimal("0.0003"),
            Decimal("0.0004425"),
        )

    def test_tokens_written_to_the_cache(self, prices: Prices) -> None:
        usage = Usage(input=10_000, output=100, cache_read=2_000, cache_write=3_000, cache_write_1h=1_000)
        cost = prices.cost("anthropic", "claude-sonnet-4-5", usage)
        # 5000 × 3, 2000 × 0.30, 2000 × 3.75, 1000 × 6, 100 × 15 USD a million.
        assert cost is not None and cost.total == Decimal("0.0306")

    def test_reasoning(self, priced: Priced) -> None:
        usage = {"input": 100, "output": 1000, "reasoning": 400}
        assert cost_of(priced(), "openai", "m", **usage) == Decimal("0.0101")
        dearer = priced(reasoning_per_million_tokens=20)
        assert cost_of(dearer, "openai", "m", **usage) == Decimal("0.0141")

    def test_the_price_of_long_prompts_is_for_all_tokens(self, prices: Prices) -> None:
        at, above = (
            cost_of(prices, "anthropic", "claude-sonnet-4-5", input=tokens, output=1000, cache_write=10)
            for tokens in (200_000, 200_001)
        )
        # 199 990 × 3, 10 × 3.75, 1000 × 15 USD a million.
        assert at == Decimal("0.59997") + Decimal("0.0000375") + Decimal("0.015")
        # 199 991 × 6, 10 × 7.50, 1000 × 22.50.
        assert above == Decimal("1.199946") + Decimal("0.000075") + Decimal("0.0225")

    @pytest.mark.parametrize(
        ("tier", "dollars"), [("", 11.25), ("default", 11.25), ("priority", 22.5), ("flex", 5.625)]
    )
    def test_service_tiers(self, prices: Prices, tier: str, dollars: float) -> None:
        # gpt-5: 1.25 and 10 USD a million; the tier is what the response says was served.
        usage = {"input": MILLION // 10, "output": MILLION // 10}
        assert cost_of(prices, "openai", "gpt-5", **usage, service_tier=tier) == Decimal(str(dollars)) / 10

    def test_free(self, tmp_path: Path) -> None:
        write_catalog(tmp_path, extra={"openai": {"mine": "free"}})
        prices = Prices(tmp_path)
        assert cost_of(prices, "openai", "mine", input=MILLION, output=MILLION) == 0
        assert prices.bound("openai", "mine", MILLION, MILLION) == 0

    def test_an_embedding_has_input_alone(self, prices: Prices) -> None:
        assert cost_of(prices, "openai", "text-embedding-3-small", input=MILLION) == Decimal("0.02")

    def test_counts_that_make_no_sense_give_no_money_back(self, priced: Priced) -> None:
        prices = priced(cache_read_per_million_tokens=0.5)
        assert cost_of(prices, "openai", "m", input=10, cache_read=50, cache_write=50) == Decimal("0.000005")
        assert cost_of(prices, "openai", "m", output=10, reasoning=50) == Decimal("0.0001")


class TestBesideMlflow:
    """MLflow's own `cost_per_token` on the same catalogue."""

    @pytest.fixture
    def stock(self, server: Any) -> Callable[..., float | None]:
        from mlflow.tracing.utils import calculate_cost_by_model_and_token_usage

        def cost(provider: str, model: str, usage: Usage) -> float | None:
            tokens = {
                "input_tokens": usage.input,
                "output_tokens": usage.output,
                "cache_read_input_tokens": usage.cache_read,
                "cache_creation_input_tokens": usage.cache_write,
                "cache_creation_input_tokens_above_1hr": usage.cache_write_1h,
            }
            found = calculate_cost_by_model_and_token_usage(model, tokens, provider)
            return found and found["total_cost"]

        return cost

    def test_every_model_costs_the_same_where_mlflow_is_right(
        self, stock: Callable[..., float | None]
    ) -> None:
        prices = Prices.of_environment()
        usage = Usage(input=9_000, output=700, cache_read=4_000, cache_write=2_000, cache_write_1h=500)
        compared = 0
        for provider in ("openai", "anthropic", "gemini", "mistral", "groq", "deepseek", "xai", "bedrock"):
            folder = Path(os.environ["MLFLOW_MODEL_CATALOG_URI"].removeprefix("file://"))
            models = json.loads((folder / f"{provider}.json").read_text())["models"]
            for model, entry in models.items():
                listed = entry.get("pricing", {})
                if (
                    "/" in model
                    or not {"input_per_million_tokens", "output_per_million_tokens"} <= listed.keys()
                ):
                    continue
                ours = prices.cost(provider, model, usage)
                assert ours is not None, (provider, model)
                assert float(ours.total) == pytest.approx(stock(provider, model, usage), abs=2e-10), model
                compared += 1
        assert compared > 300

    def test_where_mlflow_is_wrong(self, stock: Callable[..., float | None]) -> None:
        prices = Prices.of_environment()
        long = Usage(input=300_000, output=1)
        assert stock("gemini", "gemini-2.5-pro", long) == pytest.approx(0.375010)
        assert cost_of(prices, "gemini", "gemini-2.5-pro", input=300_000, output=1) == Decimal("0.750015")
        # The same name is in another provider's list; what the asked one takes is not known.
        small = Usage(input=1000, output=10)
        assert stock("groq", "gpt-4o-mini", small) == pytest.approx(0.000156)
        assert prices.cost("groq", "gpt-4o-mini", small) is None
        # Without an input price there is none; MLflow takes it for nothing.
        assert stock("openai", "dall-e-3", small) in (None, 0)
        assert prices.cost("openai", "container", small) is None
        # OpenRouter's names have a slash: MLflow cuts the maker off, and finds another reseller's model, or none.
        listed = cost_of(prices, "openrouter", "anthropic/claude-sonnet-4.5", input=1000, output=10)
        assert listed == Decimal("0.00315")
        assert stock("openrouter", "anthropic/claude-sonnet-4.5", small) != pytest.approx(0.00315)


class TestNames:
    @pytest.mark.parametrize(
        ("provider", "model", "million"),
        [
            ("openai", "gpt-4o-mini-2024-07-18", "0.15"),
            ("openai", "gpt-4o-mini-2099-01-31", "0.15"),
            ("OpenAI", "gpt-4o-mini", "0.15"),
            ("openai", "openai/gpt-4o-mini", "0.15"),
            ("litellm", "openai/gpt-4o-mini", "0.15"),
            ("", "openai/gpt-4o-mini", "0.15"),
            ("", "gpt-4o-mini", "0.15"),
            ("anthropic", "claude-sonnet-4-5-20990131", "3"),
            ("", "claude-sonnet-4-5", "3"),
            ("openai", "demo", "0.15"),
        ],
    )
    def test_known(self, prices: Prices, provider: str, model: str, million: str) -> None:
        assert cost_of(prices, provider, model, input=100_000) == Decimal(million) / 10

    @pytest.mark.parametrize(
        ("provider", "model"),
        [
            ("openai", "gpt-4o-mini-of-ones-own"),
            ("openai", ""),
            ("../openai", "gpt-4o-mini"),
            ("nobody", "gpt-4o-mini"),
            ("", "a-model-of-ones-own"),
        ],
    )
    def test_unknown(self, prices: Prices, provider: str, model: str) -> None:
        assert prices.cost(provider, model, Usage(input=1)) is None
        assert prices.bound(provider, model, 1, 1) is None
        assert prices.max_output(provider, model) is None

    def test_every_provider_of_the_gateway_has_the_file_that_is_meant(self, server: Any) -> None:
        from mlflow.gateway.config import Provider

        from paddock_mlflow.pricing import _FILES

        folder = Path(os.environ["MLFLOW_MODEL_CATALOG_URI"].removeprefix("file://"))
        without = {
            p.value for p in Provider if not (folder / f"{_FILES.get(p.value, p.value)}.json").exists()
        }
        assert without == {
            "mlflow-model-serving",
            "mosaicml",
            "huggingface-text-generation-inference",
            "litellm",
            "sap-ai-core",
        }


class TestBounds:
    @pytest.mark.parametrize("model", ["claude-sonnet-4-5", "claude-haiku-4-5", "claude-opus-4-1"])
    @pytest.mark.parametrize("tokens", [1, 1000, 200_000, 200_001, 900_000])
    def test_no_call_costs_more(self, prices: Prices, model: str, tokens: int) -> None:
        bound = prices.bound("anthropic", model, tokens, 5000)
        assert bound is not None
        for given in (tokens, tokens // 2):
            for usage in (
                Usage(input=given, output=5000, reasoning=5000),
                Usage(input=given, output=5000, cache_write=given, cache_write_1h=given),
                Usage(input=given, output=100, cache_read=given),
            ):
                cost = prices.cost("anthropic", model, usage)
                assert cost is not None and cost.total <= bound

    def test_it_is_no_higher_than_what_can_happen(self, prices: Prices) -> None:
        def bound(**asked: Any) -> Decimal | None:
            return prices.bound("anthropic", "claude-sonnet-4-5", 1000, 100, **asked)

        assert bound() == Decimal("0.0075")
        assert bound(hour_cache=False) == Decimal("0.00525")
        assert bound(cache_write=False) == Decimal("0.0045")

    def test_models_that_write_to_their_cache_unasked(self, prices: Prices) -> None:
        # gpt-5.6: 4 USD a million, 5 for what it writes.
        assert prices.bound("openai", "gpt-5.6", 1000, 0, cache_write=False) == Decimal("0.005")

    def test_a_service_tier_that_is_asked_for(self, prices: Prices) -> None:
        standard = prices.bound("openai", "gpt-5", MILLION, 0, cache_write=False)
        assert standard == Decimal("1.25")
        assert prices.bound("openai", "gpt-5", MILLION, 0, service_tier="priority") == Decimal("2.5")
        # It may be served as standard all the same.
        assert prices.bound("openai", "gpt-5", MILLION, 0, service_tier="flex") == standard

    def test_it_is_rounded_up(self, priced: Priced) -> None:
        prices = priced(input_per_million_tokens=0.00001)
        assert prices.bound("openai", "m", 1, 0) == Decimal("1E-10")

    def test_the_longest_answer(self, prices: Prices) -> None:
        assert prices.max_output("openai", "gpt-4o-mini") == 16_384


class TestCatalogue:
    def test_a_changed_file_counts_after_a_while(self, tmp_path: Path) -> None:
        write_catalog(tmp_path)
        prices = Prices(tmp_path)
        assert prices.cost("openai", "late", Usage(input=1)) is None
        write_catalog(tmp_path, extra={"openai": {"late": "free"}})
        assert prices.cost("openai", "late", Usage(input=1)) is None
        prices._look_again = 0
        assert prices.cost("openai", "late", Usage(input=1)) is not None

    @pytest.mark.parametrize("uri", ["", "https://example.org/catalogue"])
    def test_without_a_folder(self, monkeypatch: pytest.MonkeyPatch, uri: str) -> None:
        monkeypatch.setenv("MLFLOW_MODEL_CATALOG_URI", uri)
        with pytest.raises(SettingsError, match=f"to name a folder .* found '{uri}'"):
            Prices.of_environment()
