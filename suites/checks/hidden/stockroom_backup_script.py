"""The nightly script, over folders and databases of other names."""

import os
import re
import subprocess
import tempfile
import unittest
from pathlib import Path

SCRIPT = Path("scripts/backup.sh").resolve()


class Backup(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.database = self.folder / "stock.db"
        self.database.write_bytes(b"database \0 1")

    def call(self, *arguments):
        words = [str(argument) for argument in arguments]
        return subprocess.run(
            ["bash", str(SCRIPT), *words], cwd=self.folder, capture_output=True, text=True, timeout=30
        )

    def old_copies(self, folder, number):
        folder.mkdir(parents=True, exist_ok=True)
        names = [
            f"stock-2025{number:02d}{day:02d}-020000.db" for number in (1, 2) for day in range(1, number + 3)
        ][:number]
        for age, name in enumerate(names):
            (folder / name).write_text("old")
            # Restored from tape: the times of the files say nothing.
            os.utime(folder / name, (2_000_000_000 - age, 2_000_000_000 - age))
        return names

    def copies(self, folder):
        return sorted(
            path.name for path in folder.iterdir() if re.fullmatch(r"stock-\d{8}-\d{6}\.db", path.name)
        )

    def test_a_copy(self):
        folder = self.folder / "copies"
        answer = self.call(self.database, folder)
        self.assertEqual(answer.returncode, 0, answer.stderr)
        self.assertEqual(len(self.copies(folder)), 1)
        self.assertEqual((folder / self.copies(folder)[0]).read_bytes(), b"database \0 1")

    def test_names_with_blanks_and_stars(self):
        database = self.folder / "Stock Room" / "our stock*.db"
        database.parent.mkdir()
        database.write_text("blank")
        folder = self.folder / "to a disk" / "of  two *"
        self.assertEqual(self.call(database, folder).returncode, 0)
        self.assertEqual((folder / self.copies(folder)[0]).read_text(), "blank")
        self.assertEqual(
            {path.name for path in self.folder.iterdir()}, {"Stock Room", "to a disk", "stock.db"}
        )

    def test_relative_paths(self):
        self.assertEqual(self.call("stock.db", "copies").returncode, 0)
        self.assertEqual(len(self.copies(self.folder / "copies")), 1)

    def test_as_many_stay_as_are_to_stay(self):
        folder = self.folder / "copies"
        names = self.old_copies(folder, 5)
        self.assertEqual(self.call(self.database, folder, 3).returncode, 0)
        found = self.copies(folder)
        self.assertEqual(found[:2], names[-2:])
        self.assertEqual(len(found), 3)

    def test_seven_where_nothing_is_said(self):
        folder = self.folder / "copies"
        for day in range(1, 13):
            folder.mkdir(exist_ok=True)
            (folder / f"stock-202501{day:02d}-020000.db").write_text("old")
        self.call(self.database, folder)
        self.assertEqual(
            self.copies(folder)[:6], [f"stock-202501{day:02d}-020000.db" for day in range(7, 13)]
        )
        self.assertEqual(len(self.copies(folder)), 7)

    def test_one(self):
        folder = self.folder / "copies"
        self.old_copies(folder, 3)
        self.call(self.database, folder, 1)
        self.assertEqual((folder / self.copies(folder)[0]).read_bytes(), b"database \0 1")
        self.assertEqual(len(self.copies(folder)), 1)

    def test_other_files_stay(self):
        folder = self.folder / "copies"
        self.old_copies(folder, 4)
        others = ["README.txt", "stock-of-wood.db", "stock-20250101-020000.db.asc", "a b.db"]
        for name in others:
            (folder / name).write_text("mine")
        (folder / "2024").mkdir()
        self.assertEqual(self.call(self.database, folder, 1).returncode, 0)
        self.assertEqual(
            {path.name for path in folder.iterdir()} - set(self.copies(folder)), {*others, "2024"}
        )

    def test_a_failure_is_told_and_costs_no_copy(self):
        folder = self.folder / "copies"
        names = self.old_copies(folder, 3)
        for database in (self.folder / "gone.db", self.folder):
            answer = self.call(database, folder, 1)
            self.assertNotEqual(answer.returncode, 0)
            self.assertTrue(answer.stderr.strip())
            self.assertNotIn("backup done", answer.stdout)
            self.assertEqual(sorted(path.name for path in folder.iterdir()), sorted(names))

    def test_a_folder_that_can_not_be_made(self):
        (self.folder / "file").write_text("")
        answer = self.call(self.database, self.folder / "file" / "copies")
        self.assertNotEqual(answer.returncode, 0)
        self.assertNotIn("backup done", answer.stdout)

    def test_how_many_is_a_number_from_one(self):
        folder = self.folder / "copies"
        names = self.old_copies(folder, 2)
        for keep in ("0", "-1", "many", "2x", "1.5"):
            self.assertEqual(self.call(self.database, folder, keep).returncode, 2, keep)
        self.assertEqual(self.copies(folder), sorted(names))

    def test_without_arguments(self):
        for arguments in ((), (self.database,)):
            answer = self.call(*arguments)
            self.assertEqual(answer.returncode, 2)
            self.assertTrue(answer.stderr.strip())
        self.assertEqual([path.name for path in self.folder.iterdir()], ["stock.db"])
