"""New lines of a log that is still being written."""

from pathlib import Path


class Follower:
    """Gives the lines that were added to a file since the last call.

    The file may not be there yet. What stood in it before the first call counts as new.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._position = 0

    def poll(self) -> list[str]:
        """The new lines, without their ends, oldest first."""
        if not self.path.exists():
            return []
        with self.path.open(encoding="utf-8") as file:
            file.seek(self._position)
            lines = file.read().splitlines()
            self._position = file.tell()
        return lines
