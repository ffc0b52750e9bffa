import { byId } from "../dom.js";
import { t } from "../text/translation.js";

// Most interruptions are shorter than this, and are not shown.
const OFFLINE_AFTER_MS = 5_000;
const TICK_MS = 1_000;

// The bar that shows the state of the connection. It appears only if an interruption lasts or needs the reader's help.
export class Status {
  #bar = byId("status-bar");
  #text = byId("status");
  #countdown = byId("countdown");
  #button = byId("try-now");
  #state = {};
  #wasJoined = false;
  #offlineTimer = null;
  #ticker = null;

  constructor(retry) {
    this.#button.onclick = retry;
  }

  update(state) {
    this.#state = state;
    if (state.phase === "joined" || state.phase === "closed") this.#settle();
    else if (state.phase === "stopped") this.#trouble();
    else this.#offlineTimer ??= setTimeout(() => this.#trouble(), OFFLINE_AFTER_MS);
    if (this.#ticker) this.#show();
  }

  #settle() {
    clearTimeout(this.#offlineTimer);
    clearInterval(this.#ticker);
    this.#offlineTimer = this.#ticker = null;
    this.#wasJoined ||= this.#state.phase === "joined";
    this.#bar.classList.remove("status--shown");
    this.#text.textContent = this.#countdown.textContent = "";
    this.#button.hidden = true;
  }

  #trouble() {
    this.#ticker ??= setInterval(() => this.#tick(), TICK_MS);
    this.#bar.classList.add("status--shown");
    this.#show();
  }

  #show() {
    const { phase } = this.#state;
    const sentence = this.#sentence();
    if (this.#text.textContent !== sentence) this.#text.textContent = sentence;
    this.#button.textContent = t(phase === "stopped" ? "reconnect" : "tryNow");
    this.#button.hidden = phase !== "waiting" && phase !== "stopped";
    this.#tick();
  }

  // During an attempt the last sentence stays, so that screen readers do not announce every attempt.
  #sentence() {
    const { phase, meaning } = this.#state;
    if (meaning?.text) return meaning.text;
    if (phase !== "waiting" && this.#text.textContent) return this.#text.textContent;
    return t(this.#wasJoined ? "offline" : "unreachable");
  }

  // The countdown is not in the live region, so screen readers do not read out every second.
  #tick() {
    const { phase, retryAt } = this.#state;
    const count = Math.max(1, Math.ceil((retryAt - performance.now()) / 1_000));
    const text = phase === "waiting" ? t("tryingIn", { count }) : t("trying");
    this.#countdown.textContent = phase === "stopped" ? "" : text;
  }
}
