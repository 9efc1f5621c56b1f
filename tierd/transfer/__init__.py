"""Moves bytes between tiers, as control has planned."""
