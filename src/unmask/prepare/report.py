"""What a conversion did: rows read and kept, and everything left out by reason, each with its first example."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Count:
    """How often something happened, and where first."""

    number: int
    first: str


@dataclass
class Report:
    """Counts of one shard, or of a whole conversion.

    Attributes:
        read: published rows met; always `kept` and all of `dropped` together.
        kept: rows written.
        dropped: rows left out, by reason.
        notes: what else was worth counting.
        refused: members of archives that were not used, by reason.
    """

    read: int = 0
    kept: int = 0
    dropped: dict[str, Count] = field(default_factory=dict)
    notes: dict[str, Count] = field(default_factory=dict)
    refused: dict[str, Count] = field(default_factory=dict)

    def keep(self) -> None:
        """One row is written."""
        self.read += 1
        self.kept += 1

    def drop(self, reason: str, where: str) -> None:
        """One row is left out."""
        self.read += 1
        add(self.dropped, reason, 1, where)

    def take_back(self, reason: str, where: str) -> None:
        """A row that was kept is left out after all."""
        self.kept -= 1
        add(self.dropped, reason, 1, where)

    def add(self, other: "Report") -> None:
        """Take in the counts of a later shard."""
        self.read += other.read
        self.kept += other.kept
        for mine, theirs in ((self.dropped, other.dropped), (self.notes, other.notes), (self.refused, other.refused)):
            for reason, count in theirs.items():
                add(mine, reason, count.number, count.first)

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "read": self.read,
            "kept": self.kept,
            **{
                name: {reason: {"count": count.number, "first": count.first} for reason, count in sorted(counts.items())}
                for name, counts in (("dropped", self.dropped), ("notes", self.notes), ("refused_members", self.refused))
            },
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Report":
        """What `as_json` gave."""
        counts = [
            {reason: Count(each["count"], each["first"]) for reason, each in value[name].items()}
            for name in ("dropped", "notes", "refused_members")
        ]
        return cls(value["read"], value["kept"], *counts)

    def lines(self) -> Iterable[tuple[str, int, str]]:
        """What happened, how often, first example: the rows of the table for people."""
        yield "rows read", self.read, ""
        yield "rows kept", self.kept, ""
        named = (("dropped", self.dropped), ("note", self.notes), ("member refused", self.refused))
        for title, counts in named:
            for reason, count in sorted(counts.items()):
                yield f"{title}: {reason}", count.number, count.first


def add(counts: dict[str, Count], reason: str, number: int, where: str) -> None:
    """Count a reason; the first place stays."""
    if reason in counts:
        counts[reason].number += number
    else:
        counts[reason] = Count(number, where)


def dumps(value: Any) -> str:
    """JSON whose bytes depend on the value only."""
    return json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
