// Shows a room of this chat in another site's page, in place of this script. The server has to allow that site
// (--allow-frame):
// <script src="https://chat.example/embed.js" data-room="lobby" data-height="480"></script>
// With `data-manual`, the script shows nothing, and the page calls `FastChat.mount` when it wants to.
(() => {
  const script = document.currentScript;
  const chat = new URL(script.src).origin;

  // A frame with the chat. Its page and this one talk by `postMessage`, each only to the other.
  class Widget {
    #frame = document.createElement("iframe");
    #token;
    #isOpen = true;
    #unread = 0;
    // Whether the chat has loaded, and can receive messages.
    #isReady = false;
    #listeners = new Map();
    #onMessage = (event) => this.#received(event);

    constructor({ room = "lobby", height = "480", title = "Chat", theme, lang, accent, token }) {
      const chosen = Object.entries({ theme, lang, accent }).filter(([, value]) => value);
      const query = new URLSearchParams({ embed: "", ...Object.fromEntries(chosen) });
      this.#token = token;
      this.#frame.src = `${chat}/?${query}#${encodeURIComponent(room)}`;
      this.#frame.title = title;
      this.#frame.allow = "clipboard-write";
      const blockSize = /\D/.test(height) ? height : `${height}px`;
      Object.assign(this.#frame.style, { inlineSize: "100%", blockSize, border: 0 });
      addEventListener("message", this.#onMessage);
    }

    get frame() {
      return this.#frame;
    }

    get isOpen() {
      return this.#isOpen;
    }

    // The number of unread messages in the reader's rooms.
    get unread() {
      return this.#unread;
    }

    // Adds a listener for "unread", which gets the number of unread messages, or for "open" and "close". Returns a
    // function that removes it.
    on(type, listener) {
      if (!this.#listeners.has(type)) this.#listeners.set(type, new Set());
      this.#listeners.get(type).add(listener);
      return () => this.#listeners.get(type).delete(listener);
    }

    open() {
      this.#show(true);
    }

    // Hides the frame. The chat stays connected, and counts the messages that nobody sees.
    close() {
      this.#show(false);
    }

    remove() {
      removeEventListener("message", this.#onMessage);
      this.#frame.remove();
    }

    #show(isOpen) {
      if (isOpen === this.#isOpen) return;
      this.#isOpen = isOpen;
      this.#frame.style.display = isOpen ? "" : "none";
      this.#sayVisible();
      this.#emit(isOpen ? "open" : "close");
    }

    #sayVisible() {
      if (!this.#isReady) return;
      this.#frame.contentWindow?.postMessage({ fastchat: "visible", visible: this.#isOpen }, chat);
    }

    // A token is sent only to the chat and only when it asks, and is never put into an address.
    async #received({ source, origin, data }) {
      if (source !== this.#frame.contentWindow || origin !== chat) return;
      if (data?.fastchat === "unread") this.#count(data.count);
      if (data?.fastchat !== "token") return;
      this.#isReady = true;
      this.#sayVisible();
      source.postMessage({ fastchat: "token", token: await this.#newestToken() }, chat);
    }

    #count(unread) {
      if (unread === this.#unread) return;
      this.#unread = unread;
      this.#emit("unread", unread);
    }

    async #newestToken() {
      try {
        const token = typeof this.#token === "function" ? await this.#token() : this.#token;
        return String(token ?? "").trim();
      } catch {
        return "";
      }
    }

    #emit(type, ...values) {
      for (const listener of this.#listeners.get(type) ?? []) listener(...values);
    }
  }

  // Shows a room in an element, or in the first one that matches a selector. Returns the widget.
  function mount(place, options = {}) {
    const element = typeof place === "string" ? document.querySelector(place) : place;
    if (!element) throw new TypeError(`FastChat.mount: no element matches ${place}`);
    const widget = new Widget(options);
    element.append(widget.frame);
    return widget;
  }

  globalThis.FastChat = { mount };
  const { manual, token, tokenUrl, ...options } = script.dataset;
  if (manual !== undefined) return;

  async function fetchToken() {
    const answer = await fetch(tokenUrl, { cache: "no-store" });
    return answer.ok ? answer.text() : "";
  }

  const widget = new Widget({ ...options, token: tokenUrl ? fetchToken : () => widget.frame.dataset.token });
  if (token) widget.frame.dataset.token = token;
  script.replaceWith(widget.frame);
})();
