"""What a rank has sent for a step."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Communication:
    """Rounds in which ranks exchange values, and by collective the number of calls and the bytes that leave this rank.

    Of an all_to_all they are what is for others, of an all_reduce what a ring sends. Batches are under way together, so
    that a rank waits for fewer rounds than there are.
    """

    rounds: int = 0
    calls: dict[str, int] = field(default_factory=dict)
    bytes: dict[str, int] = field(default_factory=dict)

    def count(self, kind: str, sent: int) -> None:
        """One more call."""
        self.calls[kind] = self.calls.get(kind, 0) + 1
        self.bytes[kind] = self.bytes.get(kind, 0) + sent

    def count_reduction(self, sent: int, ranks: int) -> None:
        """One more all_reduce, of so many bytes."""
        self.count("all_reduce", 2 * (ranks - 1) * sent // ranks)

    def add(self, other: Communication) -> None:
        """What has been sent beside this."""
        self.rounds += other.rounds
        for kind, calls in other.calls.items():
            self.calls[kind] = self.calls.get(kind, 0) + calls
            self.bytes[kind] = self.bytes.get(kind, 0) + other.bytes[kind]
