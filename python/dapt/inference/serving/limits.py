"""The limits of a request, and how it is refused."""

from collections.abc import Mapping
from dataclasses import dataclass

from dapt.errors import check_at_least

MOST_CLOUDS = 64  # in one request


@dataclass(frozen=True)
class Limits:
    """The limits of a server.

    Args:
        megabytes: The largest size of a request's body, in MiB.
        points: The largest number of points in all clouds of a request.
        seconds: The longest time from a request's first byte to its answer.
        queue: The largest number of concurrent requests; further ones are refused.
        batch: The largest number of clouds that go through the network together.
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
        """The largest size of a request's body, in bytes."""
        return self.megabytes * 2**20

    def check_points(self, count: int) -> None:
        """Refuse more points than a request may have.

        Args:
            count: The number of points in its clouds so far.
        """
        if count > self.points:
            raise Refused(
                413,
                f"the request has {count:,} points, and this server takes at most {self.points:,}",
            )

    def check_clouds(self, count: int) -> None:
        """Refuse more clouds than a request may have.

        Args:
            count: The number of its clouds.
        """
        if count > MOST_CLOUDS:
            raise Refused(413, f"a request may hold {MOST_CLOUDS} clouds: send several requests")


class Refused(Exception):
    """Raised for a request that is not served.

    Args:
        status: The HTTP status.
        sentence: The message for the client.
        headers: Further headers of the response.
    """

    def __init__(self, status: int, sentence: str, headers: Mapping[str, str] | None = None):
        super().__init__(sentence)
        self.status, self.headers = status, dict(headers or {})
