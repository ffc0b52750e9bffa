-- The ledger: what the machines of one chat share, in a schema of its own.
--
-- Every connection has this schema as its search path. A later version of the schema only adds to
-- this one, so that machines can be upgraded one by one. A function has the version in its name in
-- which it was added, and stays as long as machines can call it.
--
-- Locks are taken in one order everywhere: the fence of a machine, its row, rows of `indexed`, rooms by
-- name, users by room and key, totals of spectators by room, the lock of notices. So nobody waits in a
-- circle.

-- What this database is. Machines compare it with what they have seen before.
CREATE TABLE identity (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    -- The random id of this ledger, and the ids of all ledgers that share the chat's rooms.
    ledger text NOT NULL,
    ledgers text[] NOT NULL,
    -- The secrets that make epochs of rooms (fastchat.history.epochs) and public ids of users.
    generation bytea NOT NULL,
    user_key bytea NOT NULL,
    -- The channel of the notifications. It is random, because NOTIFY asks for no privilege.
    channel text NOT NULL,
    -- A part of every epoch. It is drawn anew when publications can be missing that clients have.
    token text NOT NULL DEFAULT '',
    renewed timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- When an operator has accepted this server, although it can be on an earlier timeline than another
    -- one that machines have seen.
    accepted timestamptz,
    -- The server and the timeline that the token belongs to.
    system text NOT NULL,
    timeline text NOT NULL,
    version integer NOT NULL,
    -- The oldest version of fastchat's schema whose programs can use this one.
    readable_from integer NOT NULL,
    -- The half of the ids that is being filled: 0 is the table `ids_0`.
    half smallint NOT NULL DEFAULT 0
);

-- The machines. `boot` is a random value of the process that is the machine at present: two servers of
-- one name differ in it. It is '' when the machine was silent for too long. `claim` counts how often
-- either has changed or the process has connected: a call from an older connection is refused. `silent`
-- is when the machine was found to be silent; after a week it is forgotten.
CREATE TABLE machines (
    number integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text COLLATE "C" NOT NULL UNIQUE,
    boot text NOT NULL,
    claim bigint NOT NULL DEFAULT 0,
    silent timestamptz
);
CREATE INDEX machines_silent ON machines (silent) WHERE silent IS NOT NULL;

-- The machines that were heard of lately. Nothing of it outlives a crash of the server.
CREATE UNLOGGED TABLE beats (
    machine integer PRIMARY KEY,
    at timestamptz NOT NULL
);

-- The fence of each machine: what was begun under an older incarnation cannot be committed. `boot` is
-- that of the last process that could commit.
CREATE TABLE fences (
    machine integer PRIMARY KEY,
    incarnation bigint NOT NULL,
    boot text NOT NULL
);

-- The numbered commits of each machine, with what `append` has answered. They are inserted and
-- trimmed, because a row that is updated for each commit grows a chain of versions as long as
-- anybody keeps a snapshot open.
CREATE TABLE commits (
    machine integer NOT NULL,
    number bigint NOT NULL,
    answer text NOT NULL,
    PRIMARY KEY (machine, number)
);

-- A room that was published in. The extent of its stream is `first` to `head`; if nothing is stored,
-- `first` is `head` + 1. Until `paid`, in seconds since 1970, its budget is spent.
CREATE TABLE rooms (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text COLLATE "C" NOT NULL UNIQUE,
    look text COLLATE "C" NOT NULL,
    epoch text NOT NULL,
    -- While the ledger has this token, clients know the epoch as it is (fastchat.ledger.identity).
    token text NOT NULL DEFAULT '',
    first bigint NOT NULL DEFAULT 1,
    head bigint NOT NULL DEFAULT 0,
    paid double precision NOT NULL DEFAULT 0
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05);
CREATE INDEX rooms_look ON rooms (look);

-- Publications, of the kinds 0 message, 1 edit, 2 delete, 3 react. A message has its present state,
-- and in `changed` the offset of its last change, with a number of erasures in the bits from 54 on
-- (`erased_1`). Texts are escaped (fastchat.ledger.rows).
CREATE TABLE publications (
    room bigint NOT NULL,
    "offset" bigint NOT NULL,
    changed bigint NOT NULL DEFAULT 0,
    target bigint,
    kind smallint NOT NULL,
    deleted boolean,
    remove boolean,
    "user" text NOT NULL,
    username text NOT NULL,
    text text,
    timestamp text NOT NULL,
    id text,
    emoji text,
    edited text,
    reactions text,
    PRIMARY KEY (room, "offset")
) WITH (autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_insert_scale_factor = 0.2);
CREATE INDEX publications_edits ON publications (room, target) WHERE kind = 1;

-- The `changed` of a message from which an erased user was taken.
CREATE FUNCTION erased_1(p_changed bigint) RETURNS bigint LANGUAGE sql IMMUTABLE AS $$
    SELECT (p_changed + (1::bigint << 54)) & ((1::bigint << 62) - 1)
$$;

-- The ids of recent messages, as digests of room, user and id (fastchat.ledger.rows). One half is filled
-- while the other one is remembered; then the older half is truncated.
CREATE TABLE ids_0 (
    digest bytea PRIMARY KEY,
    "offset" bigint NOT NULL
);
CREATE TABLE ids_1 (
    digest bytea PRIMARY KEY,
    "offset" bigint NOT NULL
);

-- The words of messages (fastchat.ledger.search), and for each room in which somebody has searched, up to
-- which offset they are there, and by which rules they were made.
CREATE TABLE texts (
    room bigint NOT NULL,
    "offset" bigint NOT NULL,
    words tsvector NOT NULL,
    PRIMARY KEY (room, "offset")
);
CREATE INDEX texts_words ON texts USING gin (words);
CREATE TABLE indexed (
    room bigint PRIMARY KEY,
    upto bigint NOT NULL,
    rules text NOT NULL
);

-- Which server this is: its system identifier, its timeline, and the end of its log that is on disk.
-- Some managed services refuse to say; the values are '' and NULL then.
CREATE FUNCTION server_1() RETURNS TABLE (system text, timeline text, flushed bigint)
LANGUAGE plpgsql AS $$
BEGIN
    SELECT s.system_identifier::text, left(pg_walfile_name(pg_current_wal_lsn()), 8),
           pg_current_wal_flush_lsn() - '0/0'::pg_lsn
    INTO system, timeline, flushed FROM pg_control_system() s;
    RETURN NEXT;
EXCEPTION WHEN insufficient_privilege OR feature_not_supported OR undefined_function THEN
    system := ''; timeline := ''; flushed := NULL;
    RETURN NEXT;
END $$;

-- Draw another token, unless another machine has replaced `p_token` already; returns the present one.
CREATE FUNCTION renew_1(p_token text, p_new text, p_system text, p_timeline text) RETURNS text
LANGUAGE sql AS $$
    UPDATE identity SET token = p_new, renewed = clock_timestamp(), system = p_system, timeline = p_timeline
    WHERE token = p_token;
    SELECT token FROM identity;
