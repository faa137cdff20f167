"""Record what notebook 08 falls back to, in the internet of tests/test_internet.py.

That has a user's machine, routers with NAT, a resolver, and nginx with TLS at www.example. As root:
python -m pytest notebooks/recordings/record_https.py
"""

import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1] / "tests"))
from test_internet import FILE, Internet, internet  # noqa: F401
from test_lan import network  # noqa: F401
from test_live import authority  # noqa: F401

CODE = """
import os, runpy
os.environ["SSL_CERT_FILE"] = sys.argv[1] + "/ca.pem"
record = runpy.run_path(sys.argv[2] + "/make_recording.py")["record"]
from pathlib import Path
folder = Path(sys.argv[2]).parent
for file in sorted(folder.rglob("08-*.ipynb")):
    record(file, name="www.example")
"""


@pytest.mark.timeout(120)
def test_record(internet: Internet) -> None:  # noqa: F811
    line = b"Transmission Control Protocol, as it was recorded.\\n"
    file = internet.site / FILE
    file.parent.mkdir(parents=True)
    file.write_bytes((line * 6000)[:250_000])
    print(internet.says(CODE, str(internet.authority), str(HERE)))
