"""What a model call costs, by the price catalogue. Money is USD as Decimal.

The one place where tokens become money: the gateway charges budgets by it, and traces are priced by it, so that the two
agree. It reads what `prices.py` wrote, MLflow's own catalogue with ours over it, and goes beyond MLflow's own arithmetic
(mlflow/utils/providers.py, `cost_per_token`, MLflow 3.17.2) where that is wrong:

| case                                                 | MLflow                         | here                      |
|------------------------------------------------------|--------------------------------|---------------------------|
| prompt longer than a tier's threshold (`long_context`) | the price of short prompts     | the tier's, for all tokens |
| service tier `flex`, `priority`, `batch` was served  | the standard price             | the tier's                |
| a reasoning price of its own                         | not known                      | `reasoning_per_million_tokens` |
| a model whose name has a slash (openrouter)          | not found, another's price     | found                     |
| a model that its provider's catalogue does not list  | any provider's model of this name | no price                |
| an entry without input or output price               | 0                              | no price                  |

What is not text (audio, images, searches) is priced by its tokens as text. Must not import mlflow.
"""

import json
import os
import re
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_HALF_EVEN, Decimal
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

from paddock_mlflow.errors import SettingsError
from paddock_mlflow.ledger.types import Usage

CATALOG_ENV = "MLFLOW_MODEL_CATALOG_URI"
REREAD_SECONDS = 2.0
"""How often a catalogue file is looked at for a change."""

_STEP = Decimal("1E-10")
_MILLION = Decimal(1_000_000)
_ZERO = Decimal(0)

# The gateway's names for providers whose catalogue file has another one.
_FILES = {
    "ai21labs": "ai21",
    "amazon bedrock": "bedrock",
    "amazon-bedrock": "bedrock",
    "databricks-model-serving": "databricks",
    "togetherai": "together_ai",
    "vertex ai": "vertex_ai",
}


def catalog_file(provider: str) -> str:
    """The name of the catalogue file that has a provider's prices, without `.json`."""
    return _FILES.get(provider, provider)


_RELEASE = re.compile(r"(?:[-@]\d{8}|-\d{4}-\d{2}-\d{2}|-latest)$")
_SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Cost:
    """USD, to ten decimal places; `total` is the sum of the other two."""

    total: Decimal
    input: Decimal
    output: Decimal


@dataclass(frozen=True)
class Rates:
    """USD per token."""

    input: Decimal
    output: Decimal
    cache_read: Decimal
    cache_write: Decimal
    cache_write_1h: Decimal
    reasoning: Decimal

    def dearest(self, other: "Rates") -> "Rates":
        """The higher price of each kind."""
        return Rates(
            *(max(getattr(self, name), getattr(other, name)) for name in self.__dataclass_fields__)  # type: ignore[arg-type]
        )


@dataclass(frozen=True)
class _Model:
    standard: Rates
    long_context: tuple[tuple[int, Rates], ...]
    """(threshold, rates) by rising threshold: they hold for prompts of more tokens than that."""
    service_tiers: Mapping[str, Rates]
    max_output: int | None

    def rates(self, input_tokens: int, service_tier: str) -> Rates:
        found = self.standard
        for threshold, rates in self.long_context:
            if input_tokens > threshold:
                found = rates
        tier = self.service_tiers.get(service_tier)
        if tier is None:
            return found
        # No catalogue says what a long prompt costs in another service tier; too much is better than too little.
        return tier if found is self.standard else tier.dearest(found)


