"""Caches of finite size, in tokens: where the simulation goes on after the paper."""

from collections import OrderedDict


class PrefixCache:
    """Keeps the beginnings of agents' contexts, evicting the least recently used one's end first.

    A context is only found from its beginning, so its last tokens go first and what stays is
    always a prefix. A size of 0 keeps nothing.
    """

    __slots__ = ("_held", "_tokens", "_tokens_max")

    def __init__(self, tokens_max: int) -> None:
        self._tokens_max = tokens_max
        self._held: OrderedDict[int, int] = OrderedDict()
        self._tokens = 0

    def held(self, agent: int) -> int:
        """Return how many tokens of the agent's context are here."""
        return self._held.get(agent, 0)

    def put(self, agent: int, tokens: int) -> None:
        """Make `agent` the most recent, with at least `tokens` of its context, if they fit."""
        if not self._tokens_max:
            return
        kept = min(max(tokens, self.held(agent)), self._tokens_max)
        self._tokens += kept - self._held.pop(agent, 0)
        self._held[agent] = kept
        while self._tokens > self._tokens_max:
            self._cut_coldest()

    def drop(self, agent: int) -> None:
        """Forget an agent that has ended."""
        self._tokens -= self._held.pop(agent, 0)

    def _cut_coldest(self) -> None:
        agent, tokens = next(iter(self._held.items()))
        over = self._tokens - self._tokens_max
        if tokens > over:
            self._held[agent] = tokens - over
        else:
            del self._held[agent]
        self._tokens -= min(tokens, over)
