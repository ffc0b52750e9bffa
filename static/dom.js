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

// What somebody calls himself, whatever the direction of his letters.
export const named = (name) => make("bdi", {}, [name]);
