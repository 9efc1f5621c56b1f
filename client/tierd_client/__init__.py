"""What an inference process imports to fetch and publish KV blocks."""
