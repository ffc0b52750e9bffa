"""Share a file in a room, with docs/protocol.md and a WebSocket library only.

pip install websockets
python share_file.py ws://127.0.0.1:8080/ws?username=Alice cat.png
"""

import asyncio
import json
import sys
from pathlib import Path

import websockets


async def share(connection, path):
    """Upload a file in binary messages, send a message with its link, and return the link."""
    content = path.read_bytes()
    announcement = {"type": "upload", "name": path.name, "size": len(content), "ref": "file"}
    await connection.send(json.dumps(announcement))
    chunk_bytes = (await reply(connection, "file"))["chunk_bytes"]
    for start in range(0, len(content), chunk_bytes):
        await connection.send(content[start : start + chunk_bytes])
    link = (await reply(connection, "file"))["link"]
    await connection.send(json.dumps({"text": link}))
    return link


async def reply(connection, ref):
    """Wait for the server's reply to the command with this `ref`; skip all other events."""
    async for message in connection:
        event = json.loads(message)
        if event.get("ref") == ref:
            if event["type"] == "error":
                sys.exit(event["message"])
            return event
    sys.exit("The server has closed the connection.")


async def main(address, path):
    async with websockets.connect(address) as connection:
        print(await share(connection, path))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2])))
