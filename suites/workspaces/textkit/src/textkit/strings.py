"""Single strings."""

import re
import sys
import unicodedata


def plain(text: str) -> str:
    """A text in ASCII: accents are dropped, as is what has no plain form."""
    text = text.replace("ß", "ss").replace("ø", "o").replace("Ø", "O").replace("ł", "l").replace("Ł", "L")
    return unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()


def slug(text: str, separator: str = "-", limit: int | None = None) -> str:
    """A text as part of an address; at most `limit` characters, cut between words where that is possible."""
    words = re.findall(r"[a-z0-9]+", plain(text).lower())
    if limit is None:
        return separator.join(words)
    found = ""
    for word in words:
        longer = f"{found}{separator}{word}" if found else word
        if len(longer) > limit:
            break
        found = longer
    return found or (words[0][:limit] if words else "")


def shorten(text: str, width: int, mark: str = "…") -> str:
    """A text of at most `width` characters, cut after a word, with a mark where something is missing."""
    if len(text) <= width:
        return text
    cut = text[: width - len(mark) + 1]
    kept = cut.rsplit(" ", 1)[0] if " " in cut else cut[:-1]
    return kept.rstrip() + mark


def print_slug() -> None:
    """The program `slug`."""
    print(slug(" ".join(sys.argv[1:])))