$$;

-- Make a process the machine of this name, or say that it has connected anew; returns the machine's
-- number, the boot of the process that was the machine before, and the number of the claim, which
-- `machine_1` checks. All users of the machine are away from now on: the process has to say within
-- `p_grace` seconds which of them are here.
CREATE FUNCTION claim_1(p_name text, p_boot text, p_token text, p_grace double precision DEFAULT 6)
RETURNS TABLE (machine integer, previous text, claim bigint)
LANGUAGE plpgsql AS $$
DECLARE v_channel text;
BEGIN
    SELECT channel INTO v_channel FROM identity WHERE token = p_token;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'fastchat: the ledger is another one' USING ERRCODE = 'FC002';
    END IF;
    LOOP
        INSERT INTO machines (name, boot) VALUES (p_name, p_boot) ON CONFLICT (name) DO NOTHING;
        SELECT m.number, m.boot INTO machine, previous FROM machines m WHERE m.name = p_name FOR UPDATE;
        EXIT WHEN FOUND;  -- otherwise the machine was forgotten in between
    END LOOP;
    UPDATE machines m SET boot = p_boot, claim = m.claim + 1, silent = NULL WHERE m.number = machine
    RETURNING m.claim INTO claim;
    PERFORM arrive_1(machine, v_channel, p_grace, previous <> p_boot);
    RETURN NEXT;
END $$;

-- Say that a machine is there, and return the machines that have done so in the last minute, each with
-- the number of its last commit. It notifies nobody: if the queue of notifications is full, because some
-- listener of any database does not read, or if the disk is, a commit that notifies fails.
CREATE FUNCTION beat_1(p_machine integer, p_boot text, p_token text)
RETURNS TABLE (machine integer, name text, last bigint)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
    PERFORM 1 FROM identity WHERE token = p_token;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'fastchat: the ledger is another one' USING ERRCODE = 'FC002';
    END IF;
    PERFORM 1 FROM machines WHERE number = p_machine AND boot = p_boot;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'fastchat: another process is this machine' USING ERRCODE = 'FC001';
    END IF;
    INSERT INTO beats (machine, at) VALUES (p_machine, clock_timestamp())
    ON CONFLICT (machine) DO UPDATE SET at = clock_timestamp();
    RETURN QUERY SELECT m.number, m.name,
        coalesce((SELECT c.number FROM commits c WHERE c.machine = m.number ORDER BY c.number DESC LIMIT 1), 0)
    FROM beats b JOIN machines m ON m.number = b.machine
    WHERE b.at > clock_timestamp() - interval '60 s';
END $$;

-- The key of a machine's fence, an advisory lock. What commits holds it shared.
CREATE FUNCTION fence_1(p_machine integer) RETURNS bigint LANGUAGE sql STABLE AS $$
    SELECT hashtext('fastchat ' || ledger)::bigint << 32 | p_machine FROM identity
$$;

-- Begin another incarnation of a machine. This waits until all that was begun under older ones has
-- ended, and nothing can be committed under these afterwards. It returns the machine's last commit,
-- with its answer, and whether this process has been the only one that could commit since it did so
-- before. It has to commit synchronously: when it returns, a standby that must have each commit has
-- all that can be read.
CREATE FUNCTION refence_1(p_machine integer, p_boot text, p_token text)
RETURNS TABLE (fence bigint, incarnation bigint, last bigint, answer text, is_own boolean)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
    fence := fence_1(p_machine);
    PERFORM pg_advisory_xact_lock(fence);
    PERFORM 1 FROM identity WHERE token = p_token;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'fastchat: the ledger is another one' USING ERRCODE = 'FC002';
    END IF;
    PERFORM 1 FROM machines WHERE number = p_machine AND boot = p_boot FOR SHARE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'fastchat: another process is this machine' USING ERRCODE = 'FC001';
    END IF;
    is_own := EXISTS (SELECT 1 FROM fences WHERE machine = p_machine AND boot = p_boot);
    INSERT INTO fences AS f (machine, incarnation, boot) VALUES (p_machine, 1, p_boot)
    ON CONFLICT (machine) DO UPDATE SET incarnation = f.incarnation + 1, boot = p_boot
    RETURNING f.incarnation INTO incarnation;
    SELECT c.number, c.answer INTO last, answer FROM commits c
    WHERE c.machine = p_machine ORDER BY c.number DESC LIMIT 1;
    last := coalesce(last, 0);
    DELETE FROM commits c WHERE c.machine = p_machine AND c.number < last;
    RETURN NEXT;
END $$;

-- The values of a column that was sent as one text: they have U+001E between them, and U+0001 is a NULL.
-- The program encodes a long text in a fraction of the time that it takes for an array.
CREATE FUNCTION split_1(p_column text) RETURNS text[] LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE p_column WHEN '' THEN ARRAY[''] ELSE string_to_array(p_column, E'\x1e', E'\x01') END
$$;

-- Number and store the drafts of a turn in one commit, and return a list for each room as JSON:
-- [room, first, kept, others, verdicts, results]. The answer is stored with the commit's number, so
-- that a machine that has lost it can ask again.
--
-- `p_names` are the rooms in the order of their names, each with the epoch and the look that it gets
-- if nothing was published in it yet; `p_rooms` has the index of each draft's room. `p_rooms` to `p_ids`
-- are columns for `split_1`. The arrays from `p_kinds` on are NULL if all drafts are messages. A change
-- has the state of its message that it makes, and in `p_expected` the change before it, or -1 if that is
-- in the same turn. `p_ids` and `p_digests` are NULL if no draft has an id. `p_originals` has the index
-- of the first draft with the same digest for each one that repeats it, and is NULL if none does.
-- `p_posted` says which drafts the budgets of rooms do not limit, and is NULL if they limit all.
--
-- `kept` drafts of the room have offsets from `first` on, in their order, without the
-- `others`. These have the verdicts 1: a duplicate of the message at the offset in `results`;
-- 2: the room's budget is spent for so many milliseconds; 3: the state of the message is a newer one
-- than expected, or the draft follows such a change in its room, which keeps their order. If `p_skip`,
-- rooms that somebody has locked are left out.
--
-- A commit of an older incarnation raises FC001, and one with another token FC002.
CREATE FUNCTION append_1(
    p_fence bigint, p_machine integer, p_incarnation bigint, p_token text, p_commit bigint,
    p_skip boolean, p_rate double precision, p_burst double precision, p_stored bigint, p_slack bigint,
    p_names text[], p_epochs text[], p_looks text[],
    p_rooms text, p_users text, p_usernames text, p_texts text, p_timestamps text,
    p_ids text, p_digests bytea[], p_originals integer[],
    p_kinds smallint[], p_targets bigint[], p_emojis text[], p_removes boolean[], p_expected bigint[],
    p_states text[], p_edited text[], p_deleted boolean[], p_reactions text[], p_posted boolean[]
) RETURNS text
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    v_half smallint;
    v_token text;
    v_rooms integer[] := split_1(p_rooms)::integer[];
    v_locked bigint[];
    -- Of each room of `p_names`; the number is NULL if the room is left out.
    v_numbers bigint[];
    v_heads bigint[];
    v_paid double precision[];
    -- How many publications the budget has left.
    v_left bigint[];
    v_stops bigint[];
    -- Of each draft whose id is known: the offset of its message. NULL if there is none.
    v_known bigint[];
    -- Of each draft: how many posted ones there are in its room up to it. NULL if none is posted.
    v_posted bigint[];
    v_now double precision;
    v_name text;
    v_epoch text;
    v_look text;
    v_answer text;
