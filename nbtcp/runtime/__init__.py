"""The only rooms with clocks, threads and file descriptors."""
