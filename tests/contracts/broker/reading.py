"""The contract of brokers: pages of the history, and search."""

from __future__ import annotations

from contracts.broker.base import Contract, Receiver, join, offsets, texts
from contracts.history import draft
from fastchat import protocol
from fastchat.brokers import Broker


class ReadingContract(Contract):
    """Pages and searches return what was published."""

    def test_pages_are_those_of_the_history(self) -> None:
        """`before` and `after` return what was published, up to their limits."""

        async def test(broker: Broker, receiver: Receiver) -> None:
            await join(broker)
            for number in range(1, 6):
                broker.publish(draft(str(number)), receiver.answer)
            await receiver.until_delivered(5)
            page = await self.pages_of(broker).before("a", 4, 2)
            assert (offsets(page), page.more) == ([2, 3], True)
            page = await self.pages_of(broker).after("a", 3, 9)
            assert (offsets(page), page.more) == ([4, 5], False)

        self.run(test)

    def test_page_is_bounded_in_bytes(self) -> None:
        """A page that leaves out messages for their size has `more`: the oldest going back, the
        newest going on."""

        async def test(broker: Broker, receiver: Receiver) -> None:
            await join(broker)
            for _ in range(100):
                broker.publish(draft("word " + "😀" * 3990), receiver.answer)
            await receiver.until_delivered(100)
            pages = self.pages_of(broker)
            back, on = await pages.before("a", None, 100), await pages.after("a", 0, 100)
            found = await pages.search("a", "word", 100)
            for page in (back, on, found):
                size = sum(map(len, page.payloads))
                assert protocol.MAX_REPLY_BYTES / 2 < size <= protocol.MAX_REPLY_BYTES
                assert page.more
            assert (offsets(back)[-1], offsets(on)[0]) == (100, 1)
            assert offsets(back) == list(range(101 - len(back.payloads), 101))
            assert offsets(on) == list(range(1, len(on.payloads) + 1))

        self.run(test)

    def test_search_is_that_of_the_history(self) -> None:
        """A search finds published messages, up to its limit."""

        async def test(broker: Broker, receiver: Receiver) -> None:
            await join(broker)
            for number in range(5):
                broker.publish(draft(f"word {number}"), receiver.answer)
            await receiver.until_delivered(5)
            assert len((await self.pages_of(broker).search("a", "word", 3)).payloads) == 3
            assert texts(await self.pages_of(broker).search("a", "4", 3)) == ["word 4"]

        self.run(test)
