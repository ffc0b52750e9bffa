/** A client of fastchat: https://chat.example/client.js, or the npm package `fastchat-client`. */

/** A failure. Everything that the client rejects with is one of these. */
export class ChatError extends Error {
  constructor(code: string, message: string, details?: ErrorDetails);
  /**
   * The server's code, such as `forbidden` or `username_taken`; the name of a close code, such as `removed`; or the
   * client's own: `offline`, `lost`, `doubtful`, `full`, `closed`, `left`, `room_deleted`, `discarded`,
   * `another_user`, `no_token`, `no_text`, `upload_failed` or `blocked`.
   */
  readonly code: string;
  /** Whether the same can succeed later. */
  readonly temporary: boolean;
  /** After how many milliseconds it can succeed, if the server has said so. */
  readonly retryAfter?: number;
  /** The close code, if the end of the connection is the failure. */
  readonly closeCode?: number;
}

export interface ErrorDetails {
  temporary?: boolean;
  retryAfter?: number;
  closeCode?: number;
  cause?: unknown;
}

export interface User {
  /** The public id, which stays the same when the name changes. Compare users by it, never by name. */
  user: string;
  username: string;
}

/** A message in its present state. */
export interface Message extends User {
  type: "message";
  room: string;
  /** The message's number in its room. */
  offset: number;
  text: string;
  /** The server's time, in UTC. */
  timestamp: string;
  /** The id that the sender gave it. */
  id?: string;
  /** The time of the last edit. */
  edited?: string;
  /** True if it was deleted. The text is then empty. */
  deleted?: boolean;
  /** The users who have reacted, by emoji. */
  reactions?: Record<string, User[]>;
}

interface Change<Type extends string> extends User {
  type: Type;
  room: string;
  offset: number;
  /** The offset of the message that changes. */
  target: number;
  timestamp: string;
}

export interface Edit extends Change<"edit"> {
  text: string;
}

export type Delete = Change<"delete">;

export interface React extends Change<"react"> {
  emoji: string;
  /** True if the reaction was taken back. */
  remove?: boolean;
}

/** A user came or went. `online` is the number of users after that. */
export interface Presence<Type extends string> extends User {
  type: Type;
  room: string;
  text: string;
  timestamp: string;
  online: number;
}

export interface Typing extends User {
  type: "typing";
  room: string;
}

/** A place in the stream of a room. */
export interface Position {
  epoch: string;
  offset: number;
  timestamp?: string;
}

/** Publications between two positions were missed and cannot be recovered. `room.messages` has the newest messages. */
export interface Gap {
  room: string;
  /** The last position before the gap. */
  since: Position;
  /** The position after it. */
  position: Position;
  /** Whether the server has another history now, so that nothing that was received before is a part of it. */
  replaced: boolean;
}

/** The server has accepted a join, the first one or one after a reconnection. */
export interface Joined extends Position {
  type: "joined";
  room: string;
  user: string;
  username: string | null;
  session: string;
  /** Whether everything that was missed is in `messages`. */
  recovered: boolean;
  replaced: boolean;
  messages: (Message | Edit | Delete | React)[];
  users: User[] | null;
  online: number;
  spectators: number;
  rights: Right[];
  options?: RoomOptions;
  files?: { max_bytes: number };
}

/** What an operator has set for a room. */
export interface RoomOptions {
  title?: string;
  topic?: string;
  closed?: boolean;
  read_only?: boolean;
  slow_s?: number;
  max_messages?: number;
}

export type Right = "read" | "write" | "moderate";

export interface RoomEvents {
  joined: Joined;
  message: Message;
  edit: Edit;
  delete: Delete;
  react: React;
  join: Presence<"join">;
  leave: Presence<"leave">;
  typing: Typing;
  gap: Gap;
  /** The users have changed: `room.users`, which is null in a crowd. */
  users: User[] | null;
  /** The operator has changed the options of the room: `room.options`. */
  room: { room: string; options: RoomOptions };
  /** The room was deleted with all its messages. It is `refused`, and another `chat.join` begins it anew. */
  room_deleted: { room: string };
  /** What this user has said was erased, also from `room.messages`. */
  user_erased: { room: string; user: string };
  /** The server has refused to let the user in again. The room is joined again only by `chat.join`. */
  refused: ChatError;
  /** The server lets the user in later, at `retryAt` (as `performance.now()` counts). */
  waiting: { error: ChatError; retryAt: number };
  /** A message was sent for the first time, or, if `sentAt` is undefined, the server wants to have it again later. */
  sending: { id: string; sentAt: number | undefined };
}

