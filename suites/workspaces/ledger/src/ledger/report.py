"""Sums by month or category, in one of three styles."""

from ledger import amounts
from ledger.entries import Entry
from ledger.errors import LedgerError


def render(entries: list[Entry], by: str = "month", style: str = "text", currency: str = "EUR") -> str:
    """A report on the entries.

    by: "month" (oldest first) or "category" (largest spending first, then by name).
    style: "text", "markdown" or "csv".
    """
    if style == "text":
        if by == "month":
            sums = {}
            counts = {}
            for entry in entries:
                name = entry.day.strftime("%Y-%m")
                sums[name] = sums.get(name, 0) + entry.cents
                counts[name] = counts.get(name, 0) + 1
            names = sorted(sums)
        elif by == "category":
            sums = {}
            counts = {}
            for entry in entries:
                name = entry.category
                sums[name] = sums.get(name, 0) + entry.cents
                counts[name] = counts.get(name, 0) + 1
            names = sorted(sums, key=lambda name: (sums[name], name))
        else:
            raise LedgerError(f"no such grouping: {by!r}")
        width = max([len(name) for name in names] + [len("total")])
        lines = []
        for name in names:
            lines.append(f"{name:<{width}}  {amounts.show(sums[name]):>10}  {counts[name]:>4}")
        total = 0
        for name in names:
            total += sums[name]
        number = 0
        for name in names:
            number += counts[name]
        lines.append("-" * (width + 18))
        lines.append(f"{'total':<{width}}  {amounts.show(total):>10}  {number:>4}")
        return "\n".join(lines) + "\n"
    elif style == "markdown":
        if by == "month":
            sums = {}
            counts = {}
            for entry in entries:
                name = entry.day.strftime("%Y-%m")
                sums[name] = sums.get(name, 0) + entry.cents
                counts[name] = counts.get(name, 0) + 1
            names = sorted(sums)
        elif by == "category":
            sums = {}
            counts = {}
            for entry in entries:
                name = entry.category
                sums[name] = sums.get(name, 0) + entry.cents
                counts[name] = counts.get(name, 0) + 1
            names = sorted(sums, key=lambda name: (sums[name], name))
        else:
            raise LedgerError(f"no such grouping: {by!r}")
        lines = [f"| {by} | {currency} | entries |", "| --- | ---: | ---: |"]
        for name in names:
            shown = name.replace("|", "\\|")
            lines.append(f"| {shown} | {amounts.show(sums[name])} | {counts[name]} |")
        total = 0
        for name in names:
            total += sums[name]
        number = 0
        for name in names:
            number += counts[name]
        lines.append(f"| **total** | **{amounts.show(total)}** | **{number}** |")
        return "\n".join(lines) + "\n"
    elif style == "csv":
        if by == "month":
            sums = {}
            counts = {}
            for entry in entries:
                name = entry.day.strftime("%Y-%m")
                sums[name] = sums.get(name, 0) + entry.cents
                counts[name] = counts.get(name, 0) + 1
            names = sorted(sums)
        elif by == "category":
            sums = {}
            counts = {}
            for entry in entries:
                name = entry.category
                sums[name] = sums.get(name, 0) + entry.cents
                counts[name] = counts.get(name, 0) + 1
            names = sorted(sums, key=lambda name: (sums[name], name))
        else:
            raise LedgerError(f"no such grouping: {by!r}")
        lines = [f"{by},{currency},entries"]
        for name in names:
            shown = name
            if "," in shown or '"' in shown:
                shown = '"' + shown.replace('"', '""') + '"'
            lines.append(f"{shown},{amounts.show(sums[name])},{counts[name]}")
        return "\n".join(lines) + "\n"
    else:
        raise LedgerError(f"no such style: {style!r}")
