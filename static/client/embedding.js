const ANSWER_TIMEOUT_MS = 10_000;
// Whoever hands in one bad token after the other is not asked all the time.
const RENEWAL_INTERVAL_MS = 10_000;

// Somebody else's page may show this one in a frame: embed.js makes it, and `?embed` in the address says so. Whose page
// that may be the server decides (`--allow-frame`), so our parent may tell us who is looking.
export class Embedding {
  embedded = parent !== window && new URLSearchParams(location.search).has("embed");
  // The token that was handed in last, or "". It is kept nowhere else.
  token = "";
  #renewed = -Infinity;

  constructor() {
    document.documentElement.classList.toggle("embedded", this.embedded);
  }

  // Asks for the token of who is looking.
  async begin() {
    this.token = await this.#ask();
  }

  // The last one is of no use, or not any more. Whether there is another.
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
