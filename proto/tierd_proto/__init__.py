"""The wire between clients and the daemon."""
