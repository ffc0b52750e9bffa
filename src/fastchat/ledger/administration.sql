-- What backends and operators decide: options of rooms, deletions, bans, and erasures.
--
-- Each decision is stored, with a notice for all machines, and told in another transaction. Notices
-- have serials in the order of their commits, so a machine finds out which ones it has not heard of.
-- The lock for that order is taken last, after the locks that the head of schema.sql names.

-- The options of rooms that have any: JSON, by name. `kept` is how many publications a room keeps, or
-- NULL. The room can be without publications.
CREATE TABLE options (
    room text COLLATE "C" PRIMARY KEY,
    value text NOT NULL,
    kept bigint,
    serial bigint NOT NULL
);

-- Deleted rooms whose publications are still on the disk, under the number that the room had.
CREATE TABLE deleted (
    room bigint PRIMARY KEY,
    name text COLLATE "C" NOT NULL,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    is_empty boolean NOT NULL DEFAULT false
);

-- The notices of the last hour, as they are told: ["o", room, options, serial]: options were set;
-- ["d", room, null, serial]: the room was deleted; ["e", room, [user, erasure], serial]: what the user
-- has said there was erased; ["u", room or "*", user, serial]: the user can come in again.
CREATE TABLE notices (
    serial bigint PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    line text NOT NULL
);

CREATE FUNCTION token_1(p_token text) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM 1 FROM identity WHERE token = p_token;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'fastchat: the ledger is another one' USING ERRCODE = 'FC002';
    END IF;
END $$;

-- Let nobody else store a notice until the transaction ends.
CREATE FUNCTION lock_notices_1() RETURNS void LANGUAGE sql AS $$
    SELECT pg_advisory_xact_lock(hashtext('fastchat notices'), hashtext(ledger)) FROM identity
$$;

CREATE FUNCTION notice_1(p_kind text, p_room text, p_value json, OUT serial bigint, OUT line text)
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM lock_notices_1();
    serial := nextval('serials');
    line := json_build_array(p_kind, p_room, p_value, serial)::text;
    INSERT INTO notices VALUES (serial, clock_timestamp(), line);
END $$;

-- Change options of a room, and return all that differ from `p_usual`, with the notice.
CREATE FUNCTION set_options_1(
    p_token text, p_room text, p_changes text, p_usual text, OUT value text, OUT serial bigint, OUT line text
)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE v_value jsonb;
BEGIN
    PERFORM token_1(p_token), lock_notices_1();
    SELECT coalesce(jsonb_object_agg(e.key, e.value), '{}') INTO v_value FROM jsonb_each(
        coalesce((SELECT o.value::jsonb FROM options o WHERE o.room = p_room), '{}') || p_changes::jsonb
    ) AS e WHERE e.value IS DISTINCT FROM p_usual::jsonb -> e.key;
    value := v_value::text;
    SELECT n.serial, n.line INTO serial, line FROM notice_1('o', p_room, value::json) n;
    IF v_value = '{}' THEN
        DELETE FROM options o WHERE o.room = p_room;
    ELSE
        INSERT INTO options (room, value, kept, serial)
        VALUES (p_room, v_value::text, nullif((v_value ->> 'max_messages')::bigint, 0), serial)
        ON CONFLICT (room) DO UPDATE
        SET value = excluded.value, kept = excluded.kept, serial = excluded.serial;
    END IF;
END $$;

-- Delete a room: its publications lose it at once, and `purge_1` deletes them. A room of this name
-- begins anew with the epoch `p_epoch`. Returns the number of the old one, NULL if nothing was ever
-- published, and the notice, NULL if the room had nothing and nobody.
CREATE FUNCTION delete_room_1(
    p_token text, p_room text, p_look text, p_epoch text, OUT number bigint, OUT serial bigint, OUT line text
)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    v_is_known boolean;
    v_has_options boolean;
