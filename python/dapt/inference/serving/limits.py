"""How much a request may ask for, and how it is refused."""

from collections.abc import Mapping
from dataclasses import dataclass

from dapt.errors import check_at_least

MOST_CLOUDS = 64  # in one request


@dataclass(frozen=True)
class Limits:
    """What a server takes on.

    Args:
        megabytes: The size in MiB of a request's body.
        points: Of all clouds of a request.
        seconds: From a request's first byte to its answer.
        queue: Requests at a time; further ones are sent away.
        batch: Clouds that go through the network together.
    """

    megabytes: int = 32
    points: int = 500_000
    seconds: float = 60.0
    queue: int = 128
    batch: int = 32

    def __post_init__(self):
        check_at_least(self, megabytes=1, points=1, seconds=0.1, queue=1, batch=1)

    @property
    def bytes(self) -> int:
        """Of a request's body."""
        return self.megabytes * 2**20

    def check_points(self, count: int) -> None:
        """Refuse more points than a request may have.

        Args:
            count: The number of all its clouds so far.
        """
        if count > self.points:
            raise Refused(
                413,
                f"the request has {count:,} points, and this server takes at most {self.points:,}",
            )

    def check_clouds(self, count: int) -> None:
        """Refuse more clouds than a request may have.

        Args:
            count: How many it has.
        """
        if count > MOST_CLOUDS:
            raise Refused(413, f"a request may hold {MOST_CLOUDS} clouds: send several requests")


class Refused(Exception):
    """A request that is not served.

    Args:
        status: Of HTTP.
        sentence: For whoever asked.
        headers: The headers of the answer.
    """

    def __init__(self, status: int, sentence: str, headers: Mapping[str, str] | None = None):
        super().__init__(sentence)
        self.status, self.headers = status, dict(headers or {})
