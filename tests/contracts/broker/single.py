"""The contract of one broker, from all of its parts."""

from __future__ import annotations

from contracts.broker.failures import FailureContract
from contracts.broker.joining import JoiningContract
from contracts.broker.presence import PresenceContract
from contracts.broker.publishing import PublishingContract
from contracts.broker.reading import ReadingContract


class BrokerContract(
    PublishingContract, JoiningContract, PresenceContract, ReadingContract, FailureContract
):
    """What every broker does; see `contracts.broker.base.Contract` for what to override."""