BEGIN
    PERFORM token_1(p_token);
    DELETE FROM rooms r WHERE r.name = p_room RETURNING r.number, r.head > 0 INTO number, v_is_known;
    IF FOUND THEN
        INSERT INTO deleted (room, name) VALUES (number, p_room);
        INSERT INTO rooms (name, look, epoch) VALUES (p_room, p_look, p_epoch);
    END IF;
    DELETE FROM removals r WHERE r.room = p_room;
    PERFORM lock_notices_1();
    DELETE FROM options o WHERE o.room = p_room;
    v_has_options := FOUND;
    IF v_is_known OR v_has_options
        OR EXISTS (SELECT 1 FROM names n WHERE n.room = p_room)
        OR EXISTS (SELECT 1 FROM audiences a WHERE a.room = p_room)
    THEN
        SELECT n.serial, n.line INTO serial, line FROM notice_1('d', p_room, NULL) n;
    END IF;
END $$;

-- Release the files that messages of a deleted room have linked to; returns how many links are gone,
-- at most `p_rows`.
CREATE FUNCTION release_1(p_room bigint, p_rows integer) RETURNS integer
LANGUAGE plpgsql AS $$
DECLARE
    v_name text := (SELECT name FROM deleted WHERE room = p_room);
    v_files text[];
    v_count integer;
BEGIN
    WITH gone AS (
        DELETE FROM links l USING (
            SELECT "offset", file FROM links WHERE room = p_room ORDER BY "offset", file LIMIT p_rows
        ) AS d
        WHERE l.room = p_room AND l."offset" = d."offset" AND l.file = d.file RETURNING l.file
    )
    SELECT count(*), array_agg(DISTINCT file) INTO v_count, v_files FROM gone;
    -- A later room of this name can have the same files.
    DELETE FROM files f WHERE f.id = ANY (v_files) AND f.linked AND f.room = v_name
        AND NOT EXISTS (SELECT 1 FROM links l WHERE l.room = p_room AND l.file = f.id)
        AND NOT EXISTS (
            SELECT 1 FROM rooms r JOIN links l ON l.room = r.number AND l.file = f.id WHERE r.name = v_name
        );
    RETURN v_count;
END $$;

-- Delete what is left of a deleted room, at most `p_rows` rows, and old notices, unless another machine
-- is doing it. Returns whether there is more to do. A search can store words of the room until it ends;
-- so the room is forgotten after a minute.
CREATE FUNCTION purge_1(p_rows integer) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
    v_room bigint;
    v_count integer;
BEGIN
    IF NOT pg_try_advisory_xact_lock(hashtext('fastchat purge'), hashtext((SELECT ledger FROM identity))) THEN
        RETURN false;
    END IF;
    IF (SELECT at FROM notices ORDER BY serial LIMIT 1) < clock_timestamp() - interval '1 hour' THEN
        DELETE FROM notices WHERE serial IN (SELECT serial FROM notices ORDER BY serial LIMIT p_rows)
            AND at < clock_timestamp() - interval '1 hour';
    END IF;
    SELECT room INTO v_room FROM deleted WHERE NOT is_empty ORDER BY room LIMIT 1;
    IF FOUND THEN
        v_count := release_1(v_room, p_rows);
        IF v_count > 0 THEN RETURN true; END IF;
        WITH gone AS (
            DELETE FROM publications p USING (
                SELECT "offset" FROM publications WHERE room = v_room ORDER BY "offset" LIMIT p_rows
            ) AS d
            WHERE p.room = v_room AND p."offset" = d."offset" RETURNING p."offset"
        ), words AS (
            DELETE FROM texts t USING gone WHERE t.room = v_room AND t."offset" = gone."offset"
        )
        SELECT count(*) INTO v_count FROM gone;
        UPDATE deleted SET is_empty = true WHERE room = v_room AND v_count < p_rows;
        RETURN true;
    END IF;
    SELECT room INTO v_room FROM deleted WHERE at < clock_timestamp() - interval '60 s' ORDER BY room LIMIT 1;
    IF NOT FOUND THEN RETURN false; END IF;
    DELETE FROM texts WHERE room = v_room;
    DELETE FROM indexed WHERE room = v_room;
    DELETE FROM deleted WHERE room = v_room;
    RETURN true;
