"""Lines on pages."""


def count(lines, per_page, reserved=0):
    """How many pages the lines need, where `reserved` lines of each page are kept for something else."""
    usable = per_page - reserved
    if usable < 1:
        raise ValueError("a page has at least one line")
    return len(lines) // usable


def pages(lines, per_page, reserved=0):
    """Lists of at most `per_page` lines, less those that are reserved."""
    usable = per_page - reserved
    starts = [number * usable for number in range(count(lines, per_page, reserved))]
    return [lines[start : start + usable] for start in starts]


def footer(number, of, club="SV Nordlicht"):
    """What stands below a page; pages are counted from one."""
    return f"{club} - {number} of {of}"
