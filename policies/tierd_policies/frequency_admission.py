"""Admission to disk by how often a block was seen lately."""

from tierd.core.keys import BlockKey
from tierd_policies.sketch import FrequencySketch


class FrequencyAdmission:
    """Write a block when it was seen `sightings_min` times lately, however long its key is gone.

    Where a list of ghosts forgets the oldest key whole, the sketch forgets half of what it saw
    of all of them.

    Units: 4 bytes for each of `keys_expected`; O(1).

    Source: TinyLFU as an admission policy (Einziger et al., ToS 2017); the threshold of two is
    the disk filter of NVIDIA Dynamo's block manager.
    """

    def __init__(self, sightings_min: int = 2, keys_expected: int = 1 << 18) -> None:
        self._sightings_min = sightings_min
        self._sketch = FrequencySketch(keys_expected)

    def admit(self, key: BlockKey) -> bool:
        """Note a sighting of `key`, and say whether there were enough."""
        self._sketch.see(key)
        return self._sketch.count(key) >= self._sightings_min
