"""Remembers across restarts which blocks the disk holds."""
