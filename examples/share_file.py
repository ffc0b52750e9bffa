"""Share a file in a room, as a client that knows docs/protocol.md and nothing else.

pip install websockets
python share_file.py ws://127.0.0.1:8080/ws?username=Alice cat.png
"""

import asyncio
import json
import sys
from pathlib import Path

import websockets


async def share(connection, path):
    """Announce a file, send it piece by piece, and say where it is; returns its link."""
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
    """What the server answers to the command with this `ref`; all else is passed over."""
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