BEGIN
    PERFORM pg_advisory_xact_lock_shared(p_fence);
    SELECT token, half INTO v_token, v_half FROM identity;
    IF v_token <> p_token THEN
        RAISE EXCEPTION 'fastchat: the ledger is another one' USING ERRCODE = 'FC002';
    END IF;
    PERFORM 1 FROM fences WHERE machine = p_machine AND incarnation = p_incarnation;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'fastchat: another process is this machine' USING ERRCODE = 'FC001';
    END IF;

    IF (SELECT count(*) FROM rooms WHERE name = ANY (p_names)) < cardinality(p_names) THEN
        FOR v_name, v_epoch, v_look IN SELECT * FROM unnest(p_names, p_epochs, p_looks) LOOP
            INSERT INTO rooms (name, epoch, look) VALUES (v_name, v_epoch, v_look) ON CONFLICT (name) DO NOTHING;
            IF NOT p_skip THEN PERFORM 1 FROM rooms WHERE name = v_name FOR NO KEY UPDATE; END IF;
        END LOOP;
    END IF;
    IF p_skip THEN
        SELECT array_agg(number) INTO v_locked FROM (
            SELECT number FROM rooms WHERE name = ANY (p_names) ORDER BY name FOR NO KEY UPDATE SKIP LOCKED
        ) AS locked;
    ELSE
        SELECT array_agg(number) INTO v_locked FROM (
            SELECT number FROM rooms WHERE name = ANY (p_names) ORDER BY name FOR NO KEY UPDATE
        ) AS locked;
    END IF;
    v_now := extract(epoch FROM clock_timestamp());
    SELECT array_agg(CASE WHEN number = ANY (v_locked) THEN number END ORDER BY name),
        array_agg(head ORDER BY name), array_agg(paid ORDER BY name),
        array_agg(CASE WHEN p_rate > 0
            THEN greatest(0, floor((v_now - greatest(paid, v_now)) * p_rate + p_burst + 1e-6)) END ORDER BY name)
    INTO v_numbers, v_heads, v_paid, v_left FROM rooms WHERE name = ANY (p_names);
    IF cardinality(v_numbers) < cardinality(p_names) THEN
        RAISE EXCEPTION 'fastchat: a room has gone meanwhile' USING ERRCODE = 'serialization_failure';
    END IF;

    IF p_targets IS NOT NULL THEN
        SELECT array_agg(least ORDER BY i) INTO v_stops FROM (
            SELECT i, min(u.n) AS least FROM generate_subscripts(p_names, 1) AS i
            LEFT JOIN (
                SELECT u.room, u.n FROM unnest(v_rooms, p_targets, p_expected)
                    WITH ORDINALITY AS u(room, target, expected, n)
                LEFT JOIN publications p ON p.room = v_numbers[u.room] AND p."offset" = u.target
                WHERE u.target IS NOT NULL AND u.expected >= 0
                    AND (p.changed IS DISTINCT FROM u.expected OR p.deleted)
            ) AS u ON u.room = i
            GROUP BY i
        ) AS stops;
    END IF;

    -- Hardly ever is an id known. So all of them are looked up at once, and each by itself only if there
    -- are some.
    IF EXISTS (SELECT 1 FROM ids_0 WHERE digest = ANY (p_digests))
        OR EXISTS (SELECT 1 FROM ids_1 WHERE digest = ANY (p_digests))
    THEN
        -- An id is new again if its message is gone: the room was deleted, or the user was erased.
        WITH gone AS (
            SELECT u.digest, u.room, u.id, u."user" FROM unnest(p_digests, v_rooms, split_1(p_ids), split_1(p_users))
                AS u(digest, room, id, "user") WHERE u.digest IS NOT NULL AND v_numbers[u.room] IS NOT NULL
        ), from_0 AS (
            DELETE FROM ids_0 k USING gone g
            WHERE k.digest = g.digest AND (k."offset" > v_heads[g.room] OR EXISTS (
                SELECT 1 FROM publications p WHERE p.room = v_numbers[g.room] AND p."offset" = k."offset"
                    AND (p.id IS DISTINCT FROM g.id OR p."user" <> g."user")
            ))
        )
        DELETE FROM ids_1 k USING gone g
        WHERE k.digest = g.digest AND (k."offset" > v_heads[g.room] OR EXISTS (
            SELECT 1 FROM publications p WHERE p.room = v_numbers[g.room] AND p."offset" = k."offset"
                AND (p.id IS DISTINCT FROM g.id OR p."user" <> g."user")
        ));
        SELECT array_agg(coalesce(
            (SELECT k."offset" FROM ids_0 k WHERE k.digest = u.digest),
            (SELECT k."offset" FROM ids_1 k WHERE k.digest = u.digest)
        ) ORDER BY u.n) INTO v_known FROM unnest(p_digests) WITH ORDINALITY AS u(digest, n);
    END IF;

    IF p_posted IS NOT NULL THEN
        SELECT array_agg(c.count ORDER BY c.n) INTO v_posted FROM (
            SELECT u.n, count(*) FILTER (
                WHERE u.posted AND v_known[u.n] IS NULL AND p_originals[u.n] IS NULL
                    AND coalesce(u.n < v_stops[u.i], true)
            ) OVER (PARTITION BY u.i ORDER BY u.n ROWS UNBOUNDED PRECEDING) AS count
            FROM unnest(v_rooms, p_posted) WITH ORDINALITY AS u(i, posted, n)
        ) AS c;
    END IF;

    WITH d AS (
        SELECT u.*, v_numbers[u.i] AS number, v_heads[u.i] AS head, v_paid[u.i] AS paid,
            v_known[u.n] AS known, coalesce(u.n >= v_stops[u.i], false) AS is_stopped,
            v_left[u.i] AS left_over, coalesce(v_posted[u.n], 0) AS free, p_posted[u.n] AS posted
        FROM unnest(v_rooms, split_1(p_users), split_1(p_usernames), split_1(p_texts), split_1(p_timestamps),
                    split_1(p_ids), p_digests, p_originals, p_kinds, p_targets, p_emojis, p_removes,
                    p_states, p_edited, p_deleted, p_reactions)
            WITH ORDINALITY AS u(i, "user", username, txt, stamp, id, digest, original,
                    kind, target, emoji, remove, state, edited, deleted, reactions, n)
        WHERE v_numbers[u.i] IS NOT NULL
    ), f AS (
        SELECT d.*, known IS NULL AND original IS NULL AS is_new,
            count(*) FILTER (WHERE known IS NULL AND original IS NULL AND NOT is_stopped)
                OVER (PARTITION BY i ORDER BY n ROWS UNBOUNDED PRECEDING) - free AS nth
        FROM d
    ), m AS MATERIALIZED (
        SELECT f.*, head + least(nth, left_over) + free AS off, CASE
            WHEN is_stopped THEN 3
            WHEN NOT is_new THEN 1
            WHEN nth > left_over AND posted IS NOT TRUE THEN 2
            ELSE 0 END AS verdict
        FROM f
    ), stored AS (
        INSERT INTO publications (room, "offset", kind, "user", username, text, timestamp, id, target, emoji, remove)
        SELECT number, off, coalesce(kind, 0), "user", username, txt, stamp, id, target, emoji, remove
        FROM m WHERE verdict = 0
    ), remembered_0 AS (
        INSERT INTO ids_0 (digest, "offset")
        SELECT digest, off FROM m WHERE v_half = 0 AND verdict = 0 AND digest IS NOT NULL
    ), remembered_1 AS (
        INSERT INTO ids_1 (digest, "offset")
        SELECT digest, off FROM m WHERE v_half = 1 AND verdict = 0 AND digest IS NOT NULL
    ), changed AS (
        UPDATE publications p SET text = s.state, edited = s.edited, deleted = s.deleted,
            reactions = s.reactions, changed = s.off
        FROM (
            SELECT DISTINCT ON (number, target) number, target, off, state, edited, deleted, reactions
            FROM m WHERE verdict = 0 AND target IS NOT NULL ORDER BY number, target, n DESC
        ) AS s
        WHERE p.room = s.number AND p."offset" = s.target
    ), heads AS (
        UPDATE rooms r SET head = t.top, paid = CASE
            WHEN p_rate > 0 THEN least(greatest(r.paid, v_now) + t.count / p_rate, v_now + p_burst / p_rate)
            ELSE 0 END
        FROM (SELECT number, max(off) AS top, count(*) FILTER (WHERE posted IS NOT TRUE) AS count FROM m WHERE verdict = 0 GROUP BY number) AS t
        WHERE r.number = t.number
    )
    SELECT json_agg(json_build_array(i, start, kept, others, verdicts, results))::text INTO v_answer FROM (
        SELECT i, head + 1 AS start, count(*) FILTER (WHERE verdict = 0) AS kept,
            json_agg(n ORDER BY n) FILTER (WHERE verdict <> 0) AS others,
            json_agg(verdict ORDER BY n) FILTER (WHERE verdict <> 0) AS verdicts,
            json_agg(CASE verdict
                WHEN 1 THEN coalesce(known, (SELECT o.off FROM m o WHERE o.n = m.original))
                WHEN 2 THEN ceil(1000 * (greatest(paid, v_now) + nth / p_rate - v_now - p_burst / p_rate))
                END::bigint ORDER BY n) FILTER (WHERE verdict <> 0) AS results
        FROM m GROUP BY i, head
    ) AS rows;
    INSERT INTO commits (machine, number, answer) VALUES (p_machine, p_commit, coalesce(v_answer, '[]'));

    IF p_targets IS NOT NULL THEN
        -- The text of a deleted message is in none of its edits either.
        UPDATE publications e SET text = NULL
        FROM unnest(v_rooms, p_targets, p_kinds) AS u(room, target, kind)
        JOIN rooms r ON r.name = p_names[u.room]
        JOIN publications p ON p.room = r.number AND p."offset" = u.target AND p.deleted
        WHERE u.kind = 2 AND e.room = r.number AND e.target = u.target AND e.kind = 1 AND e.text IS NOT NULL;
        -- Nor are its words anywhere. Those of an edit are found again by the next search.
        DELETE FROM texts t USING unnest(v_rooms, p_targets, p_kinds) AS u(room, target, kind)
        JOIN rooms r ON r.name = p_names[u.room]
        JOIN publications p ON p.room = r.number AND p."offset" = u.target
            AND p.changed & ((1::bigint << 54) - 1) > r.head - cardinality(v_rooms)
        WHERE u.kind IN (1, 2) AND t.room = r.number AND t."offset" = u.target;
    END IF;
    -- An imported room can have any number of publications too many. No turn adds as many as are dropped.
    WITH long AS MATERIALIZED (
        UPDATE rooms r SET first = least(r.head - coalesce(o.kept, p_stored) + 1, r.first + 4000)
        FROM unnest(v_numbers, p_names) AS u(number, name) LEFT JOIN options o ON o.room = u.name
        WHERE r.number = u.number AND r.head - r.first + 1
            > CASE WHEN o.kept IS NULL THEN p_stored + p_slack ELSE o.kept + least(o.kept / 8 + 1, p_slack) END
        RETURNING r.number, r.first AS start
    ), words AS (
        DELETE FROM texts t USING long WHERE t.room = long.number AND t."offset" < long.start
    )
    DELETE FROM publications p USING long WHERE p.room = long.number AND p."offset" < long.start;
    RETURN coalesce(v_answer, '[]');
