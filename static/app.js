// Builds the parts of the page and introduces them to one another.

import { Actions } from "./log/actions.js";
import { Attachments } from "./compose/attachments.js";
import { Attention } from "./around/attention.js";
import { Chat } from "./client/chat.js";
import { Composer } from "./compose/composer.js";
import { atNextFrame, byId, copy } from "./dom.js";
import { Drawer } from "./around/drawer.js";
import { change } from "./model/entries.js";
import { Embedding } from "./client/embedding.js";
import { showTitlesOnLongPress } from "./around/long-press.js";
import { Log } from "./log/log.js";
import { quoteOf } from "./text/markup.js";
import { fillPerson } from "./text/avatar.js";
import { keepOffline } from "./client/offline.js";
import { Outbox } from "./client/outbox.js";
import { HistoryLoader } from "./client/history-loader.js";
import { People } from "./around/people.js";
import { Question } from "./around/question.js";
import { addressOf, roomFromHash } from "./text/room-address.js";
import { Shortcuts } from "./around/shortcuts.js";
import { Sidebar } from "./around/sidebar.js";
import { Status } from "./around/status.js";
import { Storage } from "./client/storage.js";
import { t, translate } from "./text/translation.js";
import { Toast } from "./around/toast.js";
import { Typing } from "./around/typing.js";
import { Viewer } from "./around/viewer.js";
import { KeyboardNavigation } from "./log/keyboard-navigation.js";

translate();