class Prices:
    """The catalogue in memory. Safe in threads; a file that changed counts after `REREAD_SECONDS`."""

    def __init__(self, folder: Path) -> None:
        """
        Args:
            folder: what `prices.write_catalog` wrote.
        """
        self._folder = folder
        self._lock = threading.Lock()
        self._files: dict[str, _File] = {}
        self._found: dict[tuple[str, str], _Model | None] = {}
        self._look_again = 0.0

    @classmethod
    def of_environment(cls) -> "Prices":
        """The catalogue that MLflow was told to use.

        Raises:
            SettingsError: MLFLOW_MODEL_CATALOG_URI names no folder.
        """
        uri = os.environ.get(CATALOG_ENV, "")
        parsed = urlparse(uri)
        if parsed.scheme != "file":
            raise SettingsError(
                f"expected {CATALOG_ENV} to name a folder (file://…), found {uri!r}; start MLflow by"
                " `python -m paddock_mlflow`, which writes the catalogue and sets it"
            )
        return cls(Path(unquote(parsed.path)))

    def cost(self, provider: str, model: str, usage: Usage) -> Cost | None:
        """What the call cost; None where no price is known.

        Args:
            provider: as the gateway names it; empty where nobody knows, then any provider's model of this name counts.
            model: as the endpoint or the response names it; a dated release has the price of its model where it has none.
            usage: all of its tokens.
        """
        found = self._model(provider, model)
        if found is None:
            return None
        rates = found.rates(usage.input, usage.service_tier)
        read = min(usage.cache_read, usage.input)
        write = min(usage.cache_write, usage.input - read)
        hour = min(usage.cache_write_1h, write)
        reasoning = min(usage.reasoning, usage.output)
        given = (
            (usage.input - read - write) * rates.input
            + read * rates.cache_read
            + (write - hour) * rates.cache_write
            + hour * rates.cache_write_1h
        ).quantize(_STEP, ROUND_HALF_EVEN)
        made = ((usage.output - reasoning) * rates.output + reasoning * rates.reasoning).quantize(
            _STEP, ROUND_HALF_EVEN
        )
        return Cost(total=given + made, input=given, output=made)

    def bound(
        self,
        provider: str,
        model: str,
        input_tokens_max: int,
        output_tokens_max: int,
        *,
        service_tier: str = "",
        cache_write: bool = True,
        hour_cache: bool = True,
    ) -> Decimal | None:
        """An upper bound of what one attempt costs; None where no price is known.

        Args:
            input_tokens_max: at most so many tokens of prompt, cached ones included.
            output_tokens_max: at most so many tokens are generated, reasoning included.
            service_tier: what the request asks for; empty for the standard.
            cache_write: whether the request asks for the prompt to be written to the provider's cache, which costs
                more than to read it (`cache_control`). It counts for Anthropic's models alone: those of others that
                have such a price write by themselves.
            hour_cache: whether the request may ask for a cache of one hour (Anthropic's `"ttl": "1h"`).
        """
        found = self._model(provider, model)
        if found is None:
            return None
        # The prompt may be shorter than the bound, and a short one dearer in a strange catalogue.
        reachable = found.rates(0, service_tier)
        for threshold, _ in found.long_context:
            if input_tokens_max > threshold:
                reachable = reachable.dearest(found.rates(threshold + 1, service_tier))
        # A provider that does not offer the tier serves the standard one, or may.
        reachable = reachable.dearest(found.rates(input_tokens_max, ""))
        given = max(reachable.input, reachable.cache_read)
        if cache_write or "claude" not in model.lower():
            given = max(given, reachable.cache_write, reachable.cache_write_1h if hour_cache else _ZERO)
        made = max(reachable.output, reachable.reasoning)
        return (input_tokens_max * given + output_tokens_max * made).quantize(_STEP, ROUND_CEILING)

    def max_output(self, provider: str, model: str) -> int | None:
        """The most tokens that the model generates in one answer; None where the catalogue does not say."""
        found = self._model(provider, model)
        return found.max_output if found is not None else None

    def _model(self, provider: str, model: str) -> _Model | None:
        if time.monotonic() >= self._look_again:
            self._reread()
        key = (provider, model)
        try:
            return self._found[key]
        except KeyError:
            pass
        with self._lock:
            found = next(self._search(provider.lower(), model), None)
            # Names come from requests: without an end to it, a caller could fill the memory.
            if len(self._found) > 10_000:
                self._found = {}
            self._found[key] = found
            return found

    def _search(self, provider: str, model: str) -> Iterator[_Model]:
        if provider == "litellm" or not provider:
            before, separator, rest = model.partition("/")
            if separator:
                yield from self._in_file(before.lower(), rest)
        if provider:
            yield from self._in_file(provider, model)
            return
        free = []
        for path in sorted(self._folder.glob("*.json")):
            for found in self._in_file(path.stem, model):
                # Some resellers list models at no price; that of its maker, at one, is meant.
                if found.standard.input:
                    yield found
                else:
                    free.append(found)
        yield from free

    def _in_file(self, provider: str, model: str) -> Iterator[_Model]:
        models = self._file(catalog_file(provider)).models
        for name in _names(provider, model):
            if (entry := models.get(name)) is not None and (found := _parsed(entry)) is not None:
                yield found

    def _file(self, name: str) -> "_File":
        if name not in self._files:
            # The name comes from the endpoint's configuration, and must not lead out of the folder.
            self._files[name] = (
                _File.read(self._folder / f"{name}.json") if _SAFE_NAME.fullmatch(name) else _File({}, None)
            )
        return self._files[name]

    def _reread(self) -> None:
        with self._lock:
            self._look_again = time.monotonic() + REREAD_SECONDS
            changed = [
                name
                for name, file in self._files.items()
                if file.stamp != _stamp(self._folder / f"{name}.json") and _SAFE_NAME.fullmatch(name)
            ]
            for name in changed:
                del self._files[name]
            if changed:
                self._found = {}


