"""One seed, from its first client to its last: safety all along, and liveness at the end."""

from random import Random

from tests.simulation.clients import Client, Prober
from tests.simulation.mediums import DEVICE, DISK, LAYOUTS
from tests.simulation.world import Outcome, World
from tierd.control import events as ev

_CLIENTS = 5
_ACCIDENTS = 12
_ACCIDENT_EVERY_NS = 25


def run_seed(seed: int) -> Outcome:
    """Simulate one daemon; an error has the seed and the last events as notes."""
    with World(seed) as world:
        return _run(world)


def _run(world: World) -> Outcome:
    rng = world.rng
    clients = [_new_client(world, number) for number in range(1, _CLIENTS + 1)]
    for layout in LAYOUTS:
        world.feed(ev.OpenNamespace(1, world.next_request(), "", layout))
    world.begin_faults()
    for _ in range(_ACCIDENTS):
        world.run_until(world.now_ns + rng.randint(1, 2 * _ACCIDENT_EVERY_NS))
        _have_accident(world, clients, rng)
        living = sum(not client.gone for client in clients)
        for _ in range(_CLIENTS - living):
            clients.append(_new_client(world, len(clients) + 1))
    world.end_faults()
    _end(world, clients)
    return Outcome(
        world.seed,
        world.steps,
        world.now_ns,
        sum(client.reads for client in clients),
        sum(client.blocks_read for client in clients),
        sum(client.misses for client in clients),
        world.mediums.spoilt,
        world.recoveries,
    )


def _have_accident(world: World, clients: list[Client], rng: Random) -> None:
    living = [client for client in clients if not client.gone]
    kind = rng.randrange(7)
    if kind == 0:
        world.take_offline(DISK)
    elif kind == 1:
        world.take_offline(DEVICE)
    elif kind == 2 and living:
        rng.choice(living).die()
    elif kind == 3 and living:
        rng.choice(living).lose_stream()
    elif kind == 4:
        world.scrub()
    elif kind == 5:
        world.take_read_only(DISK)


def _end(world: World, clients: list[Client]) -> None:
    """Faults have stopped: every client finishes what it does, and is answered."""
    for client in clients:
        client.leaving = True
    world.run_out()
    assert not world.asked, ("never answered", world.asked)
    for client in clients:
        client.die()
    world.run_out()
    prober = Prober(world, len(clients) + 1, owner=1)
    world.run_out()
    assert prober.passed == len(LAYOUTS), "the last client is stuck"
    prober.die()
    world.run_out()
    world.check_idle()


def _new_client(world: World, number: int) -> Client:
    return Client(world, number, None if number % 3 == 0 else 10 * number)
