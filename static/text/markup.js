// Turns the text of a message into elements: paragraphs, quotes, lists, code, emphasis, links, files, mentions.
//
// A text is divided into lines, lines into tokens, and each token becomes an element or text. Nothing that somebody
// wrote is ever parsed as HTML.
//
// The time is proportional to the length of the text, whatever it contains: no line is read twice, no token looks
// farther ahead than a fixed number of letters or the next character of its kind, and the depth of nesting is bounded.

import { make } from "../dom.js";
import { folded, UNSPACED } from "./folding.js";
import { addressOf, decoded, isRoom, keyOf } from "./room-address.js";
import { locale, t } from "./translation.js";

const NESTING_DEPTH = 3;
// Images are scaled down to fit into this box, in pixels, before they are loaded. No side gets shorter than a finger
// can hit (24 px: WCAG 2.2, 2.5.8).
const IMAGE_BOX = { width: 352, height: 288 };
const MIN_SIDE_PX = 24;

const FENCE = /^ {0,3}```(?=[^`\n]*$)/m;
const FENCE_END = /\n?```\s*$/;
const LANGUAGE = /^ *\S* *\n/;
const QUOTE = /^>(?: |$)/;
const ITEM = /^ {0,3}(?:[-*]|(\d{1,9})\.) +(?=\S)/;
const INDENTED = /^ {2,}\S/;
const REPLY = /^@(.+) #(\d{1,15})$/;
const ANSWER = /^> @(.+) #\d{1,15}\n((?:>.*\n)*)\n*/;
const FILE = /^\/files\/[a-z2-7]{32}\/([^/]+)$/;

// An address ends before white space, a quotation mark, an invisible character or one that changes the direction, and
// the full-width punctuation of languages without spaces. Punctuation at the end of a sentence does not belong to it,
// nor does a bracket without its counterpart in the address.
// A letter of a script without spaces can stand before it.
const WORD_START = `(?<!(?!${UNSPACED})[\\p{L}\\p{N}\\p{M}/#&@＃＠])`;
const HTTP = "[Hh][Tt]{2}[Pp][Ss]?://";
const LETTER = '[^\\s<>()[\\]"`\\p{C}\\u3000-\\u303f\\uff01-\\uff1f]';
const REST = `(?:${LETTER}|\\(${LETTER}*\\)|\\[${LETTER}*\\])+(?<![.,:;!?'*_~…’”»])`;
// Code, an address, the text after a # that may be a room, the text after an @ that may be a name (at most 32 letters),
// and marks of emphasis.
const TOKEN = new RegExp(
  [
    "(?<ticks>`{1,3})(?<code>[^`]+)\\k<ticks>",
    `<(?<exact>${HTTP}(?:${LETTER}|[()[\\]])+)>`,
    `(?<address>(?:${HTTP}|${WORD_START}/files/[a-z2-7]{32}/)${REST})`,
    `${WORD_START}[#＃](?=(?<place>[\\p{L}\\p{M}\\p{Nd}._-]{1,64})(?![\\p{L}\\p{N}\\p{M}#]))`,
    `${WORD_START}[@＠](?=(?<ahead>\\S.{0,32}))`,
    "(?<mark>\\*+|_+|~+)",
  ].join("|"),
  "gu",
);
const MARKS = { "*": "em", _: "em", "**": "strong", "~~": "s" };
const BEFORE_MARK = /^$|[\s\p{Ps}\p{Pi}\p{Pd}\p{Cs}"'*_~]/u;
const IS_UNSPACED = new RegExp(`^${UNSPACED}`, "u");
const ENDS_UNSPACED = new RegExp(`${UNSPACED}$`, "u");
// The beginning of a word up to the first letter of a script without spaces.
const SPACED = new RegExp(`^(?:(?!${UNSPACED}).)+`, "u");
const WORD = /^[\p{L}\p{N}\p{M}]/u;
// Emphasis needs one of these: (*_*) is a face.
const MARKABLE = /[\p{L}\p{N}\p{ExtPict}]/u;
const EMOJI_ONLY = /^(?:\s*\p{RGI_Emoji}){1,8}\s*$/v;

const NOBODY = { self: "", names: [], rooms: [] };
const OUTSIDE = { target: "_blank", rel: "noopener noreferrer nofollow ugc" };

// Returns the elements of a text. `context` has `self`, the reader's name, `names`, which can be mentioned, and `rooms`,
// the names of the reader's rooms; both lists are read only if the text needs them. Its function `owns`, if it has one,
// says whether the message with an offset is the reader's; undefined if it does not know. Where it does, a reply is to
// the author and not to the name.
export function nodesOf(text, context) {
  const blocks = new Reader(context).read(text);
  // Only blocks get a direction of their own; styles/text.css handles what is inside them.
  for (const block of blocks) block.dir = "auto";
  return blocks;
}

// Whether a text mentions `self`. A mention in code or in a quote does not count, nor does a name that only begins like
// that; but a reply to `self` does.
export function mentions(text, context) {
  if (!folded(text).includes(`@${folded(context.self)}`) && !text.startsWith("> @")) return false;
  const root = make("div", {}, nodesOf(text, context));
  return root.querySelector(".mention--self:not(blockquote > :not(cite) *)") !== null;
}

// Returns a text in one line without markup, and without quotes unless there is nothing else.
export function plainOf(text) {
  const blocks = nodesOf(text, NOBODY);
  const own = blocks.filter((block) => block.tagName !== "BLOCKQUOTE");
  const root = make("div", {}, own.length ? own : blocks);
  for (const block of root.querySelectorAll("p, pre, li, blockquote")) block.append(" "), block.prepend(" ");
  return root.textContent.replace(/\s+/g, " ").trim();
}

// Divides a text into the quote of a reply ("" if it is no reply) and the rest. `name` and `quoted` are the author and
// the text of the message that is answered.
export function answerOf(text) {
  const [quote, name, lines = ""] = ANSWER.exec(text) ?? [""];
  return { quote, name, quoted: lines.replace(/^> ?/gm, "").trim(), text: text.slice(quote.length) };
}

// Divides a text into what was written and the links of files at its end, one a line.
export function filesOf(text) {
  const lines = text.split("\n");
  let end = lines.length;
  while (end && lines[end - 1] && fileOf(lines[end - 1])) end -= 1;
  return [lines.slice(0, end).join("\n"), lines.slice(end)];
}

// Whether a text is one to eight emoji and nothing else.
export const isEmojiOnly = (text) => EMOJI_ONLY.test(text);

// Returns a number of bytes in words.
export function sizeOf(bytes) {
  const step = Math.min(Math.floor(Math.log10(Math.max(bytes, 1)) / 3), 3);
  const unit = ["byte", "kilobyte", "megabyte", "gigabyte"][step];
  const unitDisplay = step ? "short" : "long";
  const options = { style: "unit", unit, unitDisplay, maximumFractionDigits: step > 1 ? 1 : 0 };
  return new Intl.NumberFormat(locale, options).format(bytes / 1_000 ** step);
}

// Returns the file that an address of this server refers to; null if it refers to none.
export function fileOf(address) {
  const url = urlOf(address, location);
  const [, name] = (url?.origin === location.origin && FILE.exec(url.pathname)) || [];
  if (!name) return null;
  const [size, width, height] = ["size", "width", "height"].map((key) => countOf(url.searchParams.get(key)));
  // Characters that change the direction could hide the true ending of the name.
  const shown = decoded(name).replace(/[\p{Cc}\p{Bidi_C}]/gu, "");
  return { name: shown, size, width, height, href: url.pathname + url.search };
}

class Reader {
  #context;
  #names;
  #rooms;

  constructor(context) {
    this.#context = context;
  }

  read(text) {
    return this.#blocks(text.split("\n"), 0);
  }

  // Lines are read from a stack with the first line on top; each kind of block takes its lines from there.
  #blocks(lines, depth) {
    const stack = lines.reverse();
    const blocks = [];
    while (stack.length) {
      if (stack.at(-1).trim()) blocks.push(this.#block(stack, depth));
      else stack.pop();
    }
    return blocks;
  }

  #block(stack, depth) {
    const nests = (line) => depth < NESTING_DEPTH && (QUOTE.test(line) || ITEM.test(line));
    const isText = (line) => line.trim() && !FENCE.test(line) && !nests(line);
    const first = stack.at(-1);
    if (FENCE.test(first)) return fenced(stack);
    if (nests(first)) return QUOTE.test(first) ? this.#quote(stack, depth) : this.#list(stack, depth);
    return make("p", {}, take(stack, isText).flatMap((line) => ["\n", ...this.#line(line)]).slice(1));
  }

  #quote(stack, depth) {
    const lines = take(stack, (line) => QUOTE.test(line)).map((line) => line.replace(QUOTE, ""));
    const [, name, offset] = REPLY.exec(lines[0]) ?? [];
    const blocks = this.#blocks(lines.slice(name ? 1 : 0), depth + 1);
    // The author of the message that is answered, as a button that leads to it.
    const attributes = { type: "button", class: "reply", "data-reveal": offset, title: t("showAnswered") };
    if (name) blocks.unshift(make("cite", {}, [make("button", attributes, [this.#mention(name, name, this.#owns(offset))])]));
    return blocks.length ? make("blockquote", {}, blocks) : make("p", {}, [">"]);
  }

  // Items keep the numbers that were written.
  #list(stack, depth) {
    const [, number] = ITEM.exec(stack.at(-1));
    const list = make(number ? "ol" : "ul");
    for (let match; (match = ITEM.exec(stack.at(-1) ?? "")) && !match[1] === !number; ) {
      const [{ length }, value] = match;
      const first = stack.pop().slice(length);
      const outdent = new RegExp(`^ {2,${length}}`);
      const more = take(stack, (line) => INDENTED.test(line)).map((line) => line.replace(outdent, ""));
      const blocks = this.#blocks([first, ...more], depth + 1);
      list.append(make("li", value && { value }, blocks.flatMap(unwrapped)));
    }
    return list;
  }

  #line(text) {
    const nodes = [];
    // The marks of emphasis that wait for their counterpart, at most one of each kind.
    const open = [];
    let end = 0;
    TOKEN.lastIndex = 0;
    for (let match; (match = TOKEN.exec(text)); ) {
      const { index, groups } = match;
      const { mark } = groups;
      const node = mark ? MARKS[mark] : this.#nodeOf(groups);
      if (!node) continue;
      nodes.push(text.slice(end, index));
      end = TOKEN.lastIndex;
      if (mark) emphasize(mark, text[index - 1] ?? "", text[end] ?? "", nodes, open);
      else nodes.push(node);
    }
    nodes.push(text.slice(end));
    return nodes;
  }

  // Returns the element for a token; null if the token is only text.
  #nodeOf({ code, exact, address, place, ahead }) {
    if (code) return make("code", {}, [code]);
    if (place) return this.#roomIn(place);
    return ahead ? this.#mentionIn(ahead) : linkOf(exact ?? address);
  }

  // Returns a link to the room that a text begins with, which is then part of the token: one of the reader's rooms, or
  // what can be a name; null if there is none. A name in letters and a text in letters without spaces are divided.
  #roomIn(place) {
    this.#rooms ??= new Set(this.#context.rooms);
    const whole = place.replace(/[.-]+$/, "");
    const [spaced = ""] = SPACED.exec(whole) ?? [];
    const known = beginningOf(place, keyOf, this.#rooms, (rest) => /^[.-]*$/.test(rest));
    const name = known ?? (isRoomName(spaced) ? spaced.replace(/[.-]+$/, "") : whole);
    if (!isRoomName(name)) return null;
    TOKEN.lastIndex += name.length;
    return make("a", { class: "room-link", href: addressOf(keyOf(name)) }, [`#${name}`]);
  }

  // Returns a mention of the longest name that a text begins with, which is then part of the token; null if there is
  // none.
  #mentionIn(ahead) {
    this.#names ??= new Set([this.#context.self, ...this.#context.names].map(folded));
    const name = beginningOf(ahead, folded, this.#names, (rest) => !WORD.test(rest));
    if (!name) return null;
    TOKEN.lastIndex += name.length;
    return this.#mention(name, `@${name}`);
  }

  #owns(offset) {
    return this.#context.owns?.(Number(offset));
  }

  #mention(name, shown, isSelf = folded(name) === folded(this.#context.self)) {
    return make("bdi", { class: isSelf ? "mention mention--self" : "mention" }, [shown]);
  }
}

// Returns the longest beginning of a text whose `fold` is one of `known` and after which the word ends, as `isEnd` says
// for the rest of the text; undefined if there is none. A letter of a script without spaces always ends a word, because
// particles follow names.
function beginningOf(text, fold, known, isEnd) {
  for (let { length } = text; length; length -= 1) {
    const [begin, rest] = [text.slice(0, length), text.slice(length)];
    const isWord = isEnd(rest) || IS_UNSPACED.test(rest) || ENDS_UNSPACED.test(begin);
    if (isWord && known.has(fold(begin))) return begin;
  }
  return undefined;
}

// Whether a text is the name of a room. It needs a letter, and capitals only beside other than ASCII letters.
function isRoomName(text) {
  return /\p{L}/u.test(text) && !/^[\x00-\x7f]*[A-Z][\x00-\x7f]*$/.test(text) && isRoom(keyOf(text));
}

// Adds a mark of emphasis to the nodes of a line. It ends what its counterpart began, begins something, or is only
// text.
function emphasize(sign, before, after, nodes, open) {
  const begun = open.findIndex((each) => each.sign === sign);
  // Underscores within a word are never marks: names of files have them in any script.
  const inText = (letter) => sign[0] !== "_" && IS_UNSPACED.test(letter);
  if (begun >= 0 && /\S/.test(before) && (!WORD.test(after) || inText(after))) {
    const [{ at }] = open.splice(begun);
    if (nodes.slice(at).some((node) => MARKABLE.test(node.textContent ?? node))) {
      const [, ...inner] = nodes.splice(at);
      nodes.push(make(MARKS[sign], {}, inner));
      return;
    }
  } else if ((BEFORE_MARK.test(before) || inText(before)) && /\S/.test(after)) {
    if (begun >= 0) open.splice(begun, 1);
    open.push({ sign, at: nodes.length });
  }
  nodes.push(sign);
}

// Returns a block of code, which goes to the end of the text if nothing closes it. A word after the fence names a
// language and is not shown.
function fenced(stack) {
  const lines = [stack.pop(), ...take(stack, (line) => !FENCE_END.test(line)), ...stack.splice(-1)];
  const whole = lines.join("\n");
  const code = whole.replace(FENCE, "").replace(FENCE_END, "").replace(LANGUAGE, "");
  return code.trim() ? make("pre", {}, [make("code", {}, [code])]) : make("p", {}, [whole]);
}

// Returns a link; null for an address with a user name, which could pass for the host. The text of a link is its
// address, so that it cannot pretend to be another one; a host in other than ASCII letters is shown as the browser
// encodes it.
function linkOf(address) {
  const file = fileOf(address);
  if (file) return cardOf(file);
  const url = urlOf(address);
  if (!url || url.username || url.password) return null;
  const [, host] = /\/\/([^/?#\\]*)/.exec(address);
  const shown = host.toLowerCase() === url.host ? address : url.href;
  return make("a", { dir: "ltr", href: url.href, ...OUTSIDE }, [shown]);
}

// Returns a card for a file: an image, or a link to download it. An image that cannot be loaded becomes the latter.
function cardOf({ name, size, width, height, href }) {
  const link = make("a", { class: "file", href, ...OUTSIDE }, [make("bdi", { class: "file__name" }, [name])]);
  if (size) link.dataset.size = sizeOf(size);
  if (!width || !height) {
    link.download = name;
    return link;
  }
  const scale = Math.min(1, IMAGE_BOX.width / width, IMAGE_BOX.height / height);
  const [wide, high] = [width, height].map((length) => Math.max(MIN_SIDE_PX, Math.round(length * scale)));
  const image = make("img", { loading: "lazy", decoding: "async", alt: name, width: wide, height: high, src: href });
  image.onerror = () => {
    link.classList.remove("file--image");
    image.remove();
  };
  link.classList.add("file--image");
  link.prepend(image);
  return link;
}

const unwrapped = (block) => (block.tagName === "P" ? [...block.childNodes] : [block]);

// Takes lines from a stack as long as they pass a test.
function take(stack, test) {
  const lines = [];
  while (stack.length && test(stack.at(-1))) lines.push(stack.pop());
  return lines;
}

function urlOf(address, base) {
  try {
    return new URL(address, base);
  } catch {
    return null;
  }
}

const countOf = (digits) => (/^\d{1,12}$/.test(digits) ? Number(digits) : 0);
