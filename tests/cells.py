"""Run a notebook's cells from top to bottom, as IPython does, in its folder.

python cells.py NOTEBOOK

What they print and show goes to stdout as text; pictures are made, but not painted. That takes half
the time that a kernel does. An exception ends it, with exit code 1.
"""

import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat


def main(notebook: Path) -> None:
    from IPython.core.interactiveshell import InteractiveShell
    from traitlets.config import Config

    os.chdir(notebook.parent)
    shell = InteractiveShell(config=Config({"HistoryManager": {"enabled": False}}))
    shell.display_formatter.active_types = ["text/plain"]
    for cell in nbformat.read(notebook, as_version=4).cells:
        if cell.cell_type == "code":
            shell.run_cell(cell.source).raise_error()


if __name__ == "__main__":
    with TemporaryDirectory() as folder:
        os.environ["IPYTHONDIR"] = folder  # nothing of the user's, nothing into it
        main(Path(sys.argv[1]).resolve())
