"""The JSON Schema of `egress.yaml`, for editors. `python -m paddock_egress.config.schema` writes the published file."""

import json
from pathlib import Path

from paddock_egress.config.model import Configuration

PUBLISHED = Path(__file__).resolve().parents[2] / "egress.schema.json"


def text() -> str:
    """The schema, as it is published."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **Configuration.model_json_schema()}
    return json.dumps(schema, indent=2) + "\n"


if __name__ == "__main__":
    PUBLISHED.write_text(text())
