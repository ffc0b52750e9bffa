import { comeBack } from "./times.js";

// The page's copy of the server's table; a test reads it, so each entry stays a literal on one line.
// 4000 to 4499: come back. 4500 to 4999: do not.
export const CLOSE_CODES = {
  1000: { name: "normal", reconnect: true, text: "The connection was closed." },
  1001: { name: "going_away", reconnect: true, text: "The server went away." },
  1002: { name: "protocol_error", reconnect: false, text: "The server did not understand this page." },
  1003: { name: "unsupported_data", reconnect: false, text: "The server refused what this page sent." },
  1007: { name: "invalid_text", reconnect: false, text: "The server could not read what this page sent." },
  1009: { name: "too_big", reconnect: false, text: "Something this page sent was too big." },
  1011: { name: "internal", reconnect: true, text: "Something went wrong on the server." },
  1012: { name: "restart", reconnect: true, text: "The server is restarting." },
  1013: { name: "overloaded", reconnect: true, text: "The server is very busy." },
  4008: { name: "evicted", reconnect: true, text: "The connection was too slow to keep up." },
  4009: { name: "heartbeat_missed", reconnect: true, text: "The connection went quiet." },
  4010: { name: "lost_continuity", reconnect: true, text: "Some messages went missing on the way." },
  4011: { name: "token_expired", reconnect: true, text: "Your access token has expired." },
  4501: { name: "unauthorized", reconnect: false, text: "You may not come in here." },
  4502: { name: "join_timeout", reconnect: false, text: "Joining took too long." },
  4503: { name: "removed", reconnect: false, text: "A moderator removed you." },
  4504: { name: "flooding", reconnect: false, text: "You sent too much in a short time." },
};

const FIRST_FINAL_CODE = 4500;

// `closing` is what the server said before, if it said anything.
export function meaningOf(code, { reason = "", reconnect_after_ms: afterMs } = {}) {
  const meaning = CLOSE_CODES[code] ?? { name: "unknown", reconnect: code < FIRST_FINAL_CODE, text: reason };
  if (meaning.name === "overloaded" && reason) return { ...meaning, text: `Please wait: ${reason}.` };
  return meaning.reconnect ? meaning : { ...meaning, text: meaning.text + comeBack(afterMs) };
}
