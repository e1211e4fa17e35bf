"""Every line on a page, whatever the numbers."""

import unittest

from almanac.pages import count, footer, pages


class Pages(unittest.TestCase):
    def test_every_line_is_on_a_page(self):
        for number in range(40):
            lines = [f"line {index}" for index in range(number)]
            for per_page in range(1, 9):
                for reserved in range(per_page):
                    with self.subTest(lines=number, per_page=per_page, reserved=reserved):
                        found = pages(lines, per_page, reserved)
                        self.assertEqual([line for page in found for line in page], lines)
                        self.assertEqual(len(found), count(lines, per_page, reserved))
                        self.assertTrue(all(0 < len(page) <= per_page - reserved for page in found))
                        self.assertTrue(all(len(page) == per_page - reserved for page in found[:-1]))

    def test_a_page_has_at_least_one_line(self):
        for per_page, reserved in ((0, 0), (1, 1), (2, 5), (-1, 0)):
            with self.assertRaises(ValueError):
                pages(["a"], per_page, reserved)

    def test_the_footer(self):
        self.assertEqual(footer(2, 3), "SV Nordlicht - 2 of 3")
