"""One connection: pure. No clock, no sockets, no randomness; time comes as `now`, in ns."""
