"""Pure decisions: eviction, admission, promotion and prefetch."""