END $$;

-- Users in rooms: `key` is what all names have in common that look like the name. Nobody else can have
-- one of them. The serial is that of the notification that the user came. A row that is written has
-- to be locked before its serial is drawn, so that the serials of one room and key are in the order of
-- their commits. Nothing of it outlives a crash of the server: then the machines say it again.
CREATE UNLOGGED TABLE names (
    room text COLLATE "C" NOT NULL,
    key text COLLATE "C" NOT NULL,
    name text NOT NULL,
    "user" text COLLATE "C" NOT NULL,
    serial bigint NOT NULL DEFAULT 0,
    since timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (room, key)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05);
CREATE INDEX names_user ON names ("user", room);
CREATE SEQUENCE serials;

-- The machines where these users are. A user whose connections to a machine were lost is away from
-- there, and has the time `until` to come back. Each user of `names` has at least one row. To add or
-- delete rows, or to let an absent user be here again, the user's row of `names` must be locked. The
-- number of `connections` follows within a second.
CREATE UNLOGGED TABLE attendance (
    room text COLLATE "C" NOT NULL,
    key text COLLATE "C" NOT NULL,
    machine integer NOT NULL,
    until timestamptz,
    connections integer NOT NULL DEFAULT 1,
    PRIMARY KEY (room, key, machine)
) WITH (autovacuum_vacuum_scale_factor = 0.05);
CREATE INDEX attendance_machine ON attendance (machine, room, key) WHERE until IS NULL;
CREATE INDEX attendance_until ON attendance (until) WHERE until IS NOT NULL;

