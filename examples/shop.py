"""A shop with FastAPI: it posts news of orders, shows who is online, and bans users.

fastchat key new shop --rights publish,read,moderate --rooms 'order-*' --api-key-file keys.json
fastchat serve --api-key-file keys.json
pip install fastapi uvicorn ./clients/python
CHAT_KEY=fastchat_key_… uvicorn shop:app --port 8000

curl -X POST 'http://127.0.0.1:8000/orders/17/status?status=shipped'
"""

import os
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from fastchat_client import API, ChatError


@asynccontextmanager
async def lifespan(app: FastAPI):
    url = os.environ.get("CHAT_URL", "http://127.0.0.1:8080")
    async with API(url, key=os.environ["CHAT_KEY"]) as app.state.chat:
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/orders/{number}/status")
async def set_status(number: int, status: str, request: Request):
    """Tell the customer. The id makes sure that each status is posted once."""
    text = f"Your order is {status}."
    room = f"order-{number}"
    sent = await request.app.state.chat.publish(room, text, id=f"{number}-{status}")
    return {"offset": sent.offset, "posted_before": sent.repeated}


@app.get("/orders/{number}/online")
async def online(number: int, request: Request):
    users = await request.app.state.chat.users(f"order-{number}")
    return [{"user": each.user, "name": each.username} for each in users]


@app.put("/orders/{number}/bans/{user}")  # in your shop: for your staff only
async def ban(number: int, user: str, request: Request, seconds: int = 3600):
    """Remove a user from the room of an order, and keep them out."""
    await request.app.state.chat.ban(user, seconds=seconds, room=f"order-{number}")


@app.exception_handler(ChatError)
async def explain(request: Request, error: ChatError):
    """The chat has refused something, or does not answer."""
    status = 503 if error.temporary else 502
    return JSONResponse({"code": error.code, "message": error.message}, status)
