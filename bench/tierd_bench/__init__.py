"""Replays traces, measures the daemon, and compares it with the machine's own limits."""
