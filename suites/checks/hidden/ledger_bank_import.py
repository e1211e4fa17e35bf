"""`import`, by the command line alone, with exports of other months."""

import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

HEAD = '"Account";"DE02 1203"\r\n"Period";"01.03.2026 - 31.03.2026"\r\n\r\n'
COLUMNS = ["Booked", "Value", "Payee", "Purpose", "Amount", "State"]


def export(*rows, columns=COLUMNS, head=HEAD, bom=False):
    lines = [";".join('"' + cell.replace('"', '""') + '"' for cell in row) for row in [columns, *rows]]
    return (("\ufeff" if bom else "") + head + "\r\n".join(lines) + "\r\n").encode()


def booking(day, payee, purpose, amount, state="booked"):
    return [day, day, payee, purpose, amount, state]


SHOP = booking("14.03.2026", "Market Hall", "Weekly shop", "-23,40")
PAY = booking("28.03.2026", "Harbour Works", "Salary; March", "2.450,00")
TRAM = booking("16.03.2026", "Tram", 'Ticket "Zone B"', "-2,80")


class Import(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.accounts = self.folder / "a.ledger"
        self.accounts.write_text("2026-03-01  rent  -780.00  March\n")

    def call(self, content, *arguments):
        (self.folder / "export.csv").write_bytes(content)
        environment = os.environ | {"PYTHONPATH": str(Path.cwd() / "src"), "HOME": str(self.folder)}
        command = [sys.executable, "-m", "ledger", "a.ledger", "import", "export.csv", *arguments]
        return subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True)

    def imported(self):
        return [line.split(maxsplit=3) for line in self.accounts.read_text(encoding="utf-8").splitlines()[1:]]

    def test_bookings_become_entries(self):
        answer = self.call(export(SHOP, PAY, TRAM))
        self.assertEqual(
            (answer.returncode, answer.stdout.strip()), (0, "3 new, 0 known, 0 skipped"), answer.stderr
        )
        self.assertEqual(
            self.imported(),
            [
                ["2026-03-14", "unsorted", "-23.40", "Market Hall: Weekly shop"],
                ["2026-03-28", "unsorted", "2450.00", "Harbour Works: Salary; March"],
                ["2026-03-16", "unsorted", "-2.80", 'Tram: Ticket "Zone B"'],
            ],
        )

    def test_a_byte_order_mark_another_head_and_other_columns(self):
        columns = ["Booked", "Amount", "State", "Purpose", "Payee", "Balance"]
        row = ["01.04.2026", "-1.234.567,89", "booked", "House", "Notary", "0,00"]
        head = '"Customer";"4711"\r\n"Note";"Booked; and more\r\nof it"\r\n\r\n\r\n'
        self.call(export(row, columns=columns, head=head, bom=True))
        self.assertEqual(self.imported(), [["2026-04-01", "unsorted", "-1234567.89", "Notary: House"]])

    def test_line_breaks_within_a_field(self):
        self.call(export(booking("02.03.2026", "Club", "Fee\r\n  for  the\nyear", "-60,00")))
        self.assertEqual(self.imported()[0][3], "Club: Fee for the year")

    def test_pending_bookings_wait(self):
        answer = self.call(export(SHOP, booking("30.03.2026", "Hotel", "Deposit", "-200,00", "pending")))
        self.assertEqual(answer.stdout.strip(), "1 new, 0 known, 1 skipped")
        self.assertEqual(len(self.imported()), 1)

    def test_a_second_time_nothing_is_new(self):
        content = export(SHOP, TRAM, TRAM, PAY)
        self.assertEqual(self.call(content).stdout.strip(), "4 new, 0 known, 0 skipped")
        before = self.accounts.read_text(encoding="utf-8")
        self.assertEqual(self.call(content).stdout.strip(), "0 new, 4 known, 0 skipped")
        self.assertEqual(self.accounts.read_text(encoding="utf-8"), before)

    def test_of_an_overlapping_export_only_the_rest(self):
        self.call(export(SHOP, TRAM))
        self.assertEqual(self.call(export(TRAM, TRAM, TRAM, PAY)).stdout.strip(), "3 new, 1 known, 0 skipped")
        self.assertEqual(len(self.imported()), 5)

    def test_what_was_sorted_meanwhile_is_known(self):
        self.call(export(SHOP))
        self.accounts.write_text(self.accounts.read_text().replace("unsorted ", "groceries"))
        self.assertEqual(self.call(export(SHOP)).stdout.strip(), "0 new, 1 known, 0 skipped")

    def test_another_category(self):
        self.call(export(SHOP), "--category", "inbox")
        self.assertEqual(self.imported()[0][1], "inbox")

    def test_what_the_settings_leave_out(self):
        (self.folder / "ledger.toml").write_text('[import]\nskip = ["internal transfer"]\n')
        moved = booking("05.03.2026", "Myself", "INTERNAL TRANSFER to savings", "-500,00")
        self.assertEqual(self.call(export(moved, SHOP)).stdout.strip(), "1 new, 0 known, 1 skipped")

    def test_a_mistake_changes_nothing(self):
        before = self.accounts.read_text()
        broken = [
            export(SHOP, booking("31.02.2026", "A", "B", "-1,00")),
            export(SHOP, booking("01.03.2026", "A", "B", "12.5")),
            export(SHOP, booking("01.03.2026", "A", "B", "1.23,00")),
            export(SHOP, booking("01.03.2026", "A", "B", "")),
            HEAD.encode(),
            export(SHOP[:5], columns=COLUMNS[:5]),
        ]
        for content in broken:
            answer = self.call(content)
            self.assertEqual(answer.returncode, 1, content)
            self.assertTrue(answer.stderr.startswith("ledger: "), answer.stderr)
            self.assertEqual(self.accounts.read_text(), before)

    def test_the_accounts_can_be_read_afterwards(self):
        self.accounts.write_text("2026-03-01  rent  -780.00  March")
        self.call(export(SHOP, booking("01.03.2026", "", "Interest", "0,05")))
        self.assertEqual(len(self.accounts.read_text().splitlines()), 3)
