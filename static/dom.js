export const byId = (id) => document.getElementById(id);

export const cloneOf = (template) => byId(template).content.firstElementChild.cloneNode(true);

// A function that does something at the next frame, once however often it is called until then.
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

// An element with attributes, and nodes in it, of which strings are text.
export function make(tag, attributes, nodes = []) {
  const element = document.createElement(tag);
  for (const name in attributes) element.setAttribute(name, attributes[name]);
  for (const node of nodes) element.append(node);
  return element;
}

// Writes into a field, in place of what is between two places, and the cursor goes behind it. This is the only way that the
// field's own undo knows of; the other one is for browsers without it.
export function writeInto(field, text, start, end) {
  field.focus();
  field.setSelectionRange(start, end);
  if (document.execCommand("insertText", false, text)) return;
  field.setRangeText(text, start, end, "end");
  field.dispatchEvent(new InputEvent("input", { bubbles: true }));
}

// Resolves with whether a text could be copied; over plain http only the old way works.
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

// What somebody calls himself, whatever the direction of his letters.
export const named = (name) => make("bdi", {}, [name]);
