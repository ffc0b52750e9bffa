// A touch screen has no hover, so a long press on an element with a title shows the title.

// Android's default for a long press is 400 to 500 ms, that of iOS 500 ms.
const LONG_PRESS_MS = 500;

// `tell` is called with the title.
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
  // A finger that moves scrolls the page, which causes a pointercancel.
  for (const type of ["pointerup", "pointercancel"]) addEventListener(type, end);
  addEventListener("keydown", () => (pressed = false));
  // After a long press, lifting the finger does not press the button.
  for (const type of ["click", "contextmenu"]) {
    addEventListener(type, (event) => pressed && stop(event), { capture: true });
  }
}

function stop(event) {
  event.preventDefault();
  event.stopPropagation();
}
