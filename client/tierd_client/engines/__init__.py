"""Adapters between the client and inference engines."""
