"""The price catalogue, and what a model call costs by it."""

import json
import os
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import pytest

from paddock_mlflow.errors import SettingsError
from paddock_mlflow.prices import PRICES, write_catalog


def test_the_catalogue_has_mlflows_models_and_ours(tmp_path: Path) -> None:
    uri = urlparse(write_catalog(tmp_path / "with space"))
    assert uri.scheme == "file"
    models = json.loads((tmp_path / "with space" / "openai.json").read_text())["models"]
    assert models["demo"]["pricing"] == {
        "input_per_million_tokens": 0.15,
        "cache_read_per_million_tokens": 0.075,
        "output_per_million_tokens": 0.6,
    }
    assert "gpt-4o-mini" in models
    assert (tmp_path / "with space" / "anthropic.json").exists()


def test_writing_again_leaves_the_same_and_no_scraps(tmp_path: Path) -> None:
    write_catalog(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    write_catalog(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_an_entry_of_ours_goes_over_mlflows(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    pricing = {"input_per_million_tokens": 7, "output_per_million_tokens": 8}
    (own / "openai.json").write_text(
        json.dumps({"models": {"gpt-4o-mini": {"mode": "chat", "pricing": pricing}}})
    )
    (own / "mine.json").write_text(json.dumps({"models": {"m": {"mode": "chat", "pricing": pricing}}}))
    write_catalog(tmp_path / "out", own)
    assert (
        json.loads((tmp_path / "out" / "openai.json").read_text())["models"]["gpt-4o-mini"]["pricing"]
        == pricing
    )
    assert set(json.loads((tmp_path / "out" / "mine.json").read_text())["models"]) == {"m"}


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"models": {"m": {"mode": "chat", "pricing": {"input_per_million_tokens": -1}}}}']
)
def test_a_bad_file_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "openai.json").write_text(content)
    with pytest.raises(
        SettingsError,
        match=r"expected .*openai\.json to be (JSON|a price catalogue .*), found at .*; (compare|mend)",
    ):
        write_catalog(tmp_path / "out", tmp_path)


