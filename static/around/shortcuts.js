import { byId, make } from "../dom.js";
import { t } from "../text/translation.js";

const isMac = /Mac|iPhone|iPad/.test(navigator.platform);
const COMMAND = isMac ? "⌘" : "Ctrl";
const ALT = isMac ? "⌥" : "Alt";

const FIELDS = "input, textarea, select";

// The list in the dialog: keys, and the text that says what they do.
const KEYS = [
  ["Enter", "keySend"],
  ["Shift + Enter", "keyNewLine"],
  ["↑", "keyEditLast"],
  ["Esc", "keyEscape"],
  [": @ #", "keySuggest"],
  [`${COMMAND} + K  /`, "keySearch"],
  [`${ALT} + ↑ ↓`, "keyRooms"],
  [`${ALT} + Shift + ↑ ↓`, "keyUnread"],
  ["Shift + Tab  ↑ ↓", "keyMessages"],
  ["Tab  ← →", "keyActions"],
  [`?  ${COMMAND} + /`, "keyHelp"],
];

const NOT_LATIN = /^(?!\p{sc=Latn})\p{L}/u;
// The question mark of Arabic and Persian.
const ARABIC_QUESTION = "؟";

// The keyboard shortcuts of the whole page, and the dialog that lists all shortcuts.
export class Shortcuts {
  #dialog = byId("shortcuts");
  #on;
  // Whether the last letter that was typed is a Latin one.
  #isLatin = false;

  // `on` has a function each for: write (focus the composer), search, and step (go so many rooms on; with `unread`, to
  // the next one with new messages).
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
    // The button at the end has the focus, so the dialog has scrolled to it.
    this.#dialog.scrollTop = 0;
  }

  #pressed(event) {
    if (document.querySelector("dialog[open]")) return;
    const act = this.#actionOf(event);
    if (act) event.preventDefault();
    // The focus moves before the browser inserts the letter, so the letter goes to the composer.
    (act ?? this.#writeOf(event))?.();
  }

  #actionOf(event) {
    const { altKey, ctrlKey, metaKey, shiftKey, target, isComposing } = event;
    const key = this.#keyOf(event);
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

  // Returns the key that a shortcut is compared with. On a keyboard of another script, a key with a letter is known by
  // its place. So is the key of the slash, which has a full stop or a comma on Russian and Hebrew keyboards, unless the
  // last letter shows that the keyboard is a Latin one.
  #keyOf({ key, code, shiftKey }) {
    if (/^\p{L}$/u.test(key)) this.#isLatin = /^\p{sc=Latn}/u.test(key);
    if (key === ARABIC_QUESTION) return "?";
    const isForeign = NOT_LATIN.test(key);
    if (isForeign && code.startsWith("Key")) return code.slice(-1).toLowerCase();
    if (code !== "Slash" || !(isForeign || (!this.#isLatin && /^[.,]$/.test(key)))) return key;
    return shiftKey ? "?" : "/";
  }

  // A letter that is typed outside a field begins a message. A space does not, because it presses buttons and scrolls.
  #writeOf({ key, altKey, ctrlKey, metaKey, target, isComposing }) {
    const isLetter = /^[^ ]$/u.test(key) && !altKey && !ctrlKey && !metaKey && !isComposing;
    return isLetter && !target.closest(`${FIELDS}, #search`) ? this.#on.write : undefined;
  }
}