END $$;

-- Keep a user out of a room, or of all of them ('*'), for so many seconds, whether they are here or not;
-- returns the serial of the removal, and in how many of the rooms the user is. With 0 seconds they can
-- come back, and an earlier removal stays in force. `expel_1` follows, as after `remove_1`.
CREATE FUNCTION ban_1(
    p_token text, p_room text, p_user text, p_seconds double precision, OUT serial bigint, OUT rooms bigint
)
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM token_1(p_token);
    SELECT count(DISTINCT u.room) INTO rooms FROM (
        SELECT n.room FROM names n WHERE n."user" = p_user
        UNION ALL
        SELECT s.room FROM spectators s WHERE s."user" = p_user
    ) AS u WHERE p_room IN (u.room, '*');
    serial := keep_out_1(p_room, p_user, p_seconds);
END $$;

-- Let a user come in again. Returns whether they had to stay out, and the notice, NULL if there was no
-- removal.
CREATE FUNCTION lift_1(
    p_token text, p_room text, p_user text, OUT is_lifted boolean, OUT serial bigint, OUT line text
)
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM token_1(p_token);
    DELETE FROM removals r WHERE r.room = p_room AND r."user" = p_user
    RETURNING r.until > clock_timestamp() INTO is_lifted;
    IF FOUND THEN
        SELECT n.serial, n.line INTO serial, line FROM notice_1('u', p_room, to_json(p_user)) n;
    END IF;
    is_lifted := coalesce(is_lifted, false);
END $$;

-- Store the numbers of connections that users have to a machine.
CREATE FUNCTION connections_1(
    p_machine integer, p_claim bigint, p_token text, p_rooms text[], p_keys text[], p_connections integer[]
) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE d record;
BEGIN
    PERFORM machine_1(p_machine, p_claim, p_token);
    FOR d IN
        SELECT u.* FROM unnest(p_rooms, p_keys, p_connections) AS u(room, key, connections)
        ORDER BY u.room COLLATE "C", u.key COLLATE "C"
    LOOP
        UPDATE attendance SET connections = d.connections
        WHERE room = d.room AND key = d.key AND machine = p_machine;
    END LOOP;
END $$;

-- Reactions without those of a user; `p_user` is a JSON string as it is in them. NULL if none is left.
CREATE FUNCTION without_1(p_reactions text, p_user text) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT '{' || string_agg(k.emoji || ':[' || k.reactors || ']', ',' ORDER BY k.n) || '}' FROM (
        SELECT to_json(e.key)::text AS emoji, e.n, (
            SELECT string_agg(r.value::text, ',' ORDER BY r.n)
            FROM json_array_elements(e.value) WITH ORDINALITY AS r(value, n)
            WHERE (r.value -> 0)::text <> p_user
        ) AS reactors
        FROM json_each(p_reactions::json) WITH ORDINALITY AS e(key, value, n)
    ) AS k WHERE k.reactors IS NOT NULL
$$;

-- Erase what a user has said in the next `p_rows` publications after one of a room: the user's messages
-- become deleted, and their reactions are taken back. `p_json` is the user as JSON, and `p_erasure` a
-- number for the notices. Returns the last of these publications, how many messages were erased and how
-- many others have lost reactions, the rooms, and the notices. All is NULL if no publication follows.
--
-- Another version of a message is made by a number that is added to `changed`, which is no offset: a
-- commit of a machine that does not know of it must not write the old state again.
CREATE FUNCTION erase_1(
    p_token text, p_user text, p_json text, p_erased_user text, p_erased_name text, p_erasure bigint,
    p_room bigint, p_offset bigint, p_rows integer,
    OUT room bigint, OUT "offset" bigint, OUT messages integer, OUT reactions integer,
    OUT names text[], OUT lines text[]
)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    v_room bigint;
    v_offset bigint;
    v_found bigint[];
    v_rooms bigint[];
    v_rooms_of bigint[];
    v_offsets bigint[];
    v_name text;
    v_names text[];
    v_lines text[] := '{}';
    v_reactions integer;
