"""results.json → results.svg: verdicts a second of each round. `python plot.py RESULTS.json RESULTS.svg`"""

import json
import statistics
import sys
from pathlib import Path

import matplotlib

matplotlib.use("svg")
# The same run gives the same file, and text stays text.
matplotlib.rcParams.update({"svg.hashsalt": "paddock", "svg.fonttype": "none", "font.size": 9})

from matplotlib import pyplot  # noqa: E402


def main() -> None:
    source, target = map(Path, sys.argv[1:])
    facts = json.loads(source.read_text())
    sides = ("stock", "Paddock")
    figure, axis = pyplot.subplots(figsize=(7, 2.4), layout="constrained")
    for place, (side, colour) in enumerate(zip(sides, ("#9ecae1", "#08519c"), strict=True)):
        values = [one["per_second"] for one in facts["rounds"] if one["side"] == side]
        bar = axis.barh(place, statistics.median(values), 0.6, color=colour)
        axis.bar_label(bar, fmt="{:.1f}", padding=4)
        axis.plot(values, [place] * len(values), "|", color="black", markersize=12)
    axis.set_yticks(range(len(sides)), ["mlflow.genai.evaluate", "Paddock"])
    axis.invert_yaxis()
    axis.set_xlabel("verdicts a second: median, and each round")
    axis.spines[["top", "right"]].set_visible(False)
    axis.margins(x=0.12)
    figure.suptitle(facts["machine"], fontsize=9, x=0.01, ha="left")
    figure.savefig(target, metadata={"Date": None})


if __name__ == "__main__":
    main()
