// The embedding page may have to ask its own server for a token first.
const ANSWER_TIMEOUT_MS = 10_000;
// An embedding page that hands over one bad token after another is asked at most this often.
const RENEWAL_INTERVAL_MS = 10_000;

// Another site's page that shows this one in a frame: embed.js creates the frame and puts `?embed` into its address.
// The server decides which sites can do that (`--allow-frame`), so the embedding page is trusted to say who the reader
// is, and whether they see the frame.
export class Embedding {
  embedded = parent !== window && new URLSearchParams(location.search).has("embed");
  // The token from the embedding page, or "". It is stored nowhere else.
  token = "";
  #renewed = -Infinity;
  // Takes the answer of the embedding page.
  #answer = () => {};

  constructor() {
    document.documentElement.classList.toggle("embedded", this.embedded);
    if (this.embedded) addEventListener("message", (event) => event.source === parent && this.#received(event.data));
  }

  // Asks the embedding page for the reader's token.
  async begin() {
    this.token = await this.#ask();
  }

  // Asks for another token, because the last one is not valid any more. Resolves with whether there is one.
  async renew() {
    const refused = this.token;
    this.token = "";
    const early = performance.now() - this.#renewed < RENEWAL_INTERVAL_MS;
    this.#renewed = performance.now();
    const token = early ? "" : await this.#ask();
    if (token !== refused) this.token = token;
    return Boolean(this.token);
  }

  // Tells the embedding page how many messages are unread.
  tellUnread(count) {
    if (this.embedded) parent.postMessage({ fastchat: "unread", count }, "*");
  }

  #ask() {
    if (!this.embedded) return "";
    return new Promise((resolve) => {
      this.#answer = resolve;
      setTimeout(resolve, ANSWER_TIMEOUT_MS, "");
      parent.postMessage({ fastchat: "token" }, "*");
    });
  }

  #received(data) {
    if (data?.fastchat === "token" && typeof data.token === "string") this.#answer(data.token);
    if (data?.fastchat !== "visible") return;
    document.documentElement.classList.toggle("closed", !data.visible);
    document.dispatchEvent(new Event("visibilitychange"));
  }
}
