"""A file that is rotated, cut, and written in pieces."""

import os
import tempfile
import unittest
from pathlib import Path

from logwatch.follow import Follower


class Following(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.path = self.folder / "edge.log"
        self.follower = Follower(self.path)

    def write(self, text, path=None):
        with (path or self.path).open("ab") as file:
            file.write(text.encode() if isinstance(text, str) else text)

    def rotate(self, to="edge.log.1"):
        self.path.replace(self.folder / to)

    def test_a_line_in_pieces_is_given_once_it_is_whole(self):
        self.write("one\ntw")
        self.assertEqual(self.follower.poll(), ["one"])
        self.write("o")
        self.assertEqual(self.follower.poll(), [])
        self.write("\nthree\nfo")
        self.assertEqual(self.follower.poll(), ["two", "three"])

    def test_a_character_in_pieces(self):
        whole = "grün 東\n".encode()
        for cut in range(1, len(whole)):
            self.write(whole[:cut])
            early = self.follower.poll()
            self.write(whole[cut:])
            self.assertEqual(early + self.follower.poll(), ["grün 東"])

    def test_bytes_that_are_no_text(self):
        self.write(b"a\xff\xfeb\nnext\n")
        found = self.follower.poll()
        self.assertEqual((len(found), found[1]), (2, "next"))
        self.assertTrue(found[0].startswith("a"))

    def test_only_line_feeds_end_a_line(self):
        self.write("a\x0bb\x0cc\u2028d\x85e\n")
        self.write("dos\r\n\n")
        self.assertEqual(self.follower.poll(), ["a\x0bb\x0cc\u2028d\x85e", "dos", ""])

    def test_rotation_loses_nothing(self):
        self.write("one\n")
        self.assertEqual(self.follower.poll(), ["one"])
        self.write("two\n")
        self.rotate()
        self.write("three\n")
        self.assertEqual(self.follower.poll(), ["two", "three"])
        self.assertEqual(self.follower.poll(), [])

    def test_a_new_file_that_is_longer_than_the_old_one(self):
        self.write("1\n")
        self.follower.poll()
        self.rotate()
        self.write("".join(f"line {number}\n" for number in range(50)))
        self.assertEqual(self.follower.poll(), [f"line {number}" for number in range(50)])

    def test_a_file_that_was_removed_and_made_anew(self):
        self.write("one\n")
        self.follower.poll()
        self.write("two\n")
        self.path.unlink()
        self.assertEqual(self.follower.poll(), ["two"])
        self.assertEqual(self.follower.poll(), [])
        self.write("one\nthree\n")
        self.assertEqual(self.follower.poll(), ["one", "three"])

    def test_removed_and_made_anew_between_two_calls(self):
        for turn in range(5):
            self.write(f"turn {turn} a\n")
            self.follower.poll()
            self.path.unlink()
            self.write(f"turn {turn} b, which is longer\nmore\n")
            self.assertEqual(self.follower.poll(), [f"turn {turn} b, which is longer", "more"])
            self.rotate()
            self.follower.poll()

    def test_the_old_file_gets_more_before_the_new_one_is_there(self):
        self.write("one\n")
        self.follower.poll()
        self.rotate()
        self.write("two\n", self.folder / "edge.log.1")
        self.assertEqual(self.follower.poll(), ["two"])
        self.write("three\n", self.folder / "edge.log.1")
        self.write("four\n")
        self.assertEqual(self.follower.poll(), ["three", "four"])

    def test_several_rotations(self):
        found = []
        for number in range(6):
            self.write(f"{number}a\n{number}b\n")
            found += self.follower.poll()
            self.write(f"{number}c\n")
            self.rotate(f"edge.log.{number}")
        found += self.follower.poll()
        self.assertEqual(found, [f"{number}{letter}" for number in range(6) for letter in "abc"])

    def test_a_file_that_is_cut(self):
        self.write("one\ntwo\nthree\n")
        self.follower.poll()
        os.truncate(self.path, 0)
        self.write("four\n")
        self.assertEqual(self.follower.poll(), ["four"])
        self.write("five\n")
        self.assertEqual(self.follower.poll(), ["five"])

    def test_cut_and_empty(self):
        self.write("one\n")
        self.follower.poll()
        os.truncate(self.path, 0)
        self.assertEqual(self.follower.poll(), [])
        self.write("one\n")
        self.assertEqual(self.follower.poll(), ["one"])

    def test_an_unfinished_line_of_the_old_file(self):
        self.write("one\nhal")
        self.follower.poll()
        self.rotate()
        self.write("new\n")
        self.assertEqual(self.follower.poll(), ["hal", "new"])

    def test_an_unfinished_line_of_a_file_that_is_cut(self):
        self.write("one\nunfinish")
        self.follower.poll()
        os.truncate(self.path, 0)
        self.write("new\n")
        self.assertEqual(self.follower.poll(), ["unfinish", "new"])

    def test_an_unfinished_line_waits_while_there_is_no_new_file(self):
        self.write("one\nhal")
        self.follower.poll()
        self.rotate()
        self.assertEqual(self.follower.poll(), [])
        self.write("f\n", self.folder / "edge.log.1")
        self.assertEqual(self.follower.poll(), ["half"])
