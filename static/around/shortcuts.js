import { byId, make } from "../dom.js";
import { t } from "../text/translation.js";

const isMac = /Mac|iPhone|iPad/.test(navigator.platform);
const COMMAND = isMac ? "⌘" : "Ctrl";
const ALT = isMac ? "⌥" : "Alt";

const FIELDS = "input, textarea, select";

// What the dialog tells: keys, and the text that says what they do.
const KEYS = [
  ["Enter", "keySend"],
  ["Shift + Enter", "keyNewLine"],
  ["↑", "keyEditLast"],
  ["Esc", "keyEscape"],
  [": @ #", "keySuggest"],
  [`${COMMAND} + K  /`, "keySearch"],
  [`${ALT} + ↑ ↓`, "keyRooms"],
  [`${ALT} + Shift + ↑ ↓`, "keyUnread"],
  ["Shift + Tab  ↑ ↓", "keyWalk"],
  ["Tab  ← →", "keyActions"],
  [`?  ${COMMAND} + /`, "keyHelp"],
];

// The keys that work everywhere on the page, and the dialog that lists all.
export class Shortcuts {
  #dialog = byId("shortcuts");
  #on;

  // `on` has a function each for: write, search, and step (to the room that many places away; `unread` skips those without news).
  constructor(on) {
    this.#on = on;
    document.addEventListener("keydown", (event) => this.#pressed(event));
    byId("shortcuts-open").onclick = () => this.#open();
    this.#dialog.onclick = ({ target }) => target.closest("dl") ?? this.#dialog.close();
  }

  #open() {
    document.querySelector("dialog[open]")?.close();
    const rows = KEYS.flatMap(([keys, text]) => [make("dt", {}, [keys]), make("dd", {}, [t(text)])]);
    byId("shortcuts-list").replaceChildren(...rows);
    this.#dialog.showModal();
    // Its button has the focus, at the other end.
    this.#dialog.scrollTop = 0;
  }

  #pressed(event) {
    if (document.querySelector("dialog[open]")) return;
    const act = this.#actionOf(event);
    if (act) event.preventDefault();
    // The letter goes where the focus is by then.
    (act ?? this.#writeOf(event))?.();
  }

  #actionOf({ key, altKey, ctrlKey, metaKey, shiftKey, target, isComposing }) {
    const command = (ctrlKey || metaKey) && !altKey;
    const writing = target.closest(FIELDS);
    const step = { ArrowUp: -1, ArrowDown: 1 }[key];
    if (isComposing) return undefined;
    if (command && key.toLowerCase() === "k") return this.#on.search;
    if (command && key === "/") return () => this.#open();
    if (altKey && !command && step) return () => this.#on.step(step, { unread: shiftKey });
    if (writing || command || altKey) return undefined;
    return { "/": this.#on.search, "?": () => this.#open() }[key];
  }

  // Whoever types where nothing can be written means to write a message. A space presses buttons, and scrolls.
  #writeOf({ key, altKey, ctrlKey, metaKey, target, isComposing }) {
    const isLetter = /^[^ ]$/u.test(key) && !altKey && !ctrlKey && !metaKey && !isComposing;
    return isLetter && !target.closest(`${FIELDS}, #search`) ? this.#on.write : undefined;
  }
}
