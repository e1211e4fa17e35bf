"""The price catalogue: MLflow's bundled one with our own entries over it.

MLflow reads `<MLFLOW_MODEL_CATALOG_URI>/<provider>.json`. Its default points to the internet (three tries of five
seconds at the first use), and a file found there replaces the bundled one of that provider as a whole
(mlflow/utils/providers.py, `_load_provider`). So the catalogue written here has every provider, merged.

Must not import mlflow, which reads its environment at import.
"""

import json
import os
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, NonNegativeFloat, ValidationError

from paddock_mlflow.errors import SettingsError

PRICES = Path(__file__).resolve().parent.parent / "prices"
"""Our own entries: one file a provider, named as MLflow names the provider, in the form of MLflow's own files."""


class _Pricing(BaseModel):
    """USD per million tokens."""

    model_config = ConfigDict(extra="allow")

    input_per_million_tokens: NonNegativeFloat
    output_per_million_tokens: NonNegativeFloat
    cache_read_per_million_tokens: NonNegativeFloat | None = None
    cache_write_per_million_tokens: NonNegativeFloat | None = None


class _Model(BaseModel):
    model_config = ConfigDict(extra="allow")

    mode: str
    pricing: _Pricing


class _Catalogue(BaseModel):
    model_config = ConfigDict(extra="allow")

    schema_version: str = "1.0"
    models: dict[str, _Model]


def write_catalog(target_dir: Path, own: Path = PRICES) -> str:
    """Write the merged catalogue and return its `file://` URI, for MLFLOW_MODEL_CATALOG_URI.

    Each file appears whole or not at all, so a server that reads while another process writes sees a valid one.

    Args:
        target_dir: a folder to write into; made where it is missing.
        own: the folder with the entries that go over MLflow's; need not exist.

    Raises:
        SettingsError: a file in `own` is no catalogue; the text names it.
    """
    target_dir.mkdir(parents=True, exist_ok=True)
    bundled = {path.name: path for path in _bundled_folder().glob("*.json")}
    additions = {path.name: _read(path) for path in sorted(own.glob("*.json"))}
    for name in bundled.keys() | additions.keys():
        if name not in additions:
            _replace(target_dir / name, bundled[name].read_bytes())
            continue
        catalogue: dict[str, Any] = json.loads(bundled[name].read_bytes()) if name in bundled else {}
        added = additions[name]
        models = {**catalogue.get("models", {}), **added["models"]}
        merged = {"schema_version": added["schema_version"], **catalogue, "models": models}
        _replace(target_dir / name, json.dumps(merged).encode())
    return target_dir.resolve().as_uri()


def _bundled_folder() -> Path:
    found = find_spec("mlflow")
    assert found is not None and found.submodule_search_locations, "mlflow is a requirement of this package"
    return Path(found.submodule_search_locations[0]) / "utils" / "model_catalog"


def _read(path: Path) -> dict[str, Any]:
    try:
        return _Catalogue.model_validate_json(path.read_bytes()).model_dump(
            exclude_unset=False, exclude_none=True
        )
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise SettingsError(
            f"expected {path} to be a price catalogue of MLflow's form, found at {place}: {first['msg']};"
            " compare it with the file openai.json beside it"
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
