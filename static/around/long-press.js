// A finger cannot hover: where it rests on something with a title, it gets to read that.

// About what systems take for a long press.
const LONG_PRESS_MS = 500;

// `tell` gets the title.
export function showTitlesOnLongPress(tell) {
  let timer;
  let pressed = false;
  const end = () => clearTimeout(timer);
  addEventListener("pointerdown", ({ pointerType, target }) => {
    end();
    pressed = false;
    const { title } = target.closest("[title]") ?? {};
    if (pointerType === "mouse" || !title) return;
    timer = setTimeout(() => {
      pressed = true;
      tell(title);
    }, LONG_PRESS_MS);
  });
  // A finger that moves on scrolls, and that cancels its pointer.
  for (const type of ["pointerup", "pointercancel"]) addEventListener(type, end);
  addEventListener("keydown", () => (pressed = false));
  // What was read is not pressed.
  for (const type of ["click", "contextmenu"]) addEventListener(type, (event) => pressed && stop(event), { capture: true });
}

function stop(event) {
  event.preventDefault();
  event.stopPropagation();
}
