"""The package of the client in JavaScript, its types, and the client in Node."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from support.server import TIMEOUT_UNIT_S, running_server

ROOT = Path(__file__).parents[2]
TOOLS = ROOT / "build" / "node" / "node_modules" / ".bin"
TIMEOUT_S = 60 * TIMEOUT_UNIT_S

#: Writes what Node received. Between its two lines, the test kills the server and starts it again.
PROGRAM = """
import { Chat } from "fastchat-client";
const [url] = process.argv.slice(2);
const chat = new Chat(url, { username: "Node" });
const room = await chat.join("lobby");
const heard = [];
room.on("message", ({ text }, missed) => heard.push([text.replace(/.files.*[/]/, ""), missed]));
await room.send("one", { files: [new File(["notes"], "notes.txt")] });
await new Promise((done) => {
  chat.on("status", ({ phase }) => phase === "waiting" && done());
  console.log("ready");
});
const { offset } = await room.send("two", { replyTo: 1 });
await room.edit(offset, "three");
const { messages } = await room.history({ before: offset });
const found = await room.search("notes");
const { code } = await room.send("").catch((error) => error);
const counts = [messages.length, found.length];
console.log(JSON.stringify({ heard, offset, code, counts, text: room.messages.at(-1).text }));
chat.close();
"""

#: Compiles if the types are right, and has one error, which must be found.
TYPED = """
import { Chat, ChatError, type Message, type Status } from "fastchat-client";
const chat = new Chat(new URL("https://chat.example"), { token: async () => "t", WebSocket });
const remove: () => void = chat.on("status", ({ phase, error }: Status) => error?.retryAfter);
const room = await chat.join("lobby", { history: 10, keep: 50 });
room.on("message", ({ text, reactions }, missed) => [text.length, reactions?.["x"], !missed]);
room.on("edit delete react", (event) => event);
room.on("gap", ({ since, replaced }) => [since.offset, replaced]);
const sent: number = (await room.send("a", { replyTo: 42, files: [] })).offset;
const people: string[] | undefined = room.users?.map(({ username }) => username);
const page: Message[] = (await room.history({ before: sent })).messages;
const failure = new ChatError("code", "message", { temporary: true });
// @ts-expect-error
room.on("gap", ({ text }) => text);
"""


def tool(name: str) -> Path:
    if not (TOOLS / name).exists():
        pytest.skip(f"`make node` could not install {name}")
    return TOOLS / name


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a project that has installed the package."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm is not installed")
    folder = tmp_path_factory.mktemp("project")
    command = [npm, "pack", "--offline", "--silent", "--pack-destination", folder]
    subprocess.run(command, cwd=ROOT / "clients" / "js", check=True, timeout=TIMEOUT_S)
    (package,) = folder.glob("*.tgz")
    subprocess.run(["tar", "-xf", package, "-C", folder], check=True, timeout=TIMEOUT_S)
    (folder / "node_modules").mkdir()
    (folder / "package").rename(folder / "node_modules" / "fastchat-client")
    return folder


def test_package_has_the_same_files(project: Path) -> None:
    """The package contains the file that the server serves, its types, the licence and a text about
    it. Nothing stays in the folder that it was made in."""
    package = project / "node_modules" / "fastchat-client"
    names = {"package.json", "README.md", "LICENSE", "client.js", "client.d.ts"}
    assert {file.name for file in package.iterdir()} == names
    for name in ("client.js", "client.d.ts"):
        assert (package / name).read_bytes() == (ROOT / "static" / name).read_bytes()
    assert (package / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
    left = {file.name for file in (ROOT / "clients" / "js").iterdir()}
    assert left == {"package.json", "README.md"}


def test_client_works_in_node(project: Path, tmp_path: Path) -> None:
    """Node chats, shares a file and continues after the server was killed. At the end nothing keeps
    it running."""
    (project / "program.mjs").write_text(PROGRAM, "utf-8")
    settings = ("--data", str(tmp_path / "data"))
    with running_server(*settings) as server:
        command = [tool("node"), "program.mjs", server.url]
        with subprocess.Popen(command, cwd=project, stdout=subprocess.PIPE, text=True) as node:
            try:
                assert node.stdout is not None
                assert node.stdout.readline() == "ready\n"
                server.kill()
                with running_server(*settings, port=server.port):
                    told = json.loads(node.communicate(timeout=TIMEOUT_S)[0])
                assert node.returncode == 0
            finally:
                node.kill()
    reply = "> @Node #1\n> one\n> notes.txt\n\ntwo"
    assert told == {
        "heard": [["one\nnotes.txt?size=5", False], [reply, False]],
        "offset": 2,
        "code": "no_text",
        "counts": [1, 1],
        "text": "three",
    }


def test_types_are_right(project: Path) -> None:
    """A program in TypeScript that uses the client compiles under the strictest settings."""
    (project / "typed.mts").write_text(TYPED, "utf-8")
    options = ["--noEmit", "--strict", "--target", "es2022", "--module", "nodenext"]
    run = subprocess.run(
        [tool("node"), tool("tsc"), *options, "--lib", "es2022,dom", "typed.mts"],
        cwd=project,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert run.stdout == ""
    assert run.returncode == 0
