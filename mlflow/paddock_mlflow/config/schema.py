"""The JSON Schema of `gateway.yaml`, for editors. `python -m paddock_mlflow.config.schema` writes the published file."""

import json
from pathlib import Path

from paddock_mlflow.config.model import Configuration

PUBLISHED = Path(__file__).resolve().parents[2] / "gateway.schema.json"


def text() -> str:
    """The schema, as it is published."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **Configuration.model_json_schema()}
    return json.dumps(schema, indent=2) + "\n"


if __name__ == "__main__":
    PUBLISHED.write_text(text())
