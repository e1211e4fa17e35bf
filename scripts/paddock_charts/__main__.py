"""A report as one HTML file that needs no network: JSON on standard input, HTML on standard output.

Runs in the charts' own environment (scripts/requirements-charts.txt):

    python -I scripts/paddock_charts < report.json > report.html

Every chart stands there twice: drawn, for pages on which scripts don't run (an artifact viewer, a mail), and as its
specification, which a script draws again over it, with tooltips. The script is Vega's own, inlined; the page's policy
lets no other run, and lets nothing be fetched.
"""

import json
import re
import sys
from base64 import b64encode
from hashlib import sha256
from pathlib import Path

import vl_convert
from jinja2 import Environment, FileSystemLoader, StrictUndefined

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from charts import specifications  # noqa: E402

# With `ast` Vega interprets its expressions; it would compile them otherwise, which the policy forbids.
_DRAW = """
for (const place of document.querySelectorAll("[data-chart]")) {
  const specification = JSON.parse(document.getElementById(place.dataset.chart).textContent);
  const drawn = document.createElement("div");
  vegaEmbed(drawn, specification, {actions: false, ast: true, renderer: "svg"}).then(() => place.replaceChildren(drawn));
}
"""


def main() -> None:
    """Raises KeyError for a document that lacks a part."""
    document = json.load(sys.stdin)
    charts = [
        {
            "title": one["title"],
            "drawn": vl_convert.vegalite_to_svg(one["specification"]),
            # Nothing in it can end the element that it stands in.
            "specification": json.dumps(one["specification"]).replace("<", "\\u003c"),
        }
        for one in specifications(document["charts"])
    ]
    script = vl_convert.javascript_bundle(_DRAW) if charts else ""
    assert not re.search("</script|<!--", script, re.IGNORECASE), "the bundle would end its own element"
    templates = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    sys.stdout.write(
        templates.get_template("report.html.j2").render(
            page=document["page"],
            charts=charts,
            script=script,
            script_hash=b64encode(sha256(script.encode()).digest()).decode(),
        )
    )


if __name__ == "__main__":
    main()
