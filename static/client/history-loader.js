// Loads pages of the history of the room that is shown. Each method resolves with whether there is more to show now.

// Messages in a page: more than a screen shows. The server's limit is 300.
const PAGE_COUNT = 50;
// Half a page, so that about as many messages come after a given one as before it.
const AROUND_COUNT = 25;

export class HistoryLoader {
  #chat;

  constructor(chat) {
    this.#chat = chat;
  }

  async older() {
    const { timeline } = this.#chat;
    const page = await this.#page({ before: timeline.first });
    if (page) timeline.prepend(page);
    return Boolean(page);
  }

  async newer() {
    const { timeline } = this.#chat;
    if (timeline.grow()) return true;
    const page = await this.#page({ after: timeline.last });
    if (page && !timeline.atEnd) timeline.append(page);
    return Boolean(page);
  }

  // Loads a message and its neighbours. Tries a page around it, then one that ends with it.
  async around(offset) {
    const isIt = (message) => message.offset === offset;
    const { timeline } = this.#chat;
    if (timeline.items.some(isIt)) return true;
    for (const before of [offset + AROUND_COUNT, offset + 1]) {
      const page = await this.#page({ before });
      if (!page?.messages.some(isIt)) continue;
      timeline.excerpt(page);
      return true;
    }
    return false;
  }

  // Resolves with null if there is no page, or if the log was replaced in the meantime.
  async #page(where) {
    const { timeline } = this.#chat;
    const { first, generation } = timeline;
    const page = await this.#chat.ask({ type: "history", limit: PAGE_COUNT, ...where });
    const same = timeline === this.#chat.timeline && first === timeline.first && generation === timeline.generation;
    return same && page.type === "history" ? page : null;
  }
}
