"""Daemons, and the stand-in for a GPU's driver, as other tests have them."""

from tests.gpu.conftest import on_standin
from tests.integration.conftest import client, shared_daemon, start_daemon

__all__ = ["client", "on_standin", "shared_daemon", "start_daemon"]
