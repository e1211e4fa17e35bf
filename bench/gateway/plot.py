"""results.json → results.svg: requests a second, median time and CPU of each gateway. Runs in the plot's environment.

python plot.py RESULTS.json RESULTS.svg
"""

import json
import statistics
import sys
from pathlib import Path

import matplotlib

matplotlib.use("svg")
# The same run gives the same file, and text stays text.
matplotlib.rcParams.update({"svg.hashsalt": "paddock", "svg.fonttype": "none", "font.size": 9})

from matplotlib import pyplot  # noqa: E402

COLOURS = ("#9ecae1", "#4292c6", "#08519c")


def main() -> None:
    source, target = map(Path, sys.argv[1:])
    facts = json.loads(source.read_text())
    # Without a gateway there is nothing to compare: its bars would make all others invisible.
    names = [name for name in facts["wholes"] if name != "direct"]
    cells = {(cell["target"], cell["stream"], cell["concurrency"]): cell for cell in facts["cells"]}
    callers_measured = sorted({cell["concurrency"] for cell in facts["cells"]})
    figures = (
        ("requests a second", "per_second", False),
        ("requests a second, streamed", "per_second", True),
        ("median time (ms, logarithmic)", "p50", False),
        ("CPU of the server (ms a request)", "cpu", False),
    )
    figure, axes = pyplot.subplots(2, 2, figsize=(11, 7), layout="constrained")
    for axis, (title, field, stream) in zip(axes.flat, figures, strict=True):
        for offset, (callers, colour) in enumerate(zip(callers_measured, COLOURS, strict=False)):
            values = [statistics.median(cells[name, stream, callers][field]) for name in names]
            places = [index + (offset - 1) * 0.27 for index in range(len(names))]
            bars = axis.barh(places, values, 0.25, color=colour, label=f"{callers} at once")
            axis.bar_label(bars, fmt="{:.0f}" if max(values) > 60 else "{:.1f}", padding=2, fontsize=7)
        axis.set_yticks(range(len(names)), names)
        axis.invert_yaxis()
        axis.set_title(title, loc="left")
        axis.spines[["top", "right"]].set_visible(False)
        if field == "p50":
            axis.set_xscale("log")
        axis.margins(x=0.12)
    axes[0, 0].legend(frameon=False, loc="lower right")
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    figure.suptitle(f"One worker each. {versions}\n{facts['machine']}", fontsize=9, x=0.01, ha="left")
    figure.savefig(target, metadata={"Date": None})


if __name__ == "__main__":
    main()
