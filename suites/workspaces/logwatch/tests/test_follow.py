import tempfile
import unittest
from pathlib import Path

from logwatch.follow import Follower


class Following(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = Path(folder.name) / "edge.log"

    def test_a_file_that_is_not_there_yet(self):
        follower = Follower(self.path)
        self.assertEqual(follower.poll(), [])
        self.path.write_text("one\n")
        self.assertEqual(follower.poll(), ["one"])

    def test_only_what_is_new(self):
        follower = Follower(self.path)
        self.path.write_text("one\ntwo\n")
        follower.poll()
        with self.path.open("a") as file:
            file.write("three\n")
        self.assertEqual(follower.poll(), ["three"])
        self.assertEqual(follower.poll(), [])
