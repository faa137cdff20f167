"""How fast this machine is: limits of CPU time are meant for the one on which they were set."""

import time


def slowness() -> float:
    """How many times longer Python takes here than there, at least 1."""

    def took() -> float:
        began = time.process_time()
        sorted(map(str, range(200_000)))
        return time.process_time() - began

    return max(1.0, min(took() for _ in range(3)) / 0.03)
