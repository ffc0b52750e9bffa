// Builds the parts of the page and introduces them to one another.

import { Actions } from "./actions.js";
import { Chat } from "./chat.js";
import { Composer } from "./composer.js";
import { byId } from "./dom.js";
import { Log } from "./log.js";
import { fillPerson } from "./names.js";
import { Outbox } from "./outbox.js";
import { Past } from "./past.js";
import { People } from "./people.js";
import { Question } from "./question.js";
import { roomFromHash } from "./rooms.js";
import { Search } from "./search.js";
import { Status } from "./status.js";
import { Storage } from "./storage.js";
import { Toast } from "./toast.js";
import { Typing } from "./typing.js";
import { Walk } from "./walk.js";

class App {
  #storage = new Storage();
  // For the token, which ends with the tab.
  #tab = new Storage("sessionStorage");
  #outbox = new Outbox(this.#storage);
  #name = this.#storage.get("name");
  #people = new People();
  #typing = new Typing();
  #status = new Status(() => this.#chat.reconnect());
  #toast = new Toast();
  #log = new Log({
    retry: (id) => this.#chat.retry(id),
    discard: (id) => this.#chat.discard(id),
    older: () => this.#past.older(),
    newer: () => this.#past.newer(),
  });
  #actions = new Actions({
    self: () => this.#chat.timeline.self,
    moderates: () => this.#chat.moderates,
    find: (offset) => this.#chat.timeline.find(offset),
    react: (entry, emoji) => this.#react(entry, emoji),
    edit: (entry) => this.#composer.edit(entry),
    remove: ({ offset }) => this.#change({ type: "delete", offset }),
  });
  #composer = new Composer(this.#storage, {
    send: (text) => this.#send(text),
    typing: () => this.#chat.typing(),
    save: (entry, text) => this.#save(entry, text),
    last: () => this.#chat.timeline?.lastOwn,
  });
  #search = new Search({ ask: (command) => this.#chat.ask(command), reveal: (offset) => this.#reveal(offset) });
  #nameQuestion = new Question("name", "Please type a name.", (name) => this.#named(name));
  #tokenQuestion = new Question("token", "Please paste a token.", (token) => this.#admitted(token));
  #chat = new Chat(`${location.protocol.replace("http", "ws")}//${location.host}/ws`, {
    storage: this.#storage,
    outbox: this.#outbox,
    token: () => this.#token,
    on: {
      joined: (reply) => this.#joined(reply),
      refused: (error) => this.#refused(error),
      denied: (sentence) => this.#denied(sentence),
      phase: (state) => this.#status.update(state),
      changed: () => this.#changed(),
      people: () => this.#people.show(this.#chat.roster),
      typing: (name) => this.#typing.add(name),
      quiet: (name) => this.#typing.remove(name),
    },
  });
  #past = new Past(this.#chat);
  #walk = new Walk(() => this.#composer.focus());

  start() {
    addEventListener("hashchange", () => this.#go());
    addEventListener("online", () => this.#chat.wake());
    document.addEventListener("visibilitychange", () => document.hidden || this.#chat.wake());
    byId("change-name").addEventListener("click", () => (this.#token ? this.#signOut() : this.#rename()));
    this.#go();
  }

  get #token() {
    return this.#tab.get("token");
  }

  // Goes where the address says.
  #go() {
    const { room, valid } = roomFromHash(location.hash);
    this.#typing.clear();
    this.#search.clear();
    this.#showRoom(room, valid);
    if (!valid) this.#chat.quit();
    else if (!this.#name && !this.#token) this.#askName({ required: true });
    else this.#chat.enter({ name: this.#name, room });
    this.#composer.focus();
  }

  #send(text) {
    this.#log.follow();
    this.#chat.send(text);
  }

  #changed() {
    this.#log.show(this.#chat.timeline);
    this.#actions.refresh();
  }

  #react({ offset, reactions }, emoji) {
    const remove = reactions.get(emoji)?.includes(this.#chat.timeline.self);
    this.#change({ type: "react", offset, emoji, remove });
  }

  // What could not be saved goes back to where it was written, unless something else is there by now.
  async #save(entry, text) {
    const answer = await this.#change({ type: "edit", offset: entry.offset, text });
    if (answer.type === "error" && answer.temporary && this.#composer.isEmpty) this.#composer.edit(entry, text);
  }

  async #change(command) {
    const answer = await this.#chat.ask(command);
    if (answer.type === "error") this.#toast.say(answer.message);
    return answer;
  }

  async #reveal(offset) {
    if (await this.#past.around(offset)) this.#log.reveal(offset);
    else this.#toast.say("This message cannot be shown at the moment.");
  }

  #rename() {
    this.#people.close();
    this.#askName({ value: this.#name, required: false });
  }

  #askName(options) {
    byId("name-title").textContent = options.required ? "What should we call you?" : "Change your name";
    this.#nameQuestion.open(options);
  }

  #named(name) {
    this.#name = name || this.#storage.get("name");
    this.#go();
  }

  #admitted(token) {
    this.#tab.set("token", token);
    this.#go();
  }

  // There is no token yet, or none that is of use any more.
  #denied(sentence) {
    const error = this.#token && sentence;
    this.#tab.set("token", "");
    this.#people.close();
    this.#tokenQuestion.open({ required: true, error });
  }

  // Leaves nothing behind but the name, with which the page asks for a token again.
  #signOut() {
    this.#chat.quit();
    this.#tab.set("token", "");
    this.#outbox.forget(this.#name);
    this.#composer.forget();
    location.reload();
  }

  #joined({ username }) {
    this.#name = username;
    this.#storage.set("name", username);
    fillPerson(byId("own"), username);
    byId("own").hidden = false;
    byId("change-name").textContent = this.#token ? "Sign out" : "Change name";
  }

  #refused({ message }) {
    const kept = this.#storage.get("name");
    this.#askName({ value: this.#name, required: !kept || kept === this.#name, error: message });
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
