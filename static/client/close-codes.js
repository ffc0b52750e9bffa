import { t } from "../text/translation.js";
import { comeBack } from "../text/times.js";

// The page's copy of the close codes in src/fastchat/errors.py. A test compares them, so each entry is a literal on a
// line.
const NAMES = {
  1000: "normal",
  1001: "going_away",
  1002: "protocol_error",
  1003: "unsupported_data",
  1007: "invalid_text",
  1009: "too_big",
  1011: "internal",
  1012: "restart",
  1013: "overloaded",
  4008: "evicted",
  4009: "heartbeat_missed",
  4010: "lost_continuity",
  4011: "token_expired",
  4501: "unauthorized",
  4502: "join_timeout",
  4503: "removed",
  4504: "flooding",
};
// The page does not reconnect after these codes, nor after any from 4500 on: the same would happen again.
const FINAL = [1002, 1003, 1007, 1009];
const FIRST_FINAL = 4500;

// Returns the name of a close code, whether to reconnect, and a sentence for the reader. `closing` is the event that
// the server sent before it closed; undefined if it sent none.
export function meaningOf(code, { reason = "", reconnect_after_ms: afterMs } = {}) {
  const name = NAMES[code];
  const reconnect = code < FIRST_FINAL && !FINAL.includes(code);
  if (name === "overloaded" && reason) return { name, reconnect, text: t("pleaseWait", { reason }) };
  const text = name ? t(`closed_${name}`) : reason;
  return { name, reconnect, text: reconnect ? text : text + comeBack(afterMs) };
}
