"""The cheapest way to cut a network in two: augmenting paths, shortest first."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Hashable

NEVER = 10**15  # what an edge costs that may not be cut


class Network:
    """Nodes with directed edges, each of which costs something where it leads from the source's part to the sink's."""

    def __init__(self, source: Hashable, sink: Hashable) -> None:
        self.source, self.sink = source, sink
        self.capacity: dict[Hashable, dict[Hashable, int]] = defaultdict(lambda: defaultdict(int))

    def edge(self, start: Hashable, end: Hashable, cost: int) -> None:
        self.capacity[start][end] += cost
        self.capacity[end][start] += 0  # the way back, for what is sent and taken again

    def source_part(self) -> set[Hashable]:
        """What is left with the source by a cheapest cut, and of these cuts the one that leaves the least there."""
        while self.sink in (previous := self._reached()):
            path = [self.sink]
            while path[-1] != self.source:
                path.append(previous[path[-1]])
            edges = list(zip(path[1:], path, strict=False))
            least = min(self.capacity[start][end] for start, end in edges)
            if least >= NEVER:
                raise ValueError("no cut: two nodes must be together and apart")
            for start, end in edges:
                self.capacity[start][end] -= least
                self.capacity[end][start] += least
        return set(previous)

    def _reached(self) -> dict[Hashable, Hashable]:
        """What the source still reaches, each with the node before it on a shortest path."""
        previous: dict[Hashable, Hashable] = {self.source: self.source}
        waiting = deque([self.source])
        while waiting and self.sink not in previous:
            start = waiting.popleft()
            for end, left in self.capacity[start].items():
                if left > 0 and end not in previous:
                    previous[end] = start
                    waiting.append(end)
        return previous
