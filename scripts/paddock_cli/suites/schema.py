"""The JSON Schema of suite files, for editors.

`cd scripts && python -m paddock_cli.suites.schema` writes the published file.
"""

import json
from pathlib import Path

from paddock_cli.suites.model import SuiteFile

PUBLISHED = Path(__file__).resolve().parents[3] / "suites" / "suite.schema.json"


def text() -> str:
    """The schema, as it is published."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **SuiteFile.model_json_schema()}
    return json.dumps(schema, indent=2) + "\n"


if __name__ == "__main__":
    PUBLISHED.write_text(text())
