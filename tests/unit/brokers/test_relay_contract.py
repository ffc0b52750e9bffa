"""The contract of brokers on one worker of several."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from contracts.broker import (
    AdministrationContract,
    Receiver,
    SeveralBrokersContract,
    new_rooms,
)
from fastchat.brokers import Broker, Pages, Presence
from fastchat.brokers.relay.administration import RelayAdministration
from fastchat.brokers.relay.bounds import Bounds
from fastchat.brokers.relay.client import RelayBroker
from fastchat.brokers.relay.pages import RelayPages
from fastchat.brokers.relay.server import Relay
from fastchat.history import History
from fastchat.metrics import Metrics
from fastchat.rooms.administration import Administration
from fastchat.rooms.contract import Rooms
from support.relay import new_history
from support.slow_rooms import SlowRooms


class TestContract(SeveralBrokersContract, AdministrationContract):
    @pytest.fixture(autouse=True)
    def _directory(self, tmp_path: Path) -> None:
        self.directory = tmp_path

    @pytest.fixture
    def history(self) -> History:
        return new_history()

    def presence_of(self, broker: Broker) -> Presence:
        assert isinstance(broker, RelayBroker)
        return broker

    def pages_of(self, broker: Broker) -> Pages:
        assert isinstance(broker, RelayBroker)
        return RelayPages(broker)

    def administration_of(self, broker: Broker) -> Administration:
        assert isinstance(broker, RelayBroker)
        return RelayAdministration(broker)

    @contextlib.asynccontextmanager
    async def brokers(self, receivers: Sequence[Receiver]) -> AsyncIterator[list[Broker]]:
        relay = Relay(self.directory, self.rooms, Metrics(), workers=len(receivers))
        await relay.start()
        made = []
        for number, receiver in enumerate(receivers, 1):
            broker = RelayBroker(
                self.directory,
                name=f"worker-{number}",
                metrics=Metrics(),
                bounds=Bounds(retry_s=0.005),
            )
            broker.open(delivery=receiver, receiver=receiver)
            made.append(broker)
        await asyncio.gather(*(broker.start() for broker in made))
        try:
            yield list(made)
        finally:
            for broker in made:
                await broker.close()
                broker._timer.cancel()
            await relay.close()
            await asyncio.sleep(0.01)


class TestContractOnSlowRooms(TestContract):
    def make_rooms(self) -> Rooms:
        return SlowRooms(new_rooms(self.faulty))