class App {
  #embedding = new Embedding();
  #storage = new Storage();
  // For the token, which ends with the tab.
  #tab = new Storage("sessionStorage");
  #outbox = new Outbox(this.#storage);
  #name = this.#storage.get("name");
  // Where the reader is since when he came, or came back.
  #visited = null;
  // The rooms he has looked at, the last one at the end.
  #way = [];
  // The message that the address asks for; 0 for none.
  #wanted = 0;
  // These come when they are asked for; what is typed meanwhile is searched for then.
  #picker = null;
  #preferences = null;
  #search = null;
  #searchDrawer = new Drawer("search", "search-toggle", "(width > 60rem)");
  #people = new People((username, seconds) => this.#change({ type: "remove", username, seconds }));
  #typing = new Typing();
  #status = new Status(() => this.#chat.reconnect());
  #toast = new Toast();
  #attention = new Attention(this.#storage);
  #sidebar = new Sidebar((name) => this.#leave(name));
  #log = new Log({
    retry: (id) => this.#chat.retry(id),
    discard: (id) => this.#chat.discard(id),
    older: () => this.#history.older(),
    newer: () => this.#history.newer(),
    seen: (offset) => this.#seen(offset),
  });
  #actions = new Actions({
    self: () => this.#chat.room.roster.self,
    moderates: () => this.#chat.room.moderates,
    find: (offset) => this.#chat.timeline.find(offset),
    pick: (button) => this.#pick(button),
    react: (entry, emoji) => this.#react(entry, emoji),
    reply: (entry) => this.#composer.quote(quoteOf(entry)),
    link: ({ offset }) => this.#copy(addressOf(this.#chat.room.name, offset)),
    edit: (entry) => this.#composer.edit(entry),
    remove: ({ offset }) => this.#change({ type: "delete", offset }),
  });
  #composer = new Composer(this.#storage, {
    send: (text) => this.#send(text),
    typing: () => this.#chat.typing(),
    save: (entry, text) => this.#save(entry, text),
    last: () => this.#chat.timeline?.lastOwn,
    mark: (entry, editing) => this.#mark(entry, editing),
    pick: (button) => this.#pick(button),
    hasFiles: () => this.#attachments.staged.length > 0,
    people: () => this.#chat.room?.others ?? [],
    rooms: () => this.#chat.rooms.map(({ name }) => name),
  });
  #nameQuestion = new Question("name", t("typeName"), (name) => this.#named(name));
  #tokenQuestion = new Question("token", t("pasteToken"), (token) => this.#admitted(token));
  #chat = new Chat(`${location.protocol.replace("http", "ws")}//${location.host}/ws`, {
    storage: this.#storage,
    outbox: this.#outbox,
    token: () => this.#token,
    on: {
      joined: (reply) => this.#joined(reply),
      left: () => this.#left(),
      refused: (error) => this.#refused(error),
      denied: (sentence) => this.#denied(sentence),
      phase: (state) => this.#status.update(state),
      changed: (room) => this.#changed(room),
      people: (room) => room === this.#chat.room && this.#people.show(room.roster, room.moderates),
      said: (publication, room) => this.#attention.hear(publication, room, this.#chat.room),
      typing: (name) => this.#typing.add(name),
      quiet: (name) => this.#typing.remove(name),
    },
  });
  #history = new HistoryLoader(this.#chat);
  #attachments = new Attachments(this.#chat, () => this.#composer.refresh());
  #viewer = new Viewer();
  #shortcuts = new Shortcuts({
    write: () => this.#composer.focus(),
    search: () => this.#openSearch(),
    step: (...step) => this.#step(...step),
  });
  #keyboardNavigation = new KeyboardNavigation(() => this.#composer.focus());
  #tellNewsSoon = atNextFrame(() => this.#tellNews());

  async start() {
    addEventListener("hashchange", () => this.#moved());
    addEventListener("online", () => this.#chat.wake());
    addEventListener("offline", () => this.#chat.doubt());
    document.addEventListener("visibilitychange", () => document.hidden || this.#return());
    byId("change-name").addEventListener("click", () => (this.#token ? this.#signOut() : this.#rename()));
    byId("copy-link").addEventListener("click", () => this.#copy(location.hash));
    byId("preferences-open").addEventListener("click", () => this.#openPreferences());
    byId("search-toggle").addEventListener("click", () => this.#searchDrawer.isOpen && this.#openSearch());
    byId("log").addEventListener("click", ({ target }) => this.#clicked(target));
    showTitlesOnLongPress((title) => this.#toast.say(title));
    await this.#embedding.begin();
    if (this.#name && !this.#token) this.#showOwn(this.#name);
    this.#go();
    keepOffline();
  }

  get #token() {
    return this.#embedding.token || this.#tab.get("token");
  }

  // By the way back, or a link: not by leaving a room, where the list stays.
  #moved() {
    Drawer.closeOpen();
    this.#go();
  }

  // Goes where the address says.
  #go() {
    const { room, offset, valid } = roomFromHash(location.hash);
    // Whoever is somewhere stays there.
    if (!valid && this.#chat.room) {
      history.replaceState(null, "", addressOf(this.#chat.room.name));
      this.#toast.say(t("badRoomHint", { room }));
      return;
    }
    this.#wanted = offset;
    this.#typing.clear();
    this.#toast.say("");
    this.#searchDrawer.close();
    this.#search?.clear();
    this.#showRoom(room, valid);
    if (valid && !this.#name && !this.#token) this.#askName({ required: true });
    else if (valid) this.#enter(room);
    // A finger's keyboard would cover half of what is new.
    if (!matchMedia("(pointer: coarse)").matches) this.#composer.focus();
  }

  #enter(room) {
    this.#visited = null;
    this.#way = [...this.#way.filter((name) => name !== room), room];
    this.#chat.enter({ name: this.#name, room });
    this.#attachments.refresh();
    if (this.#chat.room.joined) this.#visit();
  }

  // The reader is in the room, or in it again.
  #visit() {
    this.#visited = this.#chat.room;
    this.#visited.visit();
    this.#log.arrive();
    this.#composer.resume((offset) => this.#chat.timeline.find(offset));
    if (this.#wanted) this.#arriveAt(this.#wanted);
  }

  #return() {
    this.#chat.wake();
    if (this.#chat.room?.joined) this.#visit();
  }

  // The last one that is left stays. From another he goes back to where he was before.
  #leave(name) {
    const others = this.#chat.rooms.map((room) => room.name).filter((each) => each !== name);
    if (this.#chat.room.name === name) {
      const next = this.#way.findLast((each) => others.includes(each)) ?? others[0];
      history.replaceState(null, "", addressOf(next));
      this.#go();
    }
    this.#chat.leave(name);
  }

  #left() {
    this.#attachments.refresh();
    this.#showNews();
  }

  #send(text) {
    this.#log.follow();
    this.#attachments.send(text);
  }

  #changed(room) {
    // First, for what it shows is no news.
    if (room === this.#chat.room) {
      this.#log.show(room);
      this.#actions.refresh();
    }
    this.#showNews();
  }

  #seen(offset) {
    if (this.#chat.room.read(offset)) this.#showNews();
  }

  // In a hidden tab there are no frames.
  #showNews() {
    if (document.hidden) this.#tellNews();
    else this.#tellNewsSoon();
  }

  // In the other rooms, and in this one while nobody looks.
  #tellNews() {
    const { rooms, room } = this.#chat;
    this.#sidebar.show(rooms, room);
    this.#attention.show(rooms, room);
  }

  // To the room that many places away, round and round; or to the next in that direction with something new.
  #step(step, { unread }) {
    const { rooms, room } = this.#chat;
    const around = rooms.map((_, index) => rooms.at((rooms.indexOf(room) + step * (index + 1)) % rooms.length));
    const next = around.find((each) => each !== room && (!unread || each.unread.length));
    if (next) location.hash = addressOf(next.name);
  }

  #react({ offset, reactions }, emoji) {
    const remove = reactions.get(emoji)?.includes(this.#chat.room.roster.self);
    this.#change({ type: "react", offset, emoji, remove });
  }

  // What could not be saved goes back to where it was written, unless something else is there by now.
  async #save(entry, text) {
    const answer = await this.#change({ type: "edit", offset: entry.offset, text });
    if (answer.type !== "error" || !this.#composer.isEmpty) return;
    if (answer.temporary) this.#composer.edit(entry, text);
    else this.#composer.propose(text);
  }

  // Shows which message is being edited.
  #mark(entry, editing) {
    change(entry, { editing });
    this.#changed(this.#chat.room);
    if (editing) requestAnimationFrame(() => this.#log.bring(entry.offset));
  }

  async #change(command) {
    const answer = await this.#chat.ask(command);
    if (answer.type === "error") this.#toast.say(answer.message);
    return answer;
  }

  #clicked(target) {
    const offset = Number(target.closest("[data-reveal]")?.dataset.reveal);
    if (offset) this.#reveal(offset);
  }

  async #reveal(offset) {
    if (await this.#history.around(offset)) this.#log.reveal(offset);
    else this.#toast.say(t("cannotShow"));
  }

  // From then on the address is the room's again, so that it does not bring the reader back here whenever he comes.
  #arriveAt(offset) {
    this.#wanted = 0;
    history.replaceState(null, "", addressOf(this.#chat.room.name));
    // When the log shows the room.
    requestAnimationFrame(() => this.#reveal(offset));
  }

  // Where that is forbidden, he can copy it from what is said.
  async #copy(hash) {
    const { href } = new URL(location.pathname + hash, location);
    this.#toast.say((await copy(href)) ? t("copied") : href);
  }

  async #pick(button) {
    const module = await this.#come(import("./compose/picker.js"));
    if (module) this.#picker ??= new module.Picker(this.#storage);
    return this.#picker?.pick(button);
  }

  async #openPreferences() {
    const module = await this.#come(import("./around/preferences.js"));
    if (module) this.#preferences ??= new module.Preferences(this.#storage);
    this.#preferences?.open();
  }

  async #openSearch() {
    const field = byId("search-field");
    this.#searchDrawer.open(field);
    field.select();
    const module = await this.#come(import("./around/search.js"));
    const on = { ask: (command) => this.#chat.ask(command), reveal: (offset) => this.#reveal(offset) };
    if (module) this.#search ??= new module.Search(this.#searchDrawer, on);
  }

  // Resolves with a module, or nothing where it does not come.
  #come(module) {
    return module.catch(() => this.#toast.say(t("offlineNow")));
  }

  #rename() {
    this.#preferences.close();
    this.#sidebar.close();
    this.#askName({ value: this.#name, required: false });
  }

  #askName(options) {
    byId("name-title").textContent = t(options.required ? "askName" : "changeNameTitle");
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
  async #denied(sentence) {
    const error = this.#token && sentence;
    if (await this.#embedding.renew()) return this.#go();
    this.#tab.set("token", "");
    this.#sidebar.close();
    this.#tokenQuestion.open({ required: true, error });
  }

  // Leaves nothing behind but the name, with which the page asks for a token again.
  #signOut() {
    this.#chat.quit();
    this.#chat.forget();
    this.#tab.set("token", "");
    this.#outbox.forget(this.#name);
    this.#composer.forget();
    this.#attachments.forget();
    location.reload();
  }

  #joined({ username, room }) {
    // Nobody shares what somebody else chose.
    if (this.#token && this.#name && this.#name !== username) this.#attachments.forget();
    this.#attachments.refresh();
    this.#name = username;
    this.#storage.set("name", username);
    this.#showOwn(username);
    if (room === this.#chat.room.name && this.#visited !== this.#chat.room) this.#visit();
  }

  #showOwn(username) {
    fillPerson(byId("own"), username);
    byId("own-whole").textContent = username;
    byId("own").hidden = false;
    byId("change-name").textContent = t(this.#token ? "signOut" : "changeName");
    byId("change-name").hidden = Boolean(this.#embedding.token);
  }

  #refused({ message }) {
    const kept = this.#storage.get("name");
    this.#askName({ value: this.#name, required: !kept || kept === this.#name, error: message });
  }

  #showRoom(room, valid) {
    for (const element of document.querySelectorAll("[data-room]")) element.textContent = room;
    document.title = t("title", { room });
    byId("bad-room").hidden = valid;
    for (const id of ["conversation", "copy-link", "search-toggle"]) byId(id).hidden = !valid;
    this.#composer.room = valid ? room : null;
  }
}

new App().start();
