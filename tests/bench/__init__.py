"""Tests of the replayer and what it reads."""
