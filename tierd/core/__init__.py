"""Nouns that every room shares: keys, layouts, errors, units."""
