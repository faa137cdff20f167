"""asyncio: `await nbtcp.aio.open_connection(host, address, port)` and so on; see runtime/aio.py."""

from .runtime.aio import create_connection, create_server, open_connection, start_server

__all__ = ["create_connection", "create_server", "open_connection", "start_server"]
