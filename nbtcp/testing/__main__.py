"""`python -m nbtcp.testing FILE...`: runs scripts, one line each.

Exit codes: 0 all passed, 1 one failed, 2 one could not be understood or there was none.
"""

import sys
from pathlib import Path

from . import ScriptError, ScriptFailure, run


def main(names: list[str]) -> int:
    """Run the files; returns the exit code."""
    if not names:
        print("usage: python -m nbtcp.testing FILE...", file=sys.stderr)
        return 2
    worst = 0
    for name in names:
        try:
            result = run(Path(name))
        except ScriptFailure as failure:
            print(f"FAIL {name}\n{failure}")
            worst = max(worst, 1)
        except ScriptError as error:
            print(f"ERROR {name}\n{error}")
            worst = 2
        else:
            print(f"{result.printed}PASS {name}")
    return worst


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
