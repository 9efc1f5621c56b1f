"""A real daemon and a real client, over a socket."""
