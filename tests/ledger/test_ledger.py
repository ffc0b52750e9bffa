"""Tests of the ledger as a history: the contract, several machines, and commits in doubt."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from contracts.history import HistoryContract
from fastchat.history import History
from fastchat.ledger.appending import Limits
from fastchat.ledger.url import EngineUrl
from support.ledger import LedgerHistory


class TestContract(HistoryContract):
    @pytest.fixture
    def history(self, url: EngineUrl) -> Iterator[History]:
        history = LedgerHistory(url, Limits(stored=self.KEPT, slack=self.SLACK))
        yield history
        history.close()
