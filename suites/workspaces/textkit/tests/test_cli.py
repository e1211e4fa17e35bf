import contextlib
import io
import tempfile
import unittest
from pathlib import Path

from textkit.cli import main


def call(*arguments):
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        code = main(arguments)
    return code, out.getvalue()


class CommandLine(unittest.TestCase):
    def test_slug(self):
        self.assertEqual(call("slug", "One two", "--separator", "_"), (0, "one_two\n"))

    def test_count(self):
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "a.txt"
            file.write_text("one two\nthree\n")
            self.assertEqual(call("count", str(file)), (0, "2\n"))
            self.assertEqual(call("count", "--words", str(file)), (0, "3\n"))
