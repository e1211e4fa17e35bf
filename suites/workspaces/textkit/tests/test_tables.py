import unittest

from textkit.tables import table, wrap


class Tables(unittest.TestCase):
    def test_columns(self):
        self.assertEqual(table([["a", "bbb"], ["cc", "d"]]), "a   bbb\ncc  d\n")

    def test_to_the_right(self):
        self.assertEqual(table([["a", "bbb"], ["cc", "d"]], "right"), " a  bbb\ncc    d\n")

    def test_nothing(self):
        self.assertEqual(table([]), "")


class Wrapping(unittest.TestCase):
    def test_paragraphs_stay_apart(self):
        self.assertEqual(wrap("one two\nthree\n\nfour", 7), "one two\nthree\n\nfour")
