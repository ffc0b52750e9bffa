"""`fastchat_client.SyncChat`: calls without asyncio, from any thread."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator

import pytest

from fastchat_client import ChatError, Join, Leave, Message, Refused, SyncChat
from support.server_in_thread import serving


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving() as running:
        yield f"http://127.0.0.1:{running.port}"


def test_script_sends_and_reads(url: str) -> None:
    """Each call waits for its result; the iteration gives the events in order."""
    with SyncChat(url, username="Ann") as ann, SyncChat(url, username="Bob") as bob:
        room = ann.room("lobby")
        there = bob.room("lobby")
        sent = there.send("deployed")
        there.edit(sent.offset, "deployed twice")
        there.react(sent.offset, "👋")
        there.typing()
        there.send("yes", reply_to=sent.offset)
        there.delete(sent.offset)
        events = iter(room)
        came = next(each for each in events if isinstance(each, Join))
        said = next(each for each in events if isinstance(each, Message))
        assert (came.username, said.text, said.offset) == ("Bob", "deployed", 1)
        assert [each.username for each in room.users or ()] == ["Ann", "Bob"]
        page = there.history(limit=1)
        assert page.messages[0].own_text == "yes"
        assert [each.offset for each in there.search("yes")] == [page.messages[0].offset]
        with pytest.raises(Refused, match="author"):
            room.edit(page.messages[0].offset, "no")
        bob.close()
        assert any(isinstance(each, Leave) for each in events)


def test_message_of_a_sync_chat_has_no_coroutines(url: str) -> None:
    """Its methods say what to call instead."""
    with SyncChat(url, username="Ann") as chat:
        room = chat.room("alone")
        room.send("one")
        said = room.next_event(timeout=10)
        assert isinstance(said, Message)
        with pytest.raises(RuntimeError, match=r"room\.send"):
            said.reply("two").send(None)
        assert room.next_event(timeout=0.01) is None


def test_threads_share_a_chat(url: str) -> None:
    """Calls of several threads at a time all get their own results."""
    with SyncChat(url, username="Ann") as chat:
        offsets: list[int] = []

        def send() -> None:
            offsets.append(chat.room("threads").send("hello").offset)

        threads = [threading.Thread(target=send) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(offsets) == list(range(1, 9))


def test_call_that_takes_too_long_is_given_up() -> None:
    """A server that is not there ends a call after the timeout of the chat."""
    with SyncChat("ws://127.0.0.1:1", username="Ann", timeout=0.05) as chat:
        with pytest.raises(ChatError) as late:
            chat.room("lobby")
        assert (late.value.code, late.value.temporary) == ("timeout", True)


def test_closed_chat_and_forked_process_are_errors(url: str) -> None:
    """A chat is closed for good, and belongs to the process that has made its first call."""
    chat = SyncChat(url, username="Ann")
    chat.room("forked")
    child = os.fork()
    if child == 0:
        try:
            chat.room("forked")
        except RuntimeError:
            os._exit(7)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    chat.close()
    chat.close()
    with pytest.raises(ChatError, match="closed"):
        chat.room("forked")
