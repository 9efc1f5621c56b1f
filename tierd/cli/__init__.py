"""The `tierd` command."""
