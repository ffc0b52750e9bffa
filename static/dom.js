export const byId = (id) => document.getElementById(id);

export const cloneOf = (template) => byId(template).content.firstElementChild.cloneNode(true);

// Whether nobody sees the page: its tab is in the background, or the embedding page has closed its frame.
export const isHidden = () => document.hidden || document.documentElement.classList.contains("closed");

// Returns a function that runs `work` at the next frame, once however often it is called until then.
export function atNextFrame(work) {
  let scheduled = false;
  return () => {
    if (scheduled) return;
    scheduled = true;
    requestAnimationFrame(() => {
      scheduled = false;
      work();
    });
  };
}

// Creates an element with attributes and child nodes. Strings become text.
export function make(tag, attributes, nodes = []) {
  const element = document.createElement(tag);
  for (const name in attributes) element.setAttribute(name, attributes[name]);
  for (const node of nodes) element.append(node);
  return element;
}

// Replaces a part of a field's text and puts the cursor behind it. `insertText` is the only way that the browser's undo
// knows of; the other way is for browsers that do not support it.
export function writeInto(field, text, start, end) {
  field.focus();
  field.setSelectionRange(start, end);
  if (document.execCommand("insertText", false, text)) return;
  field.setRangeText(text, start, end, "end");
  field.dispatchEvent(new InputEvent("input", { bubbles: true }));
}

// Copies a text. Resolves with whether that succeeded. Over plain http there is only the deprecated command.
export async function copy(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text).then(() => true, () => false);
  const field = make("textarea", { class: "visually-hidden", readonly: "" }, [text]);
  const before = document.activeElement;
  document.body.append(field);
  field.select();
  const copied = document.execCommand("copy");
  field.remove();
  before?.focus();
  return copied;
}

// Returns a person's name, isolated from the direction of the text around it.
export const named = (name) => make("bdi", {}, [name]);