@dataclass(frozen=True)
class _File:
    models: Mapping[str, Any]
    stamp: tuple[int, int] | None

    @classmethod
    def read(cls, path: Path) -> "_File":
        stamp = _stamp(path)
        if stamp is None:
            return cls({}, None)
        # Decimal from the text: 0.1 is then a tenth.
        return cls(json.loads(path.read_bytes(), parse_float=Decimal).get("models", {}), stamp)


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_mtime_ns, status.st_ino


def _names(provider: str, model: str) -> list[str]:
    """How the catalogue may name the model, the exact name first."""
    names = [model, model.removeprefix(f"{provider}/"), model.rsplit("/", 1)[-1]]
    return list(dict.fromkeys(names + [_RELEASE.sub("", name) for name in names]))


def _parsed(entry: Mapping[str, Any]) -> _Model | None:
    pricing = entry.get("pricing")
    if not isinstance(pricing, Mapping):
        return None
    standard = _rates(pricing, entry.get("mode"))
    if standard is None:
        return None
    window = entry.get("context_window") or {}
    return _Model(
        standard=standard,
        long_context=tuple(
            sorted(
                (
                    (int(tier["threshold_tokens"]), _over(standard, tier))
                    for tier in pricing.get("long_context", [])
                ),
                key=lambda tier: tier[0],
            )
        ),
        service_tiers={
            name: _over(standard, tier) for name, tier in pricing.get("service_tiers", {}).items()
        },
        max_output=window.get("max_output") or window.get("max_tokens"),
    )


def _rates(pricing: Mapping[str, Any], mode: str | None) -> Rates | None:
    given = _per_token(pricing, "input")
    # An embedding generates nothing, and the catalogue leaves the price away for some.
    made = _per_token(pricing, "output") if mode != "embedding" else _per_token(pricing, "output") or _ZERO
    if given is None or made is None:
        return None
    return _over(Rates(given, made, given, given, given, made), pricing)


def _over(base: Rates, tier: Mapping[str, Any]) -> Rates:
    """The tier's prices; what it does not name is the base's, a cache price where the tier has an input price its own."""

    def price(name: str, otherwise: Decimal) -> Decimal:
        found = _per_token(tier, name)
        return otherwise if found is None else found

    given, made = price("input", base.input), price("output", base.output)
    write = price("cache_write", _scaled(base.cache_write, base.input, given))
    return Rates(
        input=given,
        output=made,
        cache_read=price("cache_read", _scaled(base.cache_read, base.input, given)),
        cache_write=write,
        cache_write_1h=price("cache_write_1hr", _scaled(base.cache_write_1h, base.cache_write, write)),
        reasoning=price("reasoning", _scaled(base.reasoning, base.output, made)),
    )


def _scaled(price: Decimal, base: Decimal, now: Decimal) -> Decimal:
    """A price that a tier does not name keeps its ratio to the one beside it, as providers' lists do."""
    if base == now:
        return price
    return price * now / base if base else now


def _per_token(prices: Mapping[str, Any], name: str) -> Decimal | None:
    value = prices.get(f"{name}_per_million_tokens")
    return None if value is None else Decimal(value) / _MILLION
