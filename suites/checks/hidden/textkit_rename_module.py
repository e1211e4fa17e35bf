"""The module's new name everywhere, and its old one for those who still use it."""

import os
import re
import subprocess
import sys
import tomllib
import unittest
from pathlib import Path

OLD = re.compile(r"textkit[./]strings|from textkit import strings|import_module\(.textkit\.strings")


def python(code, *options):
    environment = os.environ | {"PYTHONPATH": str(Path("src").resolve())}
    return subprocess.run(
        [sys.executable, *options, "-c", code], env=environment, capture_output=True, text=True
    )


class NewName(unittest.TestCase):
    def test_it_holds_everything(self):
        answer = python(
            "from textkit.words import plain, slug, shorten, print_slug\n"
            "assert slug.__module__ == 'textkit.words'\n"
            "assert slug('Ein Weg') == 'ein-weg' and shorten('A long line', 8) == 'A long…'"
        )
        self.assertEqual(answer.returncode, 0, answer.stderr)

    def test_the_package_itself_uses_it(self):
        code = "import sys, textkit.cli, textkit.tables; assert 'textkit.strings' not in sys.modules"
        answer = python(code, "-W", "error")
        self.assertEqual(answer.returncode, 0, answer.stderr)
        answer = python("from textkit.cli import main; main(['slug', 'Zwei Wege'])", "-W", "error")
        self.assertEqual(answer.stdout, "zwei-wege\n", answer.stderr)

    def test_the_program_slug(self):
        scripts = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
        module, _, function = scripts["slug"].partition(":")
        self.assertEqual((module, scripts["textkit"]), ("textkit.words", "textkit.cli:main"))
        answer = python(
            f"import sys; sys.argv = ['slug', 'Drei', 'Wege']; from {module} import {function}; {function}()"
        )
        self.assertEqual(answer.stdout, "drei-wege\n")


class OldName(unittest.TestCase):
    def test_it_warns_and_is_the_same(self):
        answer = python(
            "import warnings\n"
            "with warnings.catch_warnings(record=True) as caught:\n"
            "    warnings.simplefilter('always')\n"
            "    import textkit.strings\n"
            "assert [w.category for w in caught] == [DeprecationWarning], caught\n"
            "assert 'textkit.words' in str(caught[0].message)\n"
            "import textkit.words\n"
            "for name in ('plain', 'slug', 'shorten', 'print_slug'):\n"
            "    assert getattr(textkit.strings, name) is getattr(textkit.words, name), name\n"
        )
        self.assertEqual(answer.returncode, 0, answer.stderr)

    def test_all_its_forms(self):
        for code in (
            "from textkit import strings; print(strings.slug('a b'))",
            "from textkit.strings import slug; print(slug('a b'))",
        ):
            self.assertEqual(python(code).stdout, "a-b\n")
            self.assertNotEqual(python(code, "-W", "error::DeprecationWarning").returncode, 0)

    def test_nothing_else_names_it(self):
        files = [
            *Path("src").rglob("*.py"),
            *Path("tests").rglob("*.py"),
            Path("README.md"),
            Path("pyproject.toml"),
        ]
        naming = [
            str(file)
            for file in files
            if file.name != "strings.py" and OLD.search(file.read_text(encoding="utf-8"))
        ]
        # A test of the old name may name it; README may say that it is going away.
        allowed = {
            str(file)
            for file in Path("tests").rglob("*.py")
            if "DeprecationWarning" in file.read_text(encoding="utf-8")
        }
        self.assertEqual(sorted(set(naming) - allowed - {"README.md"}), [])
        self.assertIn("from textkit.words import", Path("README.md").read_text(encoding="utf-8"))

    def test_the_changes_tell_of_it(self):
        text = Path("CHANGELOG.md").read_text(encoding="utf-8")
        self.assertTrue("textkit.words" in text and "textkit.strings" in text)
        self.assertIn("3.1.0", text)
