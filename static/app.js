// Builds the parts of the page and connects them.

import { Actions } from "./log/actions.js";
import { Attachments } from "./compose/attachments.js";
import { Attention } from "./around/attention.js";
import { Chat } from "./client/chat.js";
import { Composer } from "./compose/composer.js";
import { atNextFrame, byId, copy, isHidden } from "./dom.js";
import { Drawer } from "./around/drawer.js";
import { Embedding } from "./client/embedding.js";
import { change, hasReacted } from "./model/entries.js";
import { showTitlesOnLongPress } from "./around/long-press.js";
import { Log } from "./log/log.js";
import { quoteOf } from "./client.js";
import { keepOffline } from "./client/offline.js";
import { Outbox } from "./client/outbox.js";
import { HistoryLoader } from "./client/history-loader.js";
import { People } from "./around/people.js";
import { Identity } from "./around/identity.js";
import { Navigation } from "./around/navigation.js";
import { addressOf } from "./text/room-address.js";
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
  #storage = new Storage();
  #embedding = new Embedding();
  #identity = new Identity(this.#storage, this.#embedding, () => this.#navigation.follow());
  #outbox = new Outbox(this.#storage);
  // The room that the reader is visiting; null until it has been joined.
  #visited = null;
  // These modules are loaded when they are first needed.
  #picker = null;
  #preferences = null;
  #search = null;
  #searchDrawer = new Drawer("search", "search-toggle", "(width > 60rem)");
  #people = new People((user, seconds) => this.#change({ type: "remove", user, seconds }));
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
    room: () => this.#chat.room,
    find: (offset) => this.#chat.timeline.find(offset),
    pick: (button) => this.#pick(button),
    react: (entry, emoji) => this.#react(entry, emoji),
    reply: (entry) => this.#composer.quote(quoteOf(entry)),
    link: ({ offset }) => this.#copy(addressOf(this.#chat.room.name, offset), t("copiedMessage")),
    edit: (entry) => this.#composer.edit(entry),
    remove: ({ offset }) => this.#change({ type: "delete", offset }),
    expel: (entry) => this.#people.ask(entry),
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
  #chat = new Chat(location.origin, {
    storage: this.#storage,
    outbox: this.#outbox,
    token: ({ refused }) => (refused ? this.#identity.renew() : this.#identity.token),
    current: () => this.#identity.token,
    on: {
      joined: (reply) => this.#joined(reply),
      left: () => this.#left(),
      refused: ({ message }) => this.#identity.refuse(message),
      denied: (sentence) => this.#denied(sentence),
      // One person must not send the files that another one has chosen.
      replaced: () => this.#attachments.forget(),
      phase: (state) => this.#status.update(state),
      changed: (room) => this.#changed(room),
      people: (room) => room === this.#chat.room && this.#people.show(room.roster, room.moderates),
      said: (publication, room) => this.#attention.onMessage(publication, room, this.#chat.room),
      typing: (person) => this.#typing.add(person),
      stoppedTyping: (user) => this.#typing.remove(user),
    },
  });
  #navigation = new Navigation(this.#chat, {
    moved: () => Drawer.closeOpen(),
    show: (room, valid) => this.#show(room, valid),
    refused: (room) => this.#toast.say(t("badRoomHint", { room })),
  });
  #history = new HistoryLoader(this.#chat);
  #attachments = new Attachments(this.#chat, () => this.#composer.refresh());
  #viewer = new Viewer();
  #shortcuts = new Shortcuts({
    write: () => this.#composer.focus(),
    search: () => this.#openSearch(),
    step: (...step) => this.#navigation.step(...step),
  });
  #keyboardNavigation = new KeyboardNavigation(() => this.#composer.focus());
  #showUnreadSoon = atNextFrame(() => this.#showUnread());

  async start() {
    document.addEventListener("visibilitychange", () => isHidden() || this.#return());
    byId("change-name").addEventListener("click", () => (this.#identity.token ? this.#signOut() : this.#rename()));
    byId("copy-link").addEventListener("click", () => this.#copy(location.hash, t("copied")));
    byId("preferences-open").addEventListener("click", () => this.#openPreferences());
    byId("search-toggle").addEventListener("click", () => this.#searchDrawer.isOpen && this.#openSearch());
    byId("log").addEventListener("click", ({ target }) => this.#clicked(target));
    showTitlesOnLongPress((title) => this.#toast.say(title));
    await this.#identity.begin();
    this.#navigation.follow();
    keepOffline();
  }

  // Shows a room, or that its name is invalid.
  #show(room, valid) {
    this.#typing.clear();
    this.#toast.say("");
    this.#searchDrawer.close();
    this.#search?.clear();
    this.#showRoom(room, valid);
    if (valid && !this.#identity.isKnown) this.#identity.askName();
    else if (valid) this.#enter(room);
    // On a touch screen the keyboard would cover half of the new messages.
    if (!matchMedia("(pointer: coarse)").matches) this.#composer.focus();
  }

  #enter(room) {
    this.#visited = null;
    this.#navigation.enter(room);
    this.#chat.enter({ name: this.#identity.name, room });
    this.#attachments.refresh();
    if (this.#chat.room.joined) this.#visit();
  }

  // The reader comes to the shown room, or returns to it.
  #visit() {
    this.#visited = this.#chat.room;
    this.#visited.visit();
    if (this.#visited.self) this.#identity.show(this.#visited.self);
    this.#log.arrive();
    this.#composer.resume((offset) => this.#chat.timeline.find(offset));
    const offset = this.#navigation.takeOffset();
    // At the next frame the log shows the room.
    if (offset) requestAnimationFrame(() => this.#reveal(offset));
  }

  #return() {
    if (this.#chat.room?.joined) this.#visit();
  }

  #leave(name) {
    this.#navigation.goBackFrom(name);
    this.#chat.leave(name);
  }

  #left() {
    this.#attachments.refresh();
    this.#updateUnread();
  }

  #send(text) {
    this.#log.follow();
    this.#attachments.send(text);
  }

  #changed(room) {
    // The log comes first: messages that it shows are read and do not count as new.
    if (room === this.#chat.room) {
      this.#log.show(room);
      this.#actions.refresh();
      this.#composer.enable(room.writes, t(room.options.closed ? "roomClosed" : "readOnly"));
      this.#showOptions(room);
    }
    this.#updateUnread();
  }

  #seen(offset) {
    if (this.#chat.room.read(offset)) this.#updateUnread();
  }

  // A hidden page has no animation frames.
  #updateUnread() {
    if (isHidden()) this.#showUnread();
    else this.#showUnreadSoon();
  }

  // Shows the number of unread messages of all rooms.
  #showUnread() {
    const { rooms, room } = this.#chat;
    this.#sidebar.show(rooms, room);
    this.#attention.show(rooms, room);
    this.#embedding.tellUnread(rooms.reduce((sum, { unread }) => sum + unread.length, 0));
  }

  #react(entry, emoji) {
    const remove = hasReacted(entry, emoji, this.#chat.room.roster.user);
    this.#change({ type: "react", offset: entry.offset, emoji, remove });
  }

  // Saves an edited message. If that fails, the text goes back to the composer, unless that contains something else by
  // now.
  async #save(entry, text) {
    const answer = await this.#change({ type: "edit", offset: entry.offset, text });
    if (answer.type !== "error" || !this.#composer.isEmpty) return;
    if (answer.temporary) this.#composer.edit(entry, text);
    else this.#composer.propose(text);
  }

  // Marks a message as being edited, or not.
  #mark(entry, editing) {
    change(entry, { editing });
    this.#changed(this.#chat.room);
    if (editing) requestAnimationFrame(() => this.#log.scrollTo(entry.offset));
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

  // If the browser forbids copying, the address is shown, so that the reader can copy it.
  async #copy(hash, sentence) {
    const { href } = new URL(location.pathname + hash, location);
    this.#toast.say((await copy(href)) ? sentence : href);
  }

  async #pick(button) {
    const module = await this.#loaded(import("./compose/picker.js"));
    if (module) this.#picker ??= new module.Picker(this.#storage);
    return this.#picker?.pick(button);
  }

  async #openPreferences() {
    const module = await this.#loaded(import("./around/preferences.js"));
    if (module) this.#preferences ??= new module.Preferences(this.#storage);
    this.#preferences?.open();
  }

  async #openSearch() {
    const field = byId("search-field");
    this.#searchDrawer.open(field);
    field.select();
    const module = await this.#loaded(import("./around/search.js"));
    const on = { ask: (command) => this.#chat.ask(command), reveal: (offset) => this.#reveal(offset) };
    if (module) this.#search ??= new module.Search(this.#searchDrawer, on);
  }

  // Resolves with a module; undefined if it cannot be loaded.
  #loaded(module) {
    return module.catch(() => this.#toast.say(t("offlineNow")));
  }

  #rename() {
    this.#preferences.close();
    this.#sidebar.close();
    this.#identity.rename();
  }

  // The server needs a token, or another one than the reader has.
  #denied(sentence) {
    this.#sidebar.close();
    this.#identity.askToken(sentence);
  }

  // Removes everything from the browser except the name and the preferences. The page then asks for a token again.
  #signOut() {
    this.#chat.quit();
    this.#chat.forget();
    this.#identity.forgetToken();
    this.#outbox.forget(this.#chat.self);
    this.#composer.forget();
    this.#attachments.forget();
    location.reload();
  }

  #joined({ username, room }) {
    this.#attachments.refresh();
    if (room !== this.#chat.room.name) return;
    this.#identity.accept(username);
    if (this.#visited !== this.#chat.room) this.#visit();
  }

  // Shows the title that the operator has given the room, in the place of its name, and what the room is about.
  #showOptions({ name, options: { title = "", topic = "" } }) {
    const heading = byId("room-name");
    heading.textContent = title || name;
    heading.title = title && `#${name}`;
    heading.classList.toggle("room__name--titled", title !== "");
    byId("room-topic").textContent = byId("room-topic").title = topic;
  }

  #showRoom(room, valid) {
    this.#showOptions({ name: room, options: {} });
    for (const element of document.querySelectorAll("[data-room]")) element.textContent = room;
    document.title = t("title", { room });
    byId("bad-room").hidden = valid;
    for (const id of ["conversation", "copy-link", "search-toggle"]) byId(id).hidden = !valid;
    this.#composer.room = valid ? room : null;
  }
}

new App().start();
