import unittest

from textkit.strings import plain, shorten, slug


class Slugs(unittest.TestCase):
    def test_words_and_hyphens(self):
        self.assertEqual(slug("Über uns: das Team!"), "uber-uns-das-team")

    def test_letters_without_a_plain_form(self):
        self.assertEqual(plain("Straße Łódź 東"), "Strasse Lodz ")

    def test_a_limit_cuts_between_words(self):
        self.assertEqual(slug("one two three", limit=9), "one-two")
        self.assertEqual(slug("extraordinary", limit=5), "extra")

    def test_another_separator(self):
        self.assertEqual(slug("a b", "_"), "a_b")


class Short(unittest.TestCase):
    def test_short_enough(self):
        self.assertEqual(shorten("A line", 6), "A line")

    def test_cut_after_a_word(self):
        self.assertEqual(shorten("A long line", 8), "A long…")
