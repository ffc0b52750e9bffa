-- Shared files (fastchat.files), and the links in messages that keep them.
--
-- Locks are taken in this order: the advisory lock of quotas, a row of `uploads`, rows of `files`. What
-- commits a message has its room's row before. Tidying waits for none of them.

-- The key of the digests that are ids of files.
CREATE TABLE file_key (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    key bytea NOT NULL
);

-- Stored files. The `user` is the first sender, whose quota the file counts against; `charge` is how many
-- bytes it counts. `linked` is whether a message has linked to it since it was sent last, at `uploaded`.
CREATE TABLE files (
    id text COLLATE "C" PRIMARY KEY,
    room text COLLATE "C" NOT NULL,
    "user" text COLLATE "C" NOT NULL,
    size bigint NOT NULL,
    charge bigint NOT NULL,
    media_type text NOT NULL,
    width integer,
    height integer,
    content bigint NOT NULL,
    uploaded timestamptz NOT NULL,
    linked boolean NOT NULL DEFAULT false
);
CREATE INDEX files_user ON files ("user") INCLUDE (charge);
CREATE INDEX files_unlinked ON files (uploaded) WHERE NOT linked;

-- Announced files, and incoming ones: these have a `claim`, a random number of the writer. The connection
-- of the writer holds an advisory lock with the key `owner`, so that everybody sees when its process has
-- ended. `heard` is when the last piece came. The number is also that of the content. `again` is the id of
-- a stored file that the announced one probably repeats (fastchat.files.quotas).
CREATE TABLE uploads (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    ticket bytea NOT NULL UNIQUE,
    room text COLLATE "C" NOT NULL,
    "user" text COLLATE "C" NOT NULL,
    name text NOT NULL,
    size bigint NOT NULL,
    charge bigint NOT NULL,
    expires timestamptz NOT NULL,
    again text COLLATE "C",
    claim bigint,
    owner bigint,
    heard timestamptz
) WITH (fillfactor = 50);
CREATE INDEX uploads_user ON uploads ("user");
CREATE INDEX uploads_claim ON uploads (claim) INCLUDE (charge) WHERE claim IS NOT NULL;
CREATE INDEX uploads_expires ON uploads (expires) WHERE claim IS NULL;

-- The contents, in pieces of 256 KiB. They are not compressed, because most files are already.
CREATE TABLE pieces (
    content bigint NOT NULL,
    n integer NOT NULL,
    data bytea NOT NULL,
    PRIMARY KEY (content, n)
);
ALTER TABLE pieces ALTER data SET STORAGE EXTERNAL;

