// Keeps what is being read where it is, whatever is put in or taken away above it.
//
// It holds on to a text and not to its row, which grows and shrinks by a day and an author as neighbours come.
export class Anchor {
  #scroller;
  #element = null;
  #top = 0;

  constructor(scroller) {
    this.#scroller = scroller;
  }

  remember() {
    const edge = this.#scroller.getBoundingClientRect().top;
    const rows = [...this.#scroller.querySelectorAll(".message, .notice")];
    const row = rows.find((each) => each.getBoundingClientRect().bottom > edge);
    this.#element = row?.querySelector(".message__text") ?? row;
    this.#top = this.#element?.getBoundingClientRect().top;
  }

  restore() {
    if (!this.#element?.isConnected) return;
    const moved = this.#element.getBoundingClientRect().top - this.#top;
    if (moved) this.#scroller.scrollTop += moved;
  }
}
