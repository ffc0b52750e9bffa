// The embedding page may have to ask its own server for a token first.
const ANSWER_TIMEOUT_MS = 10_000;
// An embedding page that hands over one bad token after another is asked at most this often.
const RENEWAL_INTERVAL_MS = 10_000;

// Another site's page that shows this one in a frame: embed.js creates the frame and puts `?embed` into its address.
// The server decides which sites can do that (`--allow-frame`), so the embedding page is trusted to say who the reader
// is.
export class Embedding {
  embedded = parent !== window && new URLSearchParams(location.search).has("embed");
  // The token from the embedding page, or "". It is stored nowhere else.
  token = "";
  #renewed = -Infinity;

  constructor() {
    document.documentElement.classList.toggle("embedded", this.embedded);
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

  #ask() {
    if (!this.embedded) return "";
    return new Promise((resolve) => {
      window.onmessage = ({ source, data }) => {
        if (source === parent && data?.fastchat === "token" && typeof data.token === "string") resolve(data.token);
      };
      setTimeout(resolve, ANSWER_TIMEOUT_MS, "");
      parent.postMessage({ fastchat: "token" }, "*");
    });
  }
}
