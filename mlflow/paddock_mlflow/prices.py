"""The price catalogue: MLflow's bundled one with our own entries over it.

MLflow reads `<MLFLOW_MODEL_CATALOG_URI>/<provider>.json`. Its default points to the internet (three tries of five
seconds at the first use), and a file found there replaces the bundled one of that provider as a whole
(mlflow/utils/providers.py, `_load_provider`). So the catalogue written here has every provider, merged.

Must not import mlflow, which reads its environment at import.
"""

import json
import os
import re
import tempfile
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, NonNegativeFloat, ValidationError, field_validator

from paddock_mlflow.errors import SettingsError

PRICES = Path(__file__).resolve().parent.parent / "prices"
"""Our own entries: one file a provider, named as MLflow names the provider, in the form of MLflow's own files."""


_PROVIDER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class Tier(BaseModel):
    """USD per million tokens. What is not named costs what the price list's next wider part says."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)

    input_per_million_tokens: NonNegativeFloat | None = None
    output_per_million_tokens: NonNegativeFloat | None = None
    cache_read_per_million_tokens: NonNegativeFloat | None = None
    cache_write_per_million_tokens: NonNegativeFloat | None = None
    cache_write_1hr_per_million_tokens: NonNegativeFloat | None = None
    reasoning_per_million_tokens: NonNegativeFloat | None = None
    """Ours alone: MLflow's catalogue has reasoning at the price of output."""


class LongContext(Tier):
    """Prices of all tokens of a call whose prompt has more than so many."""

    threshold_tokens: int


class Pricing(Tier):
    """The price list of one model."""

    input_per_million_tokens: NonNegativeFloat
    output_per_million_tokens: NonNegativeFloat
    long_context: list[LongContext] | None = None
    service_tiers: dict[str, Tier] | None = None


FREE: dict[str, Any] = {"input_per_million_tokens": 0.0, "output_per_million_tokens": 0.0}
"""What `"pricing": "free"` becomes: MLflow itself knows numbers alone."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="allow")

    mode: str
    pricing: Pricing

    @field_validator("pricing", mode="before")
    @classmethod
    def _free(cls, value: object) -> object:
        if value == "free":
            return FREE
        if not isinstance(value, Mapping):
            raise ValueError(
                'expected "free", or an object with input_per_million_tokens and output_per_million_tokens'
                f" in USD, found {value!r}"
            )
        return value


class _Catalogue(BaseModel):
    model_config = ConfigDict(extra="allow")

    schema_version: str = "1.0"
    models: dict[str, _Model]


Extra = Mapping[str, Mapping[str, Mapping[str, Any] | Literal["free"]]]
"""Provider → model → its `pricing`, from elsewhere than a catalogue file."""


def write_catalog(target_dir: Path, own: Path = PRICES, extra: Extra | None = None) -> str:
    """Write the merged catalogue and return its `file://` URI, for MLFLOW_MODEL_CATALOG_URI.

    Each file appears whole or not at all, so a server that reads while another process writes sees a valid one.

    Args:
        target_dir: a folder to write into; made where it is missing.
        own: the folder with the entries that go over MLflow's; need not exist.
        extra: prices that go over both, as the declared configuration has them. A model keeps what else the catalogue
            knows of it, its context window for one.

    Raises:
        SettingsError: a file in `own` is no catalogue, or a price in `extra` none; the text names it.
    """
    for provider in extra or {}:
        if _PROVIDER.fullmatch(provider) is None:
            raise SettingsError(
                f"expected a provider as MLflow names it, such as openai, found {provider!r}; mend the name"
            )
    target_dir.mkdir(parents=True, exist_ok=True)
    bundled = {path.name: path for path in _bundled_folder().glob("*.json")}
    additions = {path.name: _read(path) for path in sorted(own.glob("*.json"))}
    declared = {f"{provider}.json": models for provider, models in (extra or {}).items()}
    for name in bundled.keys() | additions.keys() | declared.keys():
        if name not in additions and name not in declared:
            _replace(target_dir / name, bundled[name].read_bytes())
            continue
        catalogue: dict[str, Any] = json.loads(bundled[name].read_bytes()) if name in bundled else {}
        added = additions.get(name, {"schema_version": "1.0", "models": {}})
        models = {**catalogue.get("models", {}), **added["models"]}
        for model, pricing in declared.get(name, {}).items():
            entry = {"mode": "chat", **models.get(model, {}), "pricing": pricing}
            models[model] = _checked(_Model, entry, f"the price of {name.removesuffix('.json')}/{model}")
        merged = {"schema_version": added["schema_version"], **catalogue, "models": models}
        _replace(target_dir / name, json.dumps(merged).encode())
    return target_dir.resolve().as_uri()


def _bundled_folder() -> Path:
    found = find_spec("mlflow")
    assert found is not None and found.submodule_search_locations, "mlflow is a requirement of this package"
    return Path(found.submodule_search_locations[0]) / "utils" / "model_catalog"


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise SettingsError(f"expected {path} to be JSON, found at {error}; mend it") from None
    return _checked(_Catalogue, content, str(path), "; compare it with the file openai.json beside it")


def _checked(form: type[BaseModel], content: object, what: str, remedy: str = "") -> dict[str, Any]:
    try:
        return form.model_validate(content).model_dump(exclude_unset=False, exclude_none=True)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        place = ".".join(map(str, first["loc"])) or "its top"
        raise SettingsError(
            f"expected {what} to be a price catalogue of MLflow's form, found at {place}: {first['msg']}{remedy}"
        ) from None


def _replace(path: Path, content: bytes) -> None:
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        temporary.chmod(0o644)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