-- The connections of those who read without a name, and their total of each room.
CREATE UNLOGGED TABLE spectators (
    machine integer NOT NULL,
    room text COLLATE "C" NOT NULL,
    "user" text COLLATE "C" NOT NULL,
    connections integer NOT NULL,
    PRIMARY KEY (machine, room, "user")
);
CREATE INDEX spectators_user ON spectators ("user", room);
CREATE UNLOGGED TABLE audiences (
    room text COLLATE "C" PRIMARY KEY,
    total bigint NOT NULL
);

-- The users whom moderators have removed from a room, or backends from all rooms ('*'). Serials are in the order of the commits. A row stays for a
-- minute after it has expired, for the machines that have missed the notification.
CREATE TABLE removals (
    room text COLLATE "C" NOT NULL,
    "user" text COLLATE "C" NOT NULL,
    until timestamptz NOT NULL,
    serial bigint NOT NULL,
    PRIMARY KEY (room, "user")
);
CREATE INDEX removals_serial ON removals (serial);
CREATE INDEX removals_until ON removals (until);

-- After a crash or a promotion these are empty, and all names would be free. The first machine that
-- comes inserts the row of `boot`. For a moment, newcomers have to wait until the machines have said
-- which names their users have; those that have done so are in `said`.
CREATE UNLOGGED TABLE boot (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    since timestamptz NOT NULL DEFAULT clock_timestamp()
);
INSERT INTO boot (since) VALUES ('-infinity');
CREATE UNLOGGED TABLE said (
    machine integer PRIMARY KEY
);

-- Check that a connection is of the machine's last claim, keep it so until the transaction ends, and
-- return the channel. Nobody waits here for a commit: what updates the row of a machine commits
-- asynchronously.
CREATE FUNCTION machine_1(p_machine integer, p_claim bigint, p_token text) RETURNS text
LANGUAGE plpgsql AS $$
DECLARE v_channel text;
BEGIN
    SELECT channel INTO v_channel FROM identity WHERE token = p_token;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'fastchat: the ledger is another one' USING ERRCODE = 'FC002';
    END IF;
    PERFORM 1 FROM machines WHERE number = p_machine AND claim = p_claim FOR SHARE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'fastchat: another process is this machine' USING ERRCODE = 'FC001';
    END IF;
    RETURN v_channel;
END $$;

-- Tell all machines what has happened, one line of JSON for each event, in as few notifications as
-- PostgreSQL allows: a payload has fewer than 8000 bytes. The transaction has to commit
-- asynchronously, because a lock of all notifications of the server is held over its commit.
--
-- ["+" or "-", room, key, name, user, serial]: a user came or left;
-- ["s", room, count, machine, own]: so many connections of spectators are in the room; the change was
--     made by the machine of this number, which has said `own` of them;
-- ["x", room or "*", user, seconds, serial]: the user was removed for so many seconds.
--
-- Further lines are notices (administration.sql).
CREATE FUNCTION tell_1(p_channel text, p_lines text[]) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    v_payload text := 'c';
    v_line text;
BEGIN
    FOREACH v_line IN ARRAY p_lines LOOP
        IF octet_length(v_payload) + 1 + octet_length(v_line) > 7500 AND v_payload <> 'c' THEN
            PERFORM pg_notify(p_channel, v_payload);
            v_payload := 'c';
        END IF;
        v_payload := v_payload || E'\n' || v_line;
    END LOOP;
    IF v_payload <> 'c' THEN PERFORM pg_notify(p_channel, v_payload); END IF;
END $$;

-- Remove a user who is nowhere any more; returns the line to tell, or NULL if the user is somewhere.
-- The user's row must be locked.
CREATE FUNCTION depart_1(p_room text, p_key text) RETURNS text
LANGUAGE sql AS $$
    DELETE FROM names n WHERE n.room = p_room AND n.key = p_key
        AND NOT EXISTS (SELECT 1 FROM attendance a WHERE a.room = p_room AND a.key = p_key)
    RETURNING json_build_array('-', n.room, n.key, n.name, n."user", nextval('serials'))::text
$$;

-- Change the total of a room's spectators; returns the line to tell.
CREATE FUNCTION audience_1(p_room text, p_change bigint, p_machine integer, p_own bigint) RETURNS text
LANGUAGE plpgsql AS $$
DECLARE v_total bigint;
BEGIN
    INSERT INTO audiences AS a (room, total) VALUES (p_room, p_change)
    ON CONFLICT (room) DO UPDATE SET total = a.total + p_change RETURNING total INTO v_total;
    IF v_total = 0 THEN DELETE FROM audiences WHERE room = p_room; END IF;
    RETURN json_build_array('s', p_room, v_total, p_machine, p_own)::text;
END $$;

-- Mark the users of a machine as away, at most `p_limit` of them (NULL: all): they have `p_grace`
-- seconds to come back. The machine's row must be locked.
CREATE FUNCTION vacate_1(p_machine integer, p_grace double precision, p_limit integer) RETURNS void
LANGUAGE sql AS $$
    UPDATE attendance a SET until = clock_timestamp() + make_interval(secs => p_grace), connections = 1
    FROM (
        SELECT room, key FROM attendance WHERE machine = p_machine AND until IS NULL
        ORDER BY room, key LIMIT p_limit FOR UPDATE
    ) AS t
    WHERE a.room = t.room AND a.key = t.key AND a.machine = p_machine;
$$;

-- Replace what a machine has said of its spectators, of these rooms or, if it is NULL, of all; each
-- row has a room, a user, and the number of connections. Tells the totals that change.
CREATE FUNCTION watch_1(
    p_machine integer, p_channel text, p_rooms text[], p_of text[], p_users text[], p_connections integer[]
) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    d record;
    v_lines text[] := '{}';
    v_rooms text[];
    v_changes bigint[];
    v_owns bigint[];
BEGIN
    SELECT array_agg(t.room), array_agg(t.own - t.before), array_agg(t.own) INTO v_rooms, v_changes, v_owns
    FROM (
        SELECT u.room, sum(u.before) AS before, sum(u.own) AS own FROM (
            SELECT s.room, s.connections AS before, 0 AS own FROM spectators s
            WHERE s.machine = p_machine AND (p_rooms IS NULL OR s.room = ANY (p_rooms))
            UNION ALL
            SELECT n.room, 0, n.connections FROM unnest(p_of, p_connections) AS n(room, connections)
        ) AS u GROUP BY u.room
    ) AS t;
    DELETE FROM spectators s WHERE s.machine = p_machine AND (p_rooms IS NULL OR s.room = ANY (p_rooms));
    INSERT INTO spectators (machine, room, "user", connections)
    SELECT p_machine, n.* FROM unnest(p_of, p_users, p_connections) AS n;
    FOR d IN SELECT * FROM unnest(v_rooms, v_changes, v_owns) AS u(room, change, own)
             WHERE u.change <> 0 ORDER BY u.room COLLATE "C" LOOP
        v_lines := v_lines || audience_1(d.room, d.change, p_machine, d.own);
    END LOOP;
    PERFORM tell_1(p_channel, v_lines);
