"""What happened: the event log, its tables, and pictures of them."""
