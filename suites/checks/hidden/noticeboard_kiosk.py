"""What the lobby's screen shows, as it was written down."""

import json
import unittest
from pathlib import Path

ROOMS = [
    ("Laundry", "Okafor", "10:30"),
    ("Guest room", "Lindqvist", "Sunday 11:00"),
    ("Workshop", "Marchetti", "18:45"),
    ("Roof terrace", "nobody", "free"),
    ("Bicycle cellar", "house meeting", "20:15"),
]


class Written(unittest.TestCase):
    def test_what_is_shown(self):
        document = json.loads(Path("rooms.json").read_text(encoding="utf-8"))
        self.assertEqual(set(document), {"rooms", "notice"})
        self.assertEqual(
            document["rooms"],
            [{"room": room, "booked_by": person, "until": until} for room, person, until in ROOMS],
        )
        self.assertEqual(document["notice"], "Door code changes to 7318 on Monday.")