END $$;

-- What `claim_1` does for presence. A process that is the machine anew has no spectators yet.
CREATE FUNCTION arrive_1(p_machine integer, p_channel text, p_grace double precision, p_is_new boolean)
RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO boot DEFAULT VALUES ON CONFLICT DO NOTHING;
    INSERT INTO beats (machine, at) VALUES (p_machine, clock_timestamp())
    ON CONFLICT (machine) DO UPDATE SET at = clock_timestamp();
    PERFORM vacate_1(p_machine, p_grace, NULL);
    IF p_is_new THEN PERFORM watch_1(p_machine, p_channel, NULL, NULL, NULL, NULL); END IF;
END $$;

-- Say that a machine has entered all its users again.
CREATE FUNCTION said_1(p_machine integer, p_claim bigint, p_token text) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM machine_1(p_machine, p_claim, p_token);
    INSERT INTO said (machine) VALUES (p_machine) ON CONFLICT DO NOTHING;
END $$;

-- Let users be in rooms, whose connections to a machine are the first ones there. The result has for
-- each, by its place in the arrays, a verdict; and for users who are in, the serial of their coming:
--
-- 0: the user was here, under the name that is returned;
-- 1: the user came;
-- 2: another user has the name, who is connected, or who is away and for whom it is kept for so many
--    seconds;
-- 3: a moderator has removed the user, for so many seconds more;
-- 4: if `p_single`, the user must not get a further name, and has the ones in the JSON that is returned;
-- 5: the name is free, but a machine may have a user who has had it before the server has crashed.
--    This is answered for `p_gather` seconds at most, and never for a user who was here
--    before (`p_again`).
CREATE FUNCTION enter_1(
    p_machine integer, p_claim bigint, p_token text,
    p_rooms text[], p_keys text[], p_names text[], p_users text[], p_single boolean[], p_again boolean[],
    p_gather double precision
) RETURNS TABLE (n bigint, verdict integer, name text, seconds double precision, serial bigint)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    v_channel text := machine_1(p_machine, p_claim, p_token);
    v_gathers boolean;
    v_lines text[] := '{}';
    d record;
    v_owner record;
    v_is_here boolean;
    v_until timestamptz;
BEGIN
    v_gathers := coalesce((
        SELECT since > clock_timestamp() - make_interval(secs => p_gather) FROM boot
    ), true) AND EXISTS (
        SELECT 1 FROM machines m
        WHERE m.boot <> '' AND NOT EXISTS (SELECT 1 FROM said s WHERE s.machine = m.number)
    );
    FOR d IN
        SELECT u.* FROM unnest(p_rooms, p_keys, p_names, p_users, p_single, p_again)
            WITH ORDINALITY AS u(room, key, called, "user", single, again, place)
        ORDER BY u.room COLLATE "C", u.key COLLATE "C", u.place
    LOOP
        n := d.place; verdict := 0; name := d.called; seconds := NULL; serial := NULL;
        SELECT extract(epoch FROM max(r.until) - clock_timestamp()) INTO seconds FROM removals r
        WHERE r.room = ANY (ARRAY[d.room, '*']) AND r."user" = d."user" AND r.until > clock_timestamp();
        IF seconds IS NOT NULL THEN
            verdict := 3;
            RETURN NEXT;
            CONTINUE;
        END IF;
        IF d.single AND NOT EXISTS (
            SELECT 1 FROM names x WHERE x.room = d.room AND x.key = d.key AND x."user" = d."user"
        ) THEN
            SELECT json_agg(x.name ORDER BY x.serial)::text INTO name FROM names x
            WHERE x.room = d.room AND x."user" = d."user";
            IF name IS NOT NULL THEN
                verdict := 4;
                RETURN NEXT;
                CONTINUE;
            END IF;
            name := d.called;
        END IF;
        LOOP
            SELECT x.name, x."user", x.serial INTO v_owner FROM names x
            WHERE x.room = d.room AND x.key = d.key FOR UPDATE;
            EXIT WHEN FOUND;
            IF v_gathers AND NOT d.again THEN
                verdict := 5;
                EXIT;
            END IF;
            INSERT INTO names (room, key, name, "user") VALUES (d.room, d.key, d.called, d."user")
            ON CONFLICT DO NOTHING;
            IF FOUND THEN
                verdict := 1;
                EXIT;
            END IF;
        END LOOP;
        IF verdict = 5 THEN
            RETURN NEXT;
            CONTINUE;
        END IF;
        IF verdict = 0 AND v_owner."user" = d."user" THEN
            name := v_owner.name; serial := v_owner.serial;
        ELSIF verdict = 0 THEN
            SELECT bool_or(a.until IS NULL), max(a.until) INTO v_is_here, v_until
            FROM attendance a WHERE a.room = d.room AND a.key = d.key;
            IF v_is_here OR v_until > clock_timestamp() THEN
                verdict := 2;
                IF NOT v_is_here THEN seconds := extract(epoch FROM v_until - clock_timestamp()); END IF;
                RETURN NEXT;
                CONTINUE;
            END IF;
            -- The owner's time is over, and the sweep has not come by.
            verdict := 1;
            DELETE FROM attendance a WHERE a.room = d.room AND a.key = d.key;
            v_lines := v_lines || json_build_array(
                '-', d.room, d.key, v_owner.name, v_owner."user", nextval('serials')
            )::text;
        END IF;
        IF verdict = 1 THEN
            UPDATE names x SET name = d.called, "user" = d."user", serial = nextval('serials'),
                since = clock_timestamp()
            WHERE x.room = d.room AND x.key = d.key RETURNING x.serial INTO serial;
            v_lines := v_lines
                || json_build_array('+', d.room, d.key, d.called, d."user", serial)::text;
        END IF;
        INSERT INTO attendance AS a (room, key, machine) VALUES (d.room, d.key, p_machine)
        ON CONFLICT (room, key, machine) DO UPDATE SET until = NULL WHERE a.until IS NOT NULL;
        -- A user who is back somewhere is not away from anywhere.
        DELETE FROM attendance a
        WHERE a.room = d.room AND a.key = d.key AND a.machine <> p_machine AND a.until IS NOT NULL;
        RETURN NEXT;
    END LOOP;
    PERFORM tell_1(v_channel, v_lines);
END $$;

-- Take users out of rooms, whose last connections to a machine have left (`p_gone`) or were lost: then
-- they have `p_grace` seconds to come back. If a user is away from another machine too, that time
-- is awaited in either case, because that machine can be about to say that the user is there.
CREATE FUNCTION part_1(
    p_machine integer, p_claim bigint, p_token text,
    p_rooms text[], p_keys text[], p_users text[], p_gone boolean[], p_grace double precision
) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    v_channel text := machine_1(p_machine, p_claim, p_token);
    v_lines text[] := '{}';
    d record;
