"""Every policy in the real store: the laws hold at every step, and what is evicted is not found."""

import random
import string

import pytest

from tests.policies.replaying import Make
from tests.stores import Driver, page_layout, spelled, store_config, tier
from tierd.control import events as ev
from tierd.control.policies import Policies
from tierd_policies.admission import AlwaysAdmit
from tierd_policies.promotion import PromoteOnHit
from tierd_policies.registry import EVICTION


@pytest.mark.parametrize("make", list(EVICTION.values()), ids=list(EVICTION))
def test_the_laws_hold_under(make: Make) -> None:
    source = random.Random(3)
    policies = Policies(make, AlwaysAdmit, PromoteOnHit(hits_min=2))
    tiers = (tier("device", 4), tier("host", 8), tier("disk", 16))
    driver = Driver(store_config(*tiers, policies=policies), page_layout("m"))
    for _ in range(150):
        text = "".join(source.choices(string.ascii_lowercase[:3], k=source.randint(1, 6)))
        fetched = driver.fetch(text)
        driver.publish(text)
        if fetched.lease:
            driver.release(fetched.lease)
        driver.settle()
        if source.random() < 0.1:
            driver.feed(ev.EndSession(0, spelled(text), shared=1))
    used = [space.used for space in driver.store.room.spaces[0]]
    assert used[1] > 4
    assert used[2] > 8
    assert driver.store.room.evicted[2] > 20
