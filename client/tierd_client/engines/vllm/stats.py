"""What vLLM logs of the connector's transfers, every few seconds."""

from typing import Any

from vllm.distributed.kv_transfer.kv_connector.v1.metrics import KVConnectorStats

from tierd_client.engines.vllm.messages import Done


class Stats(KVConnectorStats):
    """Sums since they were last taken: plain numbers by name, since they travel."""

    def add(self, done: Done) -> None:
        """Count what workers have finished."""
        for loaded in done.loaded.values():
            self._count("failed_loads" if loaded.failed else "loads", 1)
            self._count("loaded_bytes", loaded.size)
            self._count("load_seconds", loaded.seconds)
        self._count("published_blocks", sum(len(indices) for indices in done.sealed.values()))

    def reset(self) -> None:
        """Start again from nothing."""
        self.data: dict[str, Any] = {}

    def aggregate(self, other: KVConnectorStats) -> KVConnectorStats:
        """Return the sums of both."""
        for name, value in other.data.items():
            self._count(name, value)
        return self

    def reduce(self) -> dict[str, Any]:
        """Return what is logged."""
        return {name: round(value, 3) for name, value in self.data.items()}

    def is_empty(self) -> bool:
        """Say whether nothing happened."""
        return not any(self.data.values())

    def _count(self, name: str, value: float) -> None:
        self.data[name] = self.data.get(name, 0) + value
