import { byId } from "../dom.js";
import { Storage } from "../client/storage.js";
import { Question } from "./question.js";
import { fillPerson } from "../text/avatar.js";
import { t } from "../text/translation.js";

// The reader's identity: a name or an access token.
//
// Without a token the reader chooses a name, which this browser remembers. With a token, the server reads the name from
// the token. The token comes from the embedding page, or the reader pastes it; then it is remembered until the tab
// closes.
export class Identity {
  #storage;
  #onAnswered;
  #embedding;
  #tab = new Storage("sessionStorage");
  #name;
  // Whether the server has refused a token, and not the lack of one.
  #wasRefused = false;
  #nameQuestion = new Question("name", t("typeName"), (name) => this.#nameGiven(name));
  #tokenQuestion = new Question("token", t("pasteToken"), (token) => this.#tokenGiven(token));

  // `answered` is called when the reader has given a name or a token, or keeps the old name.
  constructor(storage, embedding, answered) {
    this.#storage = storage;
    this.#embedding = embedding;
    this.#onAnswered = answered;
    this.#name = storage.get("name");
  }

  // Resolves when an embedding page has had the chance to hand over a token.
  async begin() {
    await this.#embedding.begin();
    if (this.#name && !this.token) this.show(this.#name);
  }

  get name() {
    return this.#name;
  }

  get token() {
    return this.#embedding.token || this.#tab.get("token");
  }

  get isKnown() {
    return Boolean(this.#name || this.token);
  }

  // Takes the name that the server gave with the reply to a join; null if the reader has none.
  accept(username) {
    if (!username) return;
    this.#name = username;
    this.#storage.set("name", username);
    this.show(username);
  }

  // Shows the reader's name. The server may have numbered it in some of the rooms.
  show(name) {
    fillPerson(byId("own"), name);
    byId("own-whole").textContent = name;
    byId("own").hidden = false;
    byId("change-name").textContent = t(this.token ? "signOut" : "changeName");
    // The embedding page says who the reader is, so there is nothing to change.
    byId("change-name").hidden = Boolean(this.#embedding.token);
  }

  askName() {
    this.#askName({ required: true });
  }

  // Asks for another name, which the reader can decline.
  rename() {
    this.#askName({ value: this.#name, required: false });
  }

  // The server refuses the name. Where an earlier one was accepted, the reader can keep that one.
  refuse(error) {
    const kept = this.#storage.get("name");
    this.#askName({ value: this.#name, required: !kept || kept === this.#name, error });
  }

  // The token is not valid, or not any more: resolves with another one from the embedding page, or "".
  async renew() {
    this.#wasRefused = Boolean(this.token);
    if (await this.#embedding.renew()) return this.token;
    this.forgetToken();
    return "";
  }

  // Asks for a token. `error` says why the last one was refused, if there was one.
  askToken(error) {
    this.#embedding.token = "";
    this.forgetToken();
    this.#tokenQuestion.open({ required: true, error: this.#wasRefused ? error : "" });
  }

  forgetToken() {
    this.#tab.set("token", "");
  }

  #askName(options) {
    byId("name-title").textContent = t(options.required ? "askName" : "changeNameTitle");
    this.#nameQuestion.open(options);
  }

  #nameGiven(name) {
    this.#name = name || this.#storage.get("name");
    this.#onAnswered();
  }

  #tokenGiven(token) {
    this.#tab.set("token", token);
    this.#onAnswered();
  }
}
