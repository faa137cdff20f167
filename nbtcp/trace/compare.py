"""Several logs side by side, as `nbtcp.compare({"reno": log, "cubic": other})` has them."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Unpack

if TYPE_CHECKING:
    import pandas as pd

    from .log import EventLog
    from .plot import Options, Picture


class Comparison:
    """Logs, each under its name (`logs`). The tables have a column `run` in front, the name."""

    def __init__(self, logs: "Mapping[str, EventLog]") -> None:
        if not logs:
            raise ValueError('compare takes logs by name, as {"reno": log, "cubic": other}')
        self.logs = dict(logs)

    def __repr__(self) -> str:
        return f"<Comparison of {', '.join(self.logs)}>"

    def directions(self) -> "pd.DataFrame":
        """`EventLog.directions` of each."""
        return self._table(lambda log: log.directions())

    def summary(self) -> "pd.DataFrame":
        """`EventLog.summary` of each."""
        return self._table(lambda log: log.summary())

    def retransmissions(self) -> "pd.DataFrame":
        """`EventLog.retransmissions` of each."""
        return self._table(lambda log: log.retransmissions())

    def rtt(self) -> "pd.DataFrame":
        """`EventLog.rtt` of each."""
        return self._table(lambda log: log.rtt())

    def plot(self, kind: str = "window", **options: "Unpack[Options]") -> "Picture":
        """One line of each log in one picture: cwnd of "window", the ACK of "sequence", SRTT of
        "rtt", goodput of "throughput", packets of "queue". ValueError names the kinds there are;
        `options` are those of every picture (`log.plot`).
        """
        from .plot import compared

        return compared(self.logs, kind, **options)

    def _table(self, make: "Callable[[EventLog], pd.DataFrame]") -> "pd.DataFrame":
        import pandas as pd

        parts = {run: make(log) for run, log in self.logs.items()}
        table = pd.concat([part.assign(run=run) for run, part in parts.items()], ignore_index=True)
        table.insert(0, "run", table.pop("run"))
        return table


def compare(logs: "Mapping[str, EventLog]") -> Comparison:
    """Several logs side by side: tables and pictures of all; see `Comparison`."""
    return Comparison(logs)
