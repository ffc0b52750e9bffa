// Keeps what the reader is looking at in its place, whatever is added or removed above it.
//
// It keeps the place of a message's text, not of its row, because a row gains or loses its day and its author when its
// neighbours change.
export class Anchor {
  #scroller;
  #rows;
  #element = null;
  #top = 0;

  constructor(scroller, rows) {
    this.#scroller = scroller;
    this.#rows = rows;
  }

  remember() {
    const row = this.#rows.firstBelow(this.#scroller.getBoundingClientRect().top);
    this.#element = row?.querySelector(".message__text") ?? row;
    this.#top = this.#element?.getBoundingClientRect().top;
  }

  // The message at the top, as `{ offset, top }`; null if the row there is not a message.
  get place() {
    const { offset } = this.#element?.closest("[data-offset]")?.dataset ?? {};
    return offset ? { offset: Number(offset), top: this.#top } : null;
  }

  // Scrolls to a place. Returns whether its message is loaded.
  moveTo({ offset, top }) {
    this.#element = this.#rows.find(offset)?.querySelector(".message__text");
    this.#top = top;
    this.restore();
    return Boolean(this.#element);
  }

  restore() {
    if (!this.#element?.isConnected) return;
    const moved = this.#element.getBoundingClientRect().top - this.#top;
    if (moved) this.#scroller.scrollTop += moved;
  }
}