BEGIN
    FOR d IN
        SELECT u.* FROM unnest(p_rooms, p_keys, p_users, p_gone)
            WITH ORDINALITY AS u(room, key, "user", gone, place)
        ORDER BY u.room COLLATE "C", u.key COLLATE "C", u.place
    LOOP
        PERFORM 1 FROM names x
        WHERE x.room = d.room AND x.key = d.key AND x."user" = d."user" FOR UPDATE;
        CONTINUE WHEN NOT FOUND;
        IF d.gone THEN
            DELETE FROM attendance a WHERE a.room = d.room AND a.key = d.key AND a.machine = p_machine;
            v_lines := v_lines || depart_1(d.room, d.key);
        ELSE
            UPDATE attendance a SET until = clock_timestamp() + make_interval(secs => p_grace)
            WHERE a.room = d.room AND a.key = d.key AND a.machine = p_machine AND a.until IS NULL;
        END IF;
    END LOOP;
    PERFORM tell_1(v_channel, array_remove(v_lines, NULL));
END $$;

-- Say which spectators of these rooms a machine has, as `watch_1` needs it.
CREATE FUNCTION spectate_1(
    p_machine integer, p_claim bigint, p_token text,
    p_rooms text[], p_of text[], p_users text[], p_connections integer[]
) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM watch_1(
        p_machine, machine_1(p_machine, p_claim, p_token), p_rooms, p_of, p_users, p_connections
    );
END $$;

-- The users of a room, in the order in which they came.
CREATE FUNCTION roster_1(p_room text)
RETURNS TABLE (key text, name text, "user" text, serial bigint, is_away boolean)
LANGUAGE sql STABLE AS $$
    SELECT n.key, n.name, n."user", n.serial, NOT EXISTS (
        SELECT 1 FROM attendance a WHERE a.room = n.room AND a.key = n.key AND a.until IS NULL
    )
    FROM names n WHERE n.room = p_room ORDER BY n.serial
$$;

-- Store that a user must stay out of a room, or of all rooms ('*'), and return the serial of the removal.
CREATE FUNCTION keep_out_1(p_room text, p_user text, p_seconds double precision) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE v_serial bigint;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('fastchat removals'), hashtext(ledger)) FROM identity;
    v_serial := nextval('serials');
    INSERT INTO removals AS r (room, "user", until, serial)
    VALUES (p_room, p_user, clock_timestamp() + make_interval(secs => p_seconds), v_serial)
    ON CONFLICT (room, "user") DO UPDATE SET serial = excluded.serial, until = CASE
        WHEN p_seconds = 0 THEN greatest(r.until, excluded.until) ELSE excluded.until END;
    -- If there are too many, those that end soonest are forgotten.
    DELETE FROM removals WHERE (room, "user") IN (
        SELECT r.room, r."user" FROM removals r ORDER BY r.until
        LIMIT greatest(0, (SELECT count(*) FROM removals) - 10000)
    );
    RETURN v_serial;
END $$;

-- Keep a user out of a room for so many seconds, and return the user, with the serial of the removal.
-- They are found by `p_user`, also among the spectators, or by `p_key` if that is NULL. If nobody
-- is found, nothing is stored and nothing returned. With 0 seconds, an earlier removal stays in force.
-- This has to commit synchronously. `expel_1` follows in a transaction of its own.
CREATE FUNCTION remove_1(p_token text, p_room text, p_user text, p_key text, p_seconds double precision)
RETURNS TABLE (name text, "user" text, serial bigint)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
    PERFORM 1 FROM identity WHERE token = p_token;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'fastchat: the ledger is another one' USING ERRCODE = 'FC002';
    END IF;
    IF p_user IS NULL THEN
        SELECT n.name, n."user" INTO name, "user" FROM names n WHERE n.room = p_room AND n.key = p_key;
    ELSE
        SELECT n.name, n."user" INTO name, "user" FROM names n
        WHERE n.room = p_room AND n."user" = p_user ORDER BY n.serial LIMIT 1;
        IF NOT FOUND THEN
            SELECT s."user" INTO "user" FROM spectators s
            WHERE s.room = p_room AND s."user" = p_user LIMIT 1;
        END IF;
    END IF;
    IF "user" IS NULL THEN RETURN; END IF;
    serial := keep_out_1(p_room, "user", p_seconds);
    RETURN NEXT;
END $$;

-- Tell all machines of a removal, from a room or from all ('*'). If the user is away, they leave at once.
CREATE FUNCTION expel_1(
    p_machine integer, p_claim bigint, p_token text,
    p_room text, p_user text, p_seconds double precision, p_serial bigint
) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    v_channel text := machine_1(p_machine, p_claim, p_token);
    v_lines text[] := '{}';
    d record;
BEGIN
    FOR d IN
        SELECT n.room, n.key FROM names n WHERE n."user" = p_user AND p_room IN (n.room, '*')
        ORDER BY n.room, n.key FOR UPDATE
    LOOP
        DELETE FROM attendance a WHERE a.room = d.room AND a.key = d.key AND a.until IS NOT NULL;
        v_lines := v_lines || depart_1(d.room, d.key);
    END LOOP;
    v_lines := v_lines || json_build_array('x', p_room, p_user, p_seconds, p_serial)::text;
    PERFORM tell_1(v_channel, array_remove(v_lines, NULL));
END $$;

-- Look for what only time brings about, unless another machine is doing it. If a machine has not
-- beaten for `p_silent` seconds, it is fenced, and its users are away. If a user's time to come back
-- is over, they leave; at most `p_limit` of them at once. It returns the newest removal's serial, and
-- how many absences have ended: if that is `p_limit`, there can be more. Machines that were silent for
-- a week are forgotten, a few at once.
CREATE FUNCTION sweep_1(
    p_machine integer, p_claim bigint, p_token text,
    p_silent double precision, p_grace double precision, p_limit integer
) RETURNS TABLE (removal bigint, ended integer)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    v_channel text := machine_1(p_machine, p_claim, p_token);
    v_now timestamptz := clock_timestamp();
    v_lines text[] := '{}';
    v_machine integer;
    d record;
