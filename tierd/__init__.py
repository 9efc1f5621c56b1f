"""A daemon that keeps the KV cache of LLM inference in tiers, and finds it again by prefix."""