/**
 * `closed`: not connected; `reconnect` or `join` connects. `connecting`. `open`. `waiting`: the connection was lost,
 * and the next attempt is at `retryAt` (as `performance.now()` counts). `stopped`: the server does not want this
 * client, and only `reconnect` or `join` tries again.
 */
export interface Status {
  phase: "closed" | "connecting" | "open" | "waiting" | "stopped";
  /** Why the connection was lost or stopped. */
  error?: ChatError;
  /** The server's own words about that; "" if it has said nothing. */
  reason?: string;
  retryAt?: number;
}

export interface ChatEvents {
  status: Status;
  /** The token is another user's now. What was waiting to be sent was rejected, with the code `another_user`. */
  user: { user: string; former: string };
}

export interface ChatOptions {
  /**
   * The user's token, or a function that returns one. It is called at each connection, and with `refused: true` if the
   * server has not accepted the last token or that token has expired. "" stands for no token.
   */
  token?: string | ((asked: { refused: boolean }) => string | null | undefined | Promise<string | null | undefined>);
  /** A guest's name. Without a name and a token, the client can only read. */
  username?: string;
  /** The secret of an earlier `chat.session`, which makes a guest the same user again. */
  session?: string;
  /** The id of the user at an earlier time, so that a token of another user is noticed. */
  user?: string;
  /** A class like the browsers' WebSocket, for runtimes without one. */
  WebSocket?: new (url: string, protocol: string) => any;
}

export interface JoinOptions {
  /** How many of the newest messages to get with the join: 0 to 300, 50 by default. */
  history?: number;
  /** How many messages of the room to keep in memory, 300 by default. */
  keep?: number;
  /** Whether to join this room before all others, also after each reconnection. */
  first?: boolean;
}

export interface SendOptions {
  /** Files to upload and to share in the message. */
  files?: File[];
  /** The message to reply to, or its offset. */
  replyTo?: Message | number;
  /** The message's id. The server stores a message with the same id once. */
  id?: string;
  /**
   * When an earlier program has sent the message with this `id` first, in milliseconds since 1970. After nine minutes
   * nobody knows whether it was stored: it is rejected with the code `doubtful`.
   */
  sentAt?: number;
}

/** What is known about a message that the server has stored; only `room`, `id` and `offset` if it was stored before. */
export type Sent = Partial<Message> & { room: string; id: string; offset: number };

export interface SharedFile {
  link: string;
  name: string;
  size: number;
  media_type: string;
  width?: number;
  height?: number;
}

interface Emitter<Events> {
  /**
   * Adds a listener for one or more types of events, with spaces between them. Returns a function that removes it. For
   * a publication, `missed` is true if it was published while this client was not connected. Events of other types
   * are passed on as the server sends them.
   */
  on<Type extends keyof Events>(types: Type, listener: (event: Events[Type], missed: boolean) => void): () => void;
  on(types: string, listener: (event: any, missed: boolean) => void): () => void;
  off(types: string, listener: (event: any, missed: boolean) => void): void;
}

export interface Room extends Emitter<RoomEvents> {}

