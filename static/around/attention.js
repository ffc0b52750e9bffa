// Calls the reader's attention to new messages: by the title and the icon of the tab, a notification, or a sound.

import { byId, isHidden } from "../dom.js";
import { mentions, plainOf } from "../text/markup.js";
import { addressOf } from "../text/room-address.js";
import { sumOf } from "./sidebar.js";
import { t } from "../text/translation.js";

// At most one sound in this time.
const SOUND_PAUSE_MS = 2_000;
// The sound is a falling third: its notes in hertz, and the length of the first.
const NOTES = [880, 698];
const NOTE_S = 0.14;

// Returns which messages show a notification: "" for none, "mentions", or "all".
export function notifiedOf(storage) {
  return "Notification" in window && Notification.permission === "granted" ? storage.get("notify") : "";
}

export class Attention {
  #storage;
  #playedAt = -Infinity;
  #audio;

  constructor(storage) {
    this.#storage = storage;
  }

  // Shows how many messages are unread in all rooms. `shown` is the room on the page.
  show(rooms, shown) {
    const count = sumOf(rooms);
    const title = t("title", { room: shown.name });
    document.title = count ? `(${count}) ${title}` : title;
    const icon = `/static/${count ? "icon-unread" : "icon"}.svg`;
    if (byId("icon").getAttribute("href") !== icon) byId("icon").setAttribute("href", icon);
  }

  // A message by another person has arrived.
  onMessage({ username, text }, room, shown) {
    if (room === shown && !isHidden() && document.hasFocus()) return;
    const mentioned = mentions(text, room);
    if (!mentioned && !isHidden()) return;
    if (this.#storage.get("sound")) this.#play();
    const notified = notifiedOf(this.#storage);
    if (mentioned ? notified : notified === "all") this.#notify(username, text, room.name);
  }

  // The tag keeps it to one notification a room, however many tabs are open.
  async #notify(username, text, room) {
    const title = t("notification", { name: username, room });
    const options = { body: plainOf(text), tag: room, icon: "/static/icon.svg", data: addressOf(room) };
    try {
      const notification = new Notification(title, options);
      notification.onclick = () => {
        window.focus();
        location.hash = addressOf(room);
        notification.close();
      };
    } catch {
      // On phones only a service worker can show a notification.
      (await navigator.serviceWorker?.getRegistration())?.showNotification(title, options);
    }
  }

  #play() {
    if (performance.now() - this.#playedAt < SOUND_PAUSE_MS) return;
    this.#playedAt = performance.now();
    this.#audio ??= new AudioContext();
    const now = this.#audio.currentTime;
    const volume = new GainNode(this.#audio, { gain: 0 });
    volume.gain.setTargetAtTime(0.08, now, 0.01);
    volume.gain.setTargetAtTime(0, now + NOTE_S, 0.05);
    const tone = new OscillatorNode(this.#audio, { frequency: NOTES[0] });
    tone.frequency.setValueAtTime(NOTES[1], now + NOTE_S);
    tone.connect(volume).connect(this.#audio.destination);
    tone.start();
    tone.stop(now + 4 * NOTE_S);
  }
}
