"""docs/query.md, sentence by sentence."""

import random
import unittest
from datetime import UTC, datetime

from logwatch import query
from logwatch.records import Record

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def record(host="edge-1", client="192.0.2.7", method="GET", path="/orders/88", status=200, seconds=0.25):
    return Record(NOON, host, client, method, path, status, seconds)


def matches(text, **fields):
    return query.compile(text)(record(**fields))


class Comparisons(unittest.TestCase):
    def test_text(self):
        self.assertTrue(matches("host = edge-1"))
        self.assertFalse(matches("host = Edge-1"))
        self.assertTrue(matches("method != POST"))
        self.assertTrue(matches("path ~ orders"))
        self.assertFalse(matches('path ~ "Orders"'))
        self.assertTrue(matches('client="192.0.2.7"'))
        self.assertTrue(matches("path = /a,b;c?d*", path="/a,b;c?d*"))

    def test_numbers(self):
        self.assertTrue(matches("status = 503", status=503))
        self.assertTrue(matches("status >= 500", status=500))
        self.assertFalse(matches("status > 500", status=500))
        self.assertTrue(matches("status < 1000", status=200))
        self.assertTrue(matches("seconds <= 0.25"))
        self.assertTrue(matches('seconds != "0.5"'))
        self.assertTrue(matches("status = 200.0"))
        self.assertTrue(matches("seconds > 0", seconds=0.001))

    def test_quotes(self):
        self.assertTrue(matches(r'path = "/a b\"c\\d"', path='/a b"c\\d'))
        self.assertTrue(matches('path ~ ""'))
        self.assertTrue(matches('host = "or"', host="or"))
        self.assertTrue(matches('path = "a(b)<c>"', path="a(b)<c>"))
        self.assertTrue(matches('path = "日本"', path="日本"))


class Words(unittest.TestCase):
    def test_and_before_or(self):
        text = "host = a or host = b and status = 500"
        self.assertTrue(matches(text, host="a", status=200))
        self.assertFalse(matches(text, host="b", status=200))
        self.assertTrue(matches(text, host="b", status=500))

    def test_not_holds_for_the_next_part_alone(self):
        self.assertFalse(matches("not host = a and status = 500", host="b", status=200))
        self.assertTrue(matches("not (host = a and status = 500)", host="b", status=200))
        self.assertTrue(matches("not not host = a", host="a"))

    def test_case_and_space(self):
        self.assertTrue(matches("(status>=500)and host=edge-1", status=501))
        self.assertTrue(matches("NOT status = 500 AND(host~edge)"))
        self.assertTrue(matches("\tstatus\n=\n200 Or host=x "))
        self.assertTrue(matches("host = android", host="android"))
        self.assertTrue(matches("host = notes or host = order", host="order"))

    def test_against_a_tree_of_its_own(self):
        chance = random.Random(7)

        def tree(depth):
            if depth == 0 or chance.random() < 0.2:
                value = chance.randint(0, 3)
                return f"status = {value}", lambda one: one.status == value
            kind = chance.choice(["and", "or", "not"])
            if kind == "not":
                text, holds = tree(depth - 1)
                return f"not ({text})", lambda one: not holds(one)
            (left, a), (right, b) = tree(depth - 1), tree(depth - 1)
            if kind == "and":
                return f"({left}) and ({right})", lambda one: a(one) and b(one)
            return f"({left}) or ({right})", lambda one: a(one) or b(one)

        for _ in range(60):
            text, holds = tree(5)
            compiled = query.compile(text)
            for status in range(4):
                self.assertEqual(compiled(record(status=status)), holds(record(status=status)), text)

    def test_long_ones(self):
        self.assertTrue(query.compile(" or ".join(f"status = {n}" for n in range(3000)))(record(status=200)))


class Mistakes(unittest.TestCase):
    def position(self, text):
        with self.assertRaises(query.QueryError) as caught:
            query.compile(text)
        self.assertIsInstance(caught.exception, ValueError)
        self.assertTrue(str(caught.exception))
        return caught.exception.position

    def test_where_they_are(self):
        for text, position in {
            "": 0,
            "   ": 3,
            "status": 6,
            "status =": 8,
            "status = 500 and": 16,
            "(status = 500": 13,
            "status = 500)": 12,
            "status = 500 host = a": 13,
            "size = 3": 0,
            "Status = 3": 0,
            "and status = 3": 0,
            "status = 3 or or status = 4": 14,
            "host < b": 5,
            "status ~ 50": 7,
            "status = many": 9,
            'seconds > "soon"': 10,
            "status = 5x": 9,
            "host = or": 7,
            "host = NOT": 7,
            'host = "a\\n"': 9,
            'host = "abc': 7,
            "host == a": 6,
            "host ! a": 5,
            "()": 1,
            "host = a b": 9,
            "status = 1e3": 9,
            "status = nan": 9,
            "status = +5": 9,
        }.items():
            with self.subTest(text):
                self.assertEqual(self.position(text), position)

    def test_depth(self):
        deep = "(" * 50 + "status = 200" + ")" * 50
        self.assertTrue(query.compile(deep)(record()))
        self.assertEqual(self.position("(" + deep + ")"), 50)
        self.assertEqual(self.position("not " * 51 + "status = 1"), 200)
        self.assertEqual(self.position("(" * 100_000), 50)
        self.assertTrue(query.compile("not " * 50 + "status = 200")(record()))
        side_by_side = " and ".join(["(status = 200)"] * 200)
        self.assertTrue(query.compile(side_by_side)(record()))