BEGIN
    PERFORM token_1(p_token);
    SELECT k.room, k."offset" INTO v_room, v_offset FROM (
        SELECT p.room, p."offset" FROM publications p WHERE (p.room, p."offset") > (p_room, p_offset)
        ORDER BY p.room, p."offset" LIMIT p_rows
    ) AS k ORDER BY k.room DESC, k."offset" DESC LIMIT 1;
    IF NOT FOUND THEN RETURN; END IF;
    room := v_room; "offset" := v_offset; messages := 0; reactions := 0;
    SELECT array_agg(DISTINCT p.room) INTO v_found FROM publications p
    WHERE (p.room, p."offset") > (p_room, p_offset) AND (p.room, p."offset") <= (v_room, v_offset)
        AND (p."user" = p_user OR strpos(p.reactions, p_json) > 0);
    IF v_found IS NULL THEN RETURN; END IF;
    -- A search must not store words that it has read before.
    PERFORM 1 FROM indexed i WHERE i.room = ANY (v_found) ORDER BY i.room FOR UPDATE;
    SELECT array_agg(l.number), array_agg(l.name) INTO v_rooms, v_names FROM (
        SELECT r.number, r.name FROM rooms r WHERE r.number = ANY (v_found) ORDER BY r.name FOR NO KEY UPDATE
    ) AS l;
    IF v_rooms IS NULL THEN RETURN; END IF;  -- they were deleted

    SELECT array_agg(p.room), array_agg(p."offset"), count(*) FILTER (WHERE p.deleted IS NOT TRUE)
    INTO v_rooms_of, v_offsets, messages FROM publications p
    WHERE (p.room, p."offset") > (p_room, p_offset) AND (p.room, p."offset") <= (v_room, v_offset)
        AND p.room = ANY (v_rooms) AND p.kind = 0 AND p."user" = p_user;
    UPDATE publications p SET "user" = p_erased_user, username = p_erased_name, text = '', id = NULL,
        edited = NULL, deleted = true, reactions = NULL, changed = erased_1(p.changed)
    FROM unnest(v_rooms_of, v_offsets) AS u(room, at) WHERE p.room = u.room AND p."offset" = u.at;
    UPDATE publications e SET text = NULL
    FROM unnest(v_rooms_of, v_offsets) AS u(room, at)
    WHERE e.room = u.room AND e.target = u.at AND e.kind = 1 AND e.text IS NOT NULL;
    DELETE FROM texts t USING unnest(v_rooms_of, v_offsets) AS u(room, at)
    WHERE t.room = u.room AND t."offset" = u.at;

    UPDATE publications p SET reactions = without_1(p.reactions, p_json), changed = erased_1(p.changed)
    WHERE (p.room, p."offset") > (p_room, p_offset) AND (p.room, p."offset") <= (v_room, v_offset)
        AND p.room = ANY (v_rooms) AND p.kind = 0 AND strpos(p.reactions, p_json) > 0
        AND without_1(p.reactions, p_json) IS DISTINCT FROM p.reactions;
    GET DIAGNOSTICS v_reactions = ROW_COUNT;
    reactions := v_reactions;
    UPDATE publications p SET "user" = p_erased_user, username = p_erased_name, text = NULL
    WHERE (p.room, p."offset") > (p_room, p_offset) AND (p.room, p."offset") <= (v_room, v_offset)
        AND p.room = ANY (v_rooms) AND p.kind <> 0 AND p."user" = p_user;
    FOREACH v_name IN ARRAY v_names LOOP
        v_lines := v_lines || (
            SELECT n.line FROM notice_1('e', v_name, json_build_array(p_user, p_erasure)) n
        );
    END LOOP;
    names := v_names; lines := v_lines;
END $$;