BEGIN
    removal := coalesce((SELECT max(r.serial) FROM removals r), 0);
    ended := 0;
    IF NOT pg_try_advisory_xact_lock(
        hashtext('fastchat sweep'), hashtext((SELECT i.ledger FROM identity i))
    ) THEN
        RETURN NEXT;
        RETURN;
    END IF;
    -- A process that holds its machine's row is alive. A machine with very many users is fenced in the
    -- first step, and further steps mark the rest of the users.
    SELECT m.number INTO v_machine FROM machines m
    WHERE m.number <> p_machine AND CASE m.boot
        WHEN '' THEN
            EXISTS (SELECT 1 FROM attendance a WHERE a.machine = m.number AND a.until IS NULL)
        ELSE (SELECT b.since FROM boot b) < v_now - make_interval(secs => p_silent)
            AND NOT EXISTS (
                SELECT 1 FROM beats b
                WHERE b.machine = m.number AND b.at > v_now - make_interval(secs => p_silent)
            )
        END
    ORDER BY m.number LIMIT 1 FOR UPDATE SKIP LOCKED;
    IF FOUND THEN
        UPDATE machines SET boot = '', claim = claim + 1, silent = v_now
        WHERE number = v_machine AND boot <> '';
        IF FOUND THEN
            UPDATE fences SET incarnation = incarnation + 1 WHERE machine = v_machine;
            PERFORM watch_1(v_machine, v_channel, NULL, NULL, NULL, NULL);
        END IF;
        PERFORM vacate_1(v_machine, p_grace, 10 * p_limit);
    END IF;
    FOR d IN
        SELECT n.room, n.key FROM names n JOIN (
            SELECT DISTINCT a.room, a.key FROM (
                SELECT room, key FROM attendance WHERE until <= v_now ORDER BY until LIMIT p_limit
            ) AS a
        ) AS due ON n.room = due.room AND n.key = due.key
        ORDER BY n.room, n.key FOR UPDATE OF n SKIP LOCKED
    LOOP
        DELETE FROM attendance a WHERE a.room = d.room AND a.key = d.key AND a.until <= v_now;
        v_lines := v_lines || depart_1(d.room, d.key);
        ended := ended + 1;
    END LOOP;
    PERFORM tell_1(v_channel, array_remove(v_lines, NULL));
    DELETE FROM removals WHERE (room, "user") IN (
        SELECT r.room, r."user" FROM removals r WHERE r.until < v_now - interval '60 s'
        ORDER BY r.until LIMIT p_limit FOR UPDATE SKIP LOCKED
    );
    -- Without its rows, every call and commit of such a machine is refused, and it can only become a new
    -- machine. If a commit of it is under way even now, a later call forgets it.
    FOR v_machine IN
        SELECT m.number FROM machines m WHERE m.silent < v_now - interval '7 days' AND NOT EXISTS (
            SELECT 1 FROM attendance a WHERE a.machine = m.number AND a.until IS NULL
        )
        ORDER BY m.silent LIMIT 10 FOR UPDATE SKIP LOCKED
    LOOP
        CONTINUE WHEN NOT pg_try_advisory_xact_lock(fence_1(v_machine));
        DELETE FROM commits WHERE machine = v_machine;
        DELETE FROM fences WHERE machine = v_machine;
        DELETE FROM reports WHERE machine = v_machine;
        DELETE FROM beats WHERE machine = v_machine;
        DELETE FROM said WHERE machine = v_machine;
        DELETE FROM machines WHERE number = v_machine;
    END LOOP;
    RETURN NEXT;
END $$;

-- What each machine has said of itself last, as JSON, for operators.
CREATE UNLOGGED TABLE reports (
    machine integer PRIMARY KEY,
    at timestamptz NOT NULL,
    report text NOT NULL
);

-- Store the report of a machine, and return the reports of the last hour, with the names of the machines
-- and the ages of the reports in seconds.
CREATE FUNCTION report_1(p_machine integer, p_claim bigint, p_token text, p_report text)
RETURNS TABLE (name text, age double precision, report text)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
    PERFORM machine_1(p_machine, p_claim, p_token);
    INSERT INTO reports (machine, at, report) VALUES (p_machine, clock_timestamp(), p_report)
    ON CONFLICT (machine) DO UPDATE SET at = excluded.at, report = excluded.report;
    RETURN QUERY SELECT m.name, extract(epoch FROM clock_timestamp() - r.at)::double precision, r.report
    FROM reports r JOIN machines m ON m.number = r.machine
    WHERE r.at > clock_timestamp() - interval '1 hour' ORDER BY m.name;
END $$;

-- When the halves of the ids have changed last.
CREATE TABLE rotations (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    at timestamptz NOT NULL DEFAULT clock_timestamp()
);
INSERT INTO rotations DEFAULT VALUES;

-- Change the halves of the ids if the last change was `p_every` seconds ago, and forget the older ids. It
-- returns whether that was done: not if commits hold the half for long; then a later call does it.
CREATE FUNCTION rotate_1(p_machine integer, p_claim bigint, p_token text, p_every double precision)
RETURNS boolean
LANGUAGE plpgsql SET lock_timeout = '100ms' AS $$
BEGIN
    PERFORM machine_1(p_machine, p_claim, p_token);
    PERFORM 1 FROM rotations WHERE at <= clock_timestamp() - make_interval(secs => p_every)
    FOR UPDATE SKIP LOCKED;
    IF NOT FOUND THEN RETURN false; END IF;
    IF (SELECT half FROM identity) = 0 THEN TRUNCATE ids_1; ELSE TRUNCATE ids_0; END IF;
    UPDATE identity SET half = 1 - half;
    UPDATE rotations SET at = clock_timestamp();
    RETURN true;
EXCEPTION WHEN lock_not_available THEN
    RETURN false;
END $$;

-- Drop publications from before the timestamp `p_before`: the first ones, at most `p_rows` of each of
-- the next `p_rooms` rooms after the one with the number `p_after`. It returns the number of the last
-- one of these, or 0 if there are none after it. A room that somebody has locked is left out.
CREATE FUNCTION age_1(
    p_machine integer, p_claim bigint, p_token text,
    p_before text, p_after bigint, p_rooms integer, p_rows integer
) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    d record;
    v_last bigint;
    v_count integer := 0;
    v_number bigint := 0;
BEGIN
    PERFORM machine_1(p_machine, p_claim, p_token);
    FOR d IN SELECT r.number, r.first FROM rooms r WHERE r.number > p_after ORDER BY r.number LIMIT p_rooms LOOP
        v_count := v_count + 1;
        v_number := d.number;
        SELECT max(o."offset") INTO v_last FROM (
            SELECT p."offset", bool_and(p.timestamp COLLATE "C" < p_before) OVER (ORDER BY p."offset") AS is_old
            FROM (
                SELECT "offset", timestamp FROM publications
                WHERE room = d.number AND "offset" >= d.first ORDER BY "offset" LIMIT p_rows
            ) AS p
        ) AS o WHERE o.is_old;
        CONTINUE WHEN v_last IS NULL;
        PERFORM 1 FROM rooms r WHERE r.number = d.number FOR NO KEY UPDATE SKIP LOCKED;
        CONTINUE WHEN NOT FOUND;
        UPDATE rooms SET first = v_last + 1 WHERE number = d.number AND first <= v_last;
        DELETE FROM texts t WHERE t.room = d.number AND t."offset" <= v_last;
        DELETE FROM publications p WHERE p.room = d.number AND p."offset" <= v_last;
    END LOOP;
    RETURN CASE WHEN v_count < p_rooms THEN 0 ELSE v_number END;
END $$;
