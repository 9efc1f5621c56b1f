"""Daemons for tests of adapters."""

from tests.integration.conftest import client, shared_daemon, start_daemon

__all__ = ["client", "shared_daemon", "start_daemon"]