/** A room. It stays the same object through every reconnection, until it is left. */
export class Room {
  private constructor();
  readonly name: string;
  readonly joined: boolean;
  /** Why the server has refused the join; null otherwise. */
  readonly error: ChatError | null;
  /** The user's own id and name here. */
  readonly user: string;
  readonly username: string;
  /** All users in the order in which they came; null in a crowd of more than 200. */
  readonly users: User[] | null;
  readonly online: number;
  /** The number of connections that only read. */
  readonly spectators: number;
  readonly rights: Right[];
  /** What the operator has set for the room. */
  readonly options: RoomOptions;
  readonly position: Position | null;
  /** The newest messages in their present state, the oldest first. */
  readonly messages: Message[];
  /**
   * Sends a message, after its files. Resolves when the server has stored it. The client sends it again with the same
   * id until then, through every reconnection. Rejects if the server refuses it, or if the chat is stopped or closed.
   */
  send(text?: string, options?: SendOptions): Promise<Sent>;
  /** Gives a message up that is not stored yet. */
  discard(id: string): void;
  /** These need a connection, and reject with the code `offline` or `lost` without one. */
  edit(offset: number, text: string): Promise<Edit>;
  delete(offset: number): Promise<Delete>;
  react(offset: number, emoji: string, options?: { remove?: boolean }): Promise<React>;
  /** Tells the others that the user is typing, at most every three seconds. */
  typing(): void;
  /** A page of older or newer messages, the oldest first. `limit` is 1 to 300. */
  history(page?: { before?: number; after?: number; limit?: number }): Promise<{ messages: Message[]; more: boolean }>;
  /** The messages with all words of a query, the newest first. */
  search(query: string, options?: { limit?: number }): Promise<Message[]>;
  /** For moderators: the user must leave the room and cannot come back for `seconds`, 600 by default. */
  remove(user: string, options?: { seconds?: number }): Promise<User & { seconds: number }>;
  /** Uploads a file without sending a message. A message has to have its `link` within an hour. */
  upload(file: Blob, options?: { name?: string; signal?: AbortSignal }): Promise<SharedFile>;
  /** Sends any command of the protocol about this room. Resolves with the event that answers it. */
  request(command: { type: string; [field: string]: unknown }): Promise<any>;
  leave(): void;
}

export interface Chat extends Emitter<ChatEvents> {}

/** A connection to a server. It connects when the first room is joined, and reconnects until it is closed. */
export class Chat {
  /** `url` is the address of the chat, such as `https://chat.example`. */
  constructor(url: string | URL, options?: ChatOptions);
  readonly rooms: Room[];
  readonly status: Status;
  readonly username: string;
  /** The user's id; "" until the first join. */
  readonly user: string;
  /** The secret that makes a guest the same user again. Keep it as you keep a password. */
  readonly session: string;
  /** The size of the largest file that the server takes; undefined if it takes none. */
  readonly files?: { max_bytes: number };
  /** Joins a room, now and after each reconnection. Rejects if the server refuses it for good. */
  join(name: string, options?: JoinOptions): Promise<Room>;
  /** The room with a name, joined or not. */
  room(name: string): Room | undefined;
  /** Connects now, instead of after a pause or not at all. */
  reconnect(): void;
  /** Closes the connection. Rooms and messages wait until `reconnect`. */
  disconnect(): void;
  /** Takes another name in all rooms. Only for guests. */
  rename(username: string): void;
  /** Leaves all rooms and closes the connection. What is not stored yet is rejected with the code `closed`. */
  close(): void;
}

/** The server's limit for a text, in Unicode code points. */
export const TEXT_LIMIT: number;
/** The length of a text as the server counts it. */
export function codePointCount(text: string): number;
/** A new id for a message. */
export function newId(): string;
/** The pause before an attempt, in milliseconds: exponential, at most 15 s, with jitter. */
export function backoffMs(attempt: number, random?: number): number;
/** The quote with which a reply to a message begins. */
export function quoteOf(message: Pick<Message, "username" | "offset" | "text">): string;
/** The texts of the messages that share files: as few as possible, each with at most `TEXT_LIMIT` characters. */
export function textsOf(text: string, links: string[]): string[];
/** A file's name, shortened to what the server accepts. */
export function fileNameOf(name: string): string;
/** The fields of a message that an edit, a deletion, a reaction or the erasure of a user changes. */
export function changesOf(
  event: Edit | Delete | React | { type: "user_erased"; user: string },
  message: Partial<Message>,
): Partial<Message>;
