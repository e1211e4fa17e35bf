import argparse
from pathlib import Path

from noticeboard.app import App
from noticeboard.server import serve
from noticeboard.store import Store

ROOT = Path(__file__).resolve().parents[2]

parser = argparse.ArgumentParser(prog="noticeboard")
parser.add_argument("--data", type=Path, default=Path("notices.json"))
parser.add_argument("--port", type=int, default=8080)
options = parser.parse_args()
serve(App(Store(options.data), ROOT / "templates", ROOT / "static"), options.port)