def test_free_is_a_price(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    (own / "ollama.json").write_text('{"models": {"m": {"mode": "chat", "pricing": "free"}}}')
    write_catalog(tmp_path / "out", own)
    pricing = json.loads((tmp_path / "out" / "ollama.json").read_text())["models"]["m"]["pricing"]
    assert pricing == {"input_per_million_tokens": 0.0, "output_per_million_tokens": 0.0}


def test_declared_prices_go_over_both_and_leave_the_rest(tmp_path: Path) -> None:
    pricing = {
        "input_per_million_tokens": 7,
        "output_per_million_tokens": 8,
        "reasoning_per_million_tokens": 9,
    }
    write_catalog(tmp_path, extra={"openai": {"gpt-4o-mini": pricing, "mine": "free"}, "new": {"m": "free"}})
    models = json.loads((tmp_path / "openai.json").read_text())["models"]
    assert models["gpt-4o-mini"]["pricing"] == pricing
    assert models["gpt-4o-mini"]["context_window"]["max_output"] == 16384
    assert "demo" in models and "gpt-4o" in models
    assert json.loads((tmp_path / "new.json").read_text())["models"].keys() == {"m"}


@pytest.mark.parametrize(
    ("extra", "found"),
    [
        (
            {"openai": {"m": "gratis"}},
            r"price of openai/m .* found at pricing: .*expected \"free\".*'gratis'",
        ),
        (
            {"openai": {"m": {"input_per_million_tokens": 1}}},
            r"openai/m .*output_per_million_tokens: Field required",
        ),
        (
            {"openai": {"m": {"input_per_million_tokens": -1, "output_per_million_tokens": 1}}},
            r"pricing.input_per_million_tokens: .*greater than or equal to 0",
        ),
        ({"../openai": {"m": "free"}}, r"expected a provider .* found '../openai'"),
    ],
)
def test_a_bad_declared_price_is_named(tmp_path: Path, extra: Any, found: str) -> None:
    with pytest.raises(SettingsError, match=found):
        write_catalog(tmp_path, extra=extra)


def test_every_file_of_ours_is_one_that_mlflow_knows_as_a_provider() -> None:
    from mlflow.utils.providers import _list_provider_names

    assert {path.stem for path in PRICES.glob("*.json")} <= set(_list_provider_names())


class TestCosts:
    """What calls through the gateway cost; the server's endpoint `coder` leads to `demo` of `openai`."""

    @pytest.fixture
    def costs(self, server: Any) -> Any:
        from paddock_mlflow.costs import GatewayCosts

        return GatewayCosts()

    def usage(self, **tokens: int) -> Any:
        from paddock_mlflow.ledger.types import Usage

        return Usage(**{"input": 1_000_000, "output": 1_000_000} | tokens)

    def test_an_endpoint(self, costs: Any) -> None:
        price = costs.price_of("coder", "demo", self.usage(cache_read=400_000))
        assert price.provider == "openai"
        assert price.input == pytest.approx(0.6 * 0.15 + 0.4 * 0.075)
        assert (price.output, price.total) == (pytest.approx(0.6), pytest.approx(0.72))

    @pytest.mark.parametrize(
        ("responded", "dollars"),
        [
            ("gpt-4o-mini-2024-07-18", 0.75),
            ("gpt-4o-mini-unheard-of", 0.75),
            ("gpt-4o-2024-08-06", 12.5),
            ("gpt-4o", 12.5),
        ],
    )
    def test_dated_names_and_fallbacks(
        self, costs: Any, monkeypatch: pytest.MonkeyPatch, responded: str, dollars: float
    ) -> None:
        import paddock_mlflow.costs as module

        models = [module.Model("openai", "gpt-4o"), module.Model("openai", "gpt-4o-mini")]
        monkeypatch.setattr(module, "_read_endpoints", lambda: {"both": models})
        assert costs.price_of("both", responded, self.usage()).total == pytest.approx(dollars)

    def test_a_release_costs_what_the_gateway_charged(
        self, costs: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import paddock_mlflow.costs as module

        # The release of May 2024 is dearer in the catalogue; the gateway goes by the endpoint's name.
        monkeypatch.setattr(module, "_read_endpoints", lambda: {"e": [module.Model("openai", "gpt-4o")]})
        assert costs.price_of("e", "gpt-4o-2024-05-13", self.usage()).total == pytest.approx(12.5)
        assert costs.price_of("other", "gpt-4o-2024-05-13", self.usage()).total == pytest.approx(20)

    def test_a_model_without_an_endpoint(self, costs: Any) -> None:
        assert costs.price_of("openai/demo", "demo", self.usage()).total == pytest.approx(0.75)
        assert costs.price_of("gpt-4o-mini", "gpt-4o-mini", self.usage()).total == pytest.approx(0.75)

    def test_a_model_that_nobody_knows(self, costs: Any) -> None:
        assert costs.price_of("other", "a-model-of-ones-own", self.usage()) is None

    def test_an_edited_endpoint_counts_after_a_while(
        self, costs: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import paddock_mlflow.costs as module

        assert costs.price_of("later", "unheard-of", self.usage()) is None
        monkeypatch.setattr(module, "_read_endpoints", lambda: {"later": [module.Model("openai", "demo")]})
        assert costs.price_of("later", "unheard-of", self.usage()) is None
        costs._until = 0
        assert costs.price_of("later", "unheard-of", self.usage()).total == pytest.approx(0.75)


def test_mlflow_reads_the_catalogue_that_the_environment_names(server: Any) -> None:
    from mlflow.utils.providers import cost_per_token

    assert os.environ["MLFLOW_MODEL_CATALOG_URI"].startswith("file://")
    assert cost_per_token("demo", 1_000_000, 0, "openai") == (pytest.approx(0.15), 0)


def test_a_declared_price_of_every_kind_of_tokens_charges_it(tmp_path: Path) -> None:
    from paddock_mlflow.declared_prices import as_extra
    from paddock_mlflow.ledger.types import Usage
    from paddock_mlflow.pricing import Prices

    prices = {
        "input": "3",
        "output": "15",
        "cache_read": "0.3",
        "cache_write": "3.75",
        "cache_write_1h": "6",
        "reasoning": "20",
    }
    amounts = {kind: Decimal(amount) for kind, amount in prices.items()}
    bare = {kind: amounts.get(kind) if kind in ("input", "output") else None for kind in amounts}
    rows = [
        {"kind": "anthropic", "model": name} | given
        for name, given in {"full": amounts, "bare": bare}.items()
    ]
    write_catalog(tmp_path, extra=as_extra(rows))
    used = Usage(input=1000, output=100, cache_read=500, cache_write=300, cache_write_1h=200, reasoning=40)
    costs = [Prices(tmp_path).cost("anthropic", name, used) for name in ("full", "bare")]
    # 200 × 3 + 500 × 0.3 + 100 × 3.75 + 200 × 6, and 60 × 15 + 40 × 20; without their own, as input and output.
    assert [cost and cost.total * 1_000_000 for cost in costs] == [2325 + 1700, 3000 + 1500]
