"""What all tests share: when tests marked `root` can run, and hypothesis without chance."""

import importlib
import os

import pytest
from hypothesis import settings

DEVICE = "/dev/net/tun"

settings.register_profile("nbtcp", derandomize=True, deadline=None)
settings.load_profile("nbtcp")


def pytest_configure(config: pytest.Config) -> None:
    """Have matplotlib look for fonts once, before all others: what takes it long it tells on
    stderr, where programs and notebooks are to say nothing.
    """
    if not hasattr(config, "workerinput"):
        importlib.import_module("matplotlib.font_manager")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests marked `root` where they cannot run, and say what is missing."""
    if missing := missing_for_root():
        for item in items:
            if item.get_closest_marker("root"):
                item.add_marker(pytest.mark.skip(reason=missing))


def missing_for_root() -> str:
    """What this user or machine lacks for tests marked `root`; empty if nothing."""
    if os.geteuid() != 0:
        return f"needs root, and this is user {os.geteuid()}"
    if not os.access(DEVICE, os.R_OK | os.W_OK):
        return f"needs {DEVICE}, which is not there or may not be opened"
    return ""
