// Builds the parts of the page and introduces them to one another.

import { Chat } from "./chat.js";
import { Composer } from "./composer.js";
import { byId } from "./dom.js";
import { Log } from "./log.js";
import { NameDialog } from "./name-dialog.js";
import { fillPerson } from "./names.js";
import { People } from "./people.js";
import { roomFromHash } from "./rooms.js";
import { Status } from "./status.js";
import { Storage } from "./storage.js";
import { Typing } from "./typing.js";

class App {
  #storage = new Storage();
  #name = this.#storage.get("name");
  #people = new People();
  #typing = new Typing();
  #status = new Status(() => this.#chat.reconnect());
  #log = new Log({ retry: (id) => this.#chat.retry(id), discard: (id) => this.#chat.discard(id) });
  #composer = new Composer({ send: (text) => this.#send(text), typing: () => this.#chat.typing() });
  #dialog = new NameDialog((name) => this.#named(name));
  #chat = new Chat(`${location.protocol.replace("http", "ws")}//${location.host}/ws`, {
    storage: this.#storage,
    on: {
      joined: (reply) => this.#joined(reply),
      refused: (error) => this.#refused(error),
      phase: (state) => this.#status.update(state),
      changed: () => this.#log.show(this.#chat.timeline),
      people: () => this.#people.show(this.#chat.roster),
      typing: (name) => this.#typing.add(name),
      quiet: (name) => this.#typing.remove(name),
    },
  });

  start() {
    addEventListener("hashchange", () => this.#go());
    addEventListener("online", () => this.#chat.wake());
    document.addEventListener("visibilitychange", () => document.hidden || this.#chat.wake());
    byId("change-name").addEventListener("click", () => this.#rename());
    this.#go();
  }

  // Goes where the address says.
  #go() {
    const { room, valid } = roomFromHash(location.hash);
    this.#typing.clear();
    this.#showRoom(room, valid);
    if (!valid) this.#chat.quit();
    else if (!this.#name) this.#dialog.open({ name: "", required: true });
    else this.#chat.enter({ name: this.#name, room });
    this.#composer.focus();
  }

  #send(text) {
    this.#log.follow();
    this.#chat.send(text);
  }

  #rename() {
    this.#people.close();
    this.#dialog.open({ name: this.#name, required: false });
  }

  #named(name) {
    this.#name = name || this.#storage.get("name");
    this.#go();
  }

  #joined({ username }) {
    this.#name = username;
    this.#storage.set("name", username);
    fillPerson(byId("own"), username);
    byId("own").hidden = false;
  }

  #refused({ message }) {
    const kept = this.#storage.get("name");
    this.#dialog.open({ name: this.#name, required: !kept || kept === this.#name, error: message });
  }

  #showRoom(room, valid) {
    for (const element of document.querySelectorAll("[data-room]")) element.textContent = room;
    document.title = `#${room} · fastchat`;
    byId("bad-room").hidden = valid;
    byId("conversation").hidden = !valid;
    this.#composer.room = valid ? room : null;
  }
}

new App().start();