-- Contents that belong to no file any more. Nobody waits until their pieces are deleted.
CREATE TABLE discarded (
    content bigint PRIMARY KEY,
    was_file boolean NOT NULL,
    at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- The number of stored files, and their charge, as a sum of changes: a commit that deletes a file must not
-- wait for a row that everybody changes.
CREATE TABLE file_changes (
    files bigint NOT NULL,
    bytes bigint NOT NULL
);

-- The links in the present texts of messages, also to ids that no file has.
CREATE TABLE links (
    room bigint NOT NULL,
    "offset" bigint NOT NULL,
    file text COLLATE "C" NOT NULL,
    PRIMARY KEY (room, "offset", file)
);
CREATE INDEX links_file ON links (room, file);

-- The links follow each change of a text, in the same transaction, whatever makes the change.
CREATE FUNCTION ids_in_1(p_text text) RETURNS SETOF text LANGUAGE sql IMMUTABLE AS $$
    SELECT DISTINCT m[1] FROM regexp_matches(p_text, '/files/([a-z2-7]{32})/', 'g') AS m
$$;

CREATE FUNCTION link_1() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'UPDATE' THEN
        DELETE FROM links l WHERE l.room = NEW.room AND l."offset" = NEW."offset"
            AND l.file NOT IN (SELECT ids_in_1(NEW.text));
    END IF;
    WITH added AS (
        INSERT INTO links (room, "offset", file) SELECT NEW.room, NEW."offset", i FROM ids_in_1(NEW.text) AS i
        ON CONFLICT DO NOTHING RETURNING file
    )
    UPDATE files f SET linked = true FROM added, rooms r
    WHERE f.id = added.file AND NOT f.linked AND r.number = NEW.room AND f.room = r.name;
    RETURN NULL;
END $$;
CREATE TRIGGER link AFTER INSERT ON publications FOR EACH ROW
WHEN (NEW.kind = 0 AND strpos(NEW.text, '/files/') > 0) EXECUTE FUNCTION link_1();
CREATE TRIGGER relink AFTER UPDATE OF text ON publications FOR EACH ROW
WHEN (
    NEW.kind = 0 AND NEW.text IS DISTINCT FROM OLD.text
    AND (strpos(OLD.text, '/files/') > 0 OR strpos(NEW.text, '/files/') > 0)
) EXECUTE FUNCTION link_1();

-- Publications are dropped from the start of a stream only. So nobody looks at each of them.
CREATE FUNCTION unlink_1() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM links l WHERE l.room = NEW.number AND l."offset" < NEW.first;
    RETURN NULL;
END $$;
CREATE TRIGGER unlink AFTER UPDATE OF first ON rooms FOR EACH ROW
WHEN (NEW.first > OLD.first) EXECUTE FUNCTION unlink_1();

-- A file goes with its last link, at the end of the transaction, when all links are known. If it was sent
-- again after the message was, another message is expected.
CREATE FUNCTION unneeded_1() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM files f USING rooms r
    WHERE f.id = OLD.file AND f.linked AND r.number = OLD.room AND f.room = r.name
        AND NOT EXISTS (SELECT 1 FROM links l WHERE l.room = OLD.room AND l.file = OLD.file);
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER unneeded AFTER DELETE ON links DEFERRABLE INITIALLY DEFERRED
FOR EACH ROW EXECUTE FUNCTION unneeded_1();

CREATE FUNCTION count_file_1() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO file_changes VALUES (1, NEW.charge);
    ELSE
        INSERT INTO file_changes VALUES (-1, -OLD.charge);
        INSERT INTO discarded (content, was_file) VALUES (OLD.content, true);
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER count AFTER INSERT OR DELETE ON files FOR EACH ROW EXECUTE FUNCTION count_file_1();

-- Let nobody else check a quota until the transaction ends.
CREATE FUNCTION lock_quotas_1() RETURNS void LANGUAGE sql AS $$
    SELECT pg_advisory_xact_lock(hashtext('fastchat quotas'), hashtext(ledger)) FROM identity
$$;

-- Let the transaction end without waiting for the disk. If it is lost, the client has to send the file
-- again.
CREATE FUNCTION hurry_1() RETURNS void LANGUAGE sql AS $$
    SELECT set_config('synchronous_commit', 'off', true)
$$;

-- By how many bytes a further file exceeds the quota of all users. Stored and incoming files count. They are
-- read by one statement, because a file becomes stored in one commit.
CREATE FUNCTION total_excess_1(p_charge bigint, p_max bigint) RETURNS numeric LANGUAGE sql AS $$
    SELECT coalesce((SELECT sum(bytes) FROM file_changes), 0)
        + coalesce((SELECT sum(charge) FROM uploads WHERE claim IS NOT NULL), 0) + p_charge - p_max
$$;

-- The same for the quota of a user, for which announced files count as well.
CREATE FUNCTION user_excess_1(p_user text, p_charge bigint, p_max bigint) RETURNS numeric LANGUAGE sql AS $$
    SELECT coalesce((SELECT sum(charge) FROM files WHERE "user" = p_user), 0)
        + coalesce((
            SELECT sum(charge) FROM uploads WHERE "user" = p_user AND again IS NULL
                AND (claim IS NOT NULL OR expires > clock_timestamp())
        ), 0) + p_charge - p_max
$$;

-- Whether the quota of a user has no place for a further file: 0: it has; 2: it has not; 3: it will have in
-- so many seconds, when announcements have expired.
CREATE FUNCTION user_refusal_1(p_user text, p_charge bigint, p_max bigint, OUT refusal integer, OUT seconds float8)
LANGUAGE plpgsql AS $$
DECLARE v_excess numeric := user_excess_1(p_user, p_charge, p_max);
BEGIN
    refusal := 0;
    IF v_excess <= 0 THEN RETURN; END IF;
    SELECT 3, extract(epoch FROM min(e.expires) - clock_timestamp()) INTO refusal, seconds FROM (
        SELECT u.expires, sum(u.charge) OVER (ORDER BY u.expires, u.number) AS freed FROM uploads u
        WHERE u."user" = p_user AND u.again IS NULL AND u.claim IS NULL AND u.expires > clock_timestamp()
    ) AS e WHERE e.freed >= v_excess HAVING count(*) > 0;
    refusal := coalesce(refusal, 2);
END $$;

-- Announce a file. `refusal` is 0, 1 if the quota of all users is exhausted, or that of `user_refusal_1`.
-- Otherwise `number` is that of the announcement. If the user's quota is exhausted, it replaces one of
-- the same room, name and size, or counts as a stored file of that size to which no message links yet.
CREATE FUNCTION reserve_1(
    p_room text, p_user text, p_name text, p_size bigint, p_charge bigint, p_ticket bytea,
    p_ticket_s float8, p_max_user bigint, p_max_total bigint,
    OUT refusal integer, OUT seconds float8, OUT number bigint
)
LANGUAGE plpgsql AS $$
DECLARE v_again text;
BEGIN
    PERFORM hurry_1(), lock_quotas_1();
    SELECT 0, u.number INTO refusal, number FROM uploads u WHERE u.ticket = p_ticket;
    IF FOUND THEN RETURN; END IF;  -- the answer was lost
    IF total_excess_1(p_charge, p_max_total) > 0 THEN
        refusal := 1;
        RETURN;
    END IF;
    refusal := 0;
    IF user_excess_1(p_user, p_charge, p_max_user) > 0 THEN
        DELETE FROM uploads WHERE uploads.number = (
            SELECT min(u.number) FROM uploads u WHERE u."user" = p_user AND u.room = p_room
                AND u.name = p_name AND u.size = p_size AND u.claim IS NULL AND u.expires > clock_timestamp()
        );
        SELECT r.refusal, r.seconds INTO refusal, seconds FROM user_refusal_1(p_user, p_charge, p_max_user) r;
        IF refusal <> 0 THEN
            SELECT f.id INTO v_again FROM files f
            WHERE f."user" = p_user AND f.room = p_room AND f.size = p_size AND NOT f.linked AND NOT EXISTS (
                SELECT 1 FROM uploads u WHERE u."user" = p_user AND u.again = f.id
                    AND (u.claim IS NOT NULL OR u.expires > clock_timestamp())
            ) LIMIT 1;
            IF v_again IS NULL THEN RAISE SQLSTATE 'FC003'; END IF;
        END IF;
    END IF;
    refusal := 0;
    INSERT INTO uploads AS u (ticket, room, "user", name, size, charge, expires, again)
    VALUES (p_ticket, p_room, p_user, p_name, p_size, p_charge,
        clock_timestamp() + make_interval(secs => p_ticket_s), v_again)
    RETURNING u.number INTO number;
EXCEPTION WHEN SQLSTATE 'FC003' THEN
    NULL;  -- the announcement that was not replaced stays
END $$;

-- Let a connection own the incoming files with these claims, and end all others that it has owned; returns
-- the key of ids. A new connection calls it, and each connection now and then.
CREATE FUNCTION own_1(p_claims bigint[]) RETURNS bytea
LANGUAGE plpgsql AS $$
DECLARE v_owner bigint := nullif(current_setting('fastchat.owner', true), '');
BEGIN
    PERFORM hurry_1();
    IF v_owner IS NULL THEN
        v_owner := hashint8extended(pg_backend_pid(), (extract(epoch FROM clock_timestamp()) * 1000000)::bigint);
        PERFORM set_config('fastchat.owner', v_owner::text, false), pg_advisory_lock(v_owner);
    END IF;
    UPDATE uploads SET owner = v_owner, heard = clock_timestamp()
    WHERE claim = ANY (p_claims) AND owner <> v_owner;
    WITH gone AS (
        DELETE FROM uploads WHERE owner = v_owner AND NOT claim = ANY (p_claims) RETURNING number
    )
    INSERT INTO discarded (content, was_file) SELECT number, false FROM gone;
    RETURN (SELECT key FROM file_key);
END $$;

-- Let an announced file be incoming: 0. It is 1 if the quota of all users is exhausted, and 4 if the
-- ticket was used or has expired.
CREATE FUNCTION begin_1(p_number bigint, p_claim bigint, p_max_total bigint) RETURNS integer
LANGUAGE plpgsql AS $$
DECLARE d record;
BEGIN
    PERFORM hurry_1(), lock_quotas_1();
    SELECT * INTO d FROM uploads WHERE number = p_number FOR UPDATE;
    IF d.claim = p_claim THEN RETURN 0; END IF;  -- the answer was lost
    IF d.number IS NULL OR d.claim IS NOT NULL OR d.expires <= clock_timestamp() THEN RETURN 4; END IF;
    IF total_excess_1(d.charge, p_max_total) > 0 THEN RETURN 1; END IF;
    UPDATE uploads SET claim = p_claim, owner = current_setting('fastchat.owner')::bigint,
        heard = clock_timestamp() WHERE number = p_number;
    RETURN 0;
END $$;

-- Until when the pieces that all machines have stored use up their common rate, in seconds since 1970. A
-- commit of messages writes everything to the disk that was logged before it, so pieces must not come too
-- fast.
CREATE UNLOGGED TABLE pace (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    until double precision NOT NULL
) WITH (fillfactor = 20);

-- Store a piece of an incoming file. Returns in how many seconds this process can store another piece, at
-- `p_rate` bytes a second of all machines (0: no limit); NULL if the file is not there any more.
CREATE FUNCTION put_1(p_number bigint, p_claim bigint, p_n integer, p_data bytea, p_rate float8) RETURNS float8
LANGUAGE plpgsql AS $$
DECLARE
    v_now float8 := extract(epoch FROM clock_timestamp());
    v_span float8 := coalesce(octet_length(p_data) / nullif(p_rate, 0), 0);
    v_until float8;
BEGIN
    PERFORM hurry_1();
    UPDATE uploads SET heard = clock_timestamp() WHERE number = p_number AND claim = p_claim;
    IF NOT FOUND THEN RETURN NULL; END IF;
    INSERT INTO pieces (content, n, data) VALUES (p_number, p_n, p_data) ON CONFLICT DO NOTHING;
    INSERT INTO pace AS p (until) VALUES (v_now + v_span)
    ON CONFLICT (one) DO UPDATE SET until = greatest(p.until, v_now) + v_span RETURNING until INTO v_until;
    RETURN greatest(0, v_until - v_now);
END $$;

-- Whether a content is complete.
CREATE FUNCTION is_complete_1(p_content bigint, p_size bigint) RETURNS boolean LANGUAGE sql AS $$
    SELECT coalesce(sum(octet_length(data)), 0) = p_size FROM pieces WHERE content = p_content
$$;

-- Turn an incoming file into a stored one. `refusal` is 0, 4 if it is not there or incomplete, or that of
-- `user_refusal_1`, if it is not the file that it was announced as. The same content in the same
-- room is stored once. This commits like a publication.
CREATE FUNCTION finish_1(
    p_number bigint, p_claim bigint, p_id text, p_media_type text, p_width integer, p_height integer,
    p_max_user bigint, OUT refusal integer, OUT seconds float8
)
LANGUAGE plpgsql AS $$
DECLARE
    d record;
    v_content bigint;
BEGIN
    IF EXISTS (SELECT 1 FROM uploads WHERE number = p_number AND again IS NOT NULL) THEN
        PERFORM lock_quotas_1();
    END IF;
    SELECT * INTO d FROM uploads WHERE number = p_number AND claim = p_claim FOR UPDATE;
    IF NOT FOUND THEN  -- the answer was lost, or the file
        refusal := CASE WHEN EXISTS (SELECT 1 FROM files WHERE id = p_id) THEN 0 ELSE 4 END;
        RETURN;
    END IF;
    refusal := 0;
    IF NOT is_complete_1(p_number, d.size) THEN
        refusal := 4;
    ELSIF d.again IS NOT NULL AND NOT EXISTS (SELECT 1 FROM files WHERE id = p_id) THEN
        SELECT r.refusal, r.seconds INTO refusal, seconds FROM user_refusal_1(d."user", d.charge, p_max_user) r;
    END IF;
    IF refusal <> 0 THEN RETURN; END IF;
    INSERT INTO files AS f (id, room, "user", size, charge, media_type, width, height, content, uploaded)
    VALUES (p_id, d.room, d."user", d.size, d.charge, p_media_type, p_width, p_height, p_number, clock_timestamp())
    ON CONFLICT (id) DO UPDATE SET uploaded = excluded.uploaded, linked = false
    RETURNING f.content INTO v_content;
    DELETE FROM uploads WHERE number = p_number;
    IF v_content = p_number THEN RETURN; END IF;
    IF is_complete_1(v_content, d.size) THEN
        INSERT INTO discarded (content, was_file) VALUES (p_number, false);
    ELSE
        UPDATE files SET content = p_number WHERE id = p_id;
        INSERT INTO discarded (content, was_file) VALUES (v_content, false);
    END IF;
END $$;

-- End an announced file, or the incoming one of this writer. Another writer's is not affected.
CREATE FUNCTION abandon_1(p_number bigint, p_claim bigint) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM hurry_1();
    WITH gone AS (
        DELETE FROM uploads WHERE number = p_number AND (claim IS NULL OR claim = p_claim) RETURNING number, claim
    )
    INSERT INTO discarded (content, was_file) SELECT number, false FROM gone WHERE claim IS NOT NULL;
END $$;

-- Delete what is not needed any more, unless another machine is doing it: announcements that have
-- expired; incoming files whose process has ended, if their last piece came more than `p_lost` seconds ago;
-- files to which no message has linked for `p_unlinked` seconds; and at most `p_bytes` bytes of contents that
-- were discarded `p_kept` seconds ago, so that downloads under way can end. It returns the number of stored
-- files and their charge, how many incoming files it has removed, and how many contents of files.
CREATE FUNCTION tidy_1(
    p_lost float8, p_unlinked float8, p_kept float8, p_bytes bigint,
    OUT files bigint, OUT bytes bigint, OUT unfinished bigint, OUT deleted bigint
)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    v_now timestamptz := clock_timestamp();
    v_contents bigint[];
BEGIN
    unfinished := 0; deleted := 0;
    SELECT coalesce(sum(c.files), 0), coalesce(sum(c.bytes), 0) INTO files, bytes FROM file_changes c;
    IF NOT pg_try_advisory_xact_lock(hashtext('fastchat files'), hashtext((SELECT ledger FROM identity))) THEN
        RETURN;
    END IF;
    DELETE FROM uploads WHERE number IN (
        SELECT number FROM uploads WHERE claim IS NULL AND expires <= v_now
        ORDER BY expires LIMIT 256 FOR UPDATE SKIP LOCKED
    );
    WITH lost AS (
        DELETE FROM uploads WHERE number IN (
            SELECT number FROM uploads
            WHERE claim IS NOT NULL AND heard < v_now - make_interval(secs => p_lost)
                AND pg_try_advisory_xact_lock(owner)
            FOR UPDATE SKIP LOCKED
        ) RETURNING number
    ), kept AS (
        INSERT INTO discarded (content, was_file) SELECT number, false FROM lost
    )
    SELECT count(*) INTO unfinished FROM lost;
    -- An older message can link to a file that was sent again.
    WITH old AS MATERIALIZED (
        SELECT f.id, EXISTS (
            SELECT 1 FROM rooms r JOIN links l ON l.room = r.number AND l.file = f.id WHERE r.name = f.room
        ) AS is_needed FROM files f
        WHERE NOT f.linked AND f.uploaded < v_now - make_interval(secs => p_unlinked)
        ORDER BY f.uploaded LIMIT 256 FOR UPDATE OF f SKIP LOCKED
    ), needed AS (
        UPDATE files f SET linked = true FROM old WHERE f.id = old.id AND old.is_needed
    )
    DELETE FROM files f USING old WHERE f.id = old.id AND NOT old.is_needed;

    SELECT array_agg(content) INTO v_contents FROM (
        SELECT content FROM discarded WHERE at < v_now - make_interval(secs => p_kept)
        ORDER BY content LIMIT 256
    ) AS d;
    DELETE FROM pieces WHERE (content, n) IN (
        SELECT content, n FROM (
            SELECT content, n, sum(octet_length(data)) OVER (ORDER BY content, n) AS upto
            FROM (SELECT * FROM pieces WHERE content = ANY (v_contents) LIMIT 512) AS p
        ) AS s WHERE upto <= p_bytes
    );
    WITH gone AS (
        DELETE FROM discarded d WHERE d.content = ANY (v_contents)
            AND NOT EXISTS (SELECT 1 FROM pieces p WHERE p.content = d.content)
        RETURNING d.was_file
    )
    SELECT count(*) FILTER (WHERE was_file) INTO deleted FROM gone;

    IF (SELECT count(*) FROM (SELECT 1 FROM file_changes LIMIT 100) AS c) = 100 THEN
        WITH gone AS (DELETE FROM file_changes c RETURNING c.files, c.bytes)
        INSERT INTO file_changes SELECT sum(gone.files), sum(gone.bytes) FROM gone;
    END IF;
END $$;
