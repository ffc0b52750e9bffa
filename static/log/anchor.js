// Keeps what is being read where it is, whatever is put in or taken away above it.
//
// It holds on to a text and not to its row, which grows and shrinks by a day and an author as neighbours come.
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

  // What is read there, by its message's offset, and at which height; null where that has none.
  get place() {
    const { offset } = this.#element?.closest("[data-offset]")?.dataset ?? {};
    return offset ? { offset: Number(offset), top: this.#top } : null;
  }

  // Goes where a place was taken; returns whether it is still here.
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
