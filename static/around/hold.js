// A finger cannot hover: where it rests on something with a title, it gets to read that.

// About what systems take for a long press.
const HOLD_MS = 500;

// `tell` gets the title.
export function tellTitles(tell) {
  let timer;
  let held = false;
  const end = () => clearTimeout(timer);
  addEventListener("pointerdown", ({ pointerType, target }) => {
    end();
    held = false;
    const { title } = target.closest("[title]") ?? {};
    if (pointerType === "mouse" || !title) return;
    timer = setTimeout(() => {
      held = true;
      tell(title);
    }, HOLD_MS);
  });
  // A finger that moves on scrolls, and that cancels its pointer.
  for (const type of ["pointerup", "pointercancel"]) addEventListener(type, end);
  addEventListener("keydown", () => (held = false));
  // What was read is not pressed.
  for (const type of ["click", "contextmenu"]) addEventListener(type, (event) => held && stop(event), { capture: true });
}

function stop(event) {
  event.preventDefault();
  event.stopPropagation();
}
