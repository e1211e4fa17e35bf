"""The JSON Schema of `judges.yaml`, for editors. `python -m paddock_mlflow.judges.schema` writes the published file."""

import json
from pathlib import Path

from paddock_mlflow.judges.model import Judges

PUBLISHED = Path(__file__).resolve().parents[2] / "judges.schema.json"


def text() -> str:
    """The schema, as it is published."""
    made = Judges.model_json_schema()
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **made, "title": "judges.yaml"}
    return json.dumps(schema, indent=2) + "\n"


if __name__ == "__main__":
    PUBLISHED.write_text(text())
