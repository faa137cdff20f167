"""Errors are part of the product: one line that says what happened, why, and what helps."""


class NbtcpError(Exception):
    """Any failure of nbtcp: one line that says what happened, why, and what helps."""


class MachineError(NbtcpError):
    """This machine cannot: no root, no /dev/net/tun, namespaces refused, a program missing.

    The command line turns it into exit code 2.
    """
