-- What the registry knows. The bytes of blobs are files beside the database; everything else is here, and changes in
-- one transaction. Read it top down: repositories, their content, what holds what, uploads under way, what can be
-- undone, what maintenance remembers, and who may do what.
--
-- Conventions. Surrogate keys are integers and never leave the program. A digest is its algorithm (one byte: 1 sha256,
-- 2 sha512) and its hash. Times are microseconds since 1970 UTC. Text compares byte by byte, which is the order of the
-- lists the specification asks for. PRAGMA user_version holds the version of the schema (db/migrate.go).

-- A repository is a name that has or had content. It is made by the first blob or manifest, not by opening an upload:
-- a push that is never finished leaves no name behind. The catalog lists those that have a manifest.
CREATE TABLE repositories (
    id         INTEGER PRIMARY KEY,
    name       TEXT    NOT NULL UNIQUE,
    created_at INTEGER  NOT NULL,
    public     INTEGER NOT NULL DEFAULT 0  -- 1: whoever may read anything may read it
) STRICT;

CREATE INDEX repositories_public ON repositories (name) WHERE public = 1;

-- A blob that is stored: its row is written after its file is durable, and removed before its file is.
CREATE TABLE blobs (
    id         INTEGER PRIMARY KEY,
    digest     BLOB    NOT NULL UNIQUE,
    size       INTEGER  NOT NULL,
    -- The id of the upload that brought these bytes, and the last part of the file's name. Pushing the same digest
    -- again brings a new file, so a copy that the disk damaged is replaced and no file name is ever used twice.
    generation TEXT    NOT NULL,
    created_at INTEGER  NOT NULL,
    -- What the file looked like when all its bytes were last known to be right (blobs.Info.Stamp); 0 if that is not
    -- known. A file that looks different is read before a client may rely on it.
    stamp       INTEGER NOT NULL DEFAULT 0,
    verified_at INTEGER NOT NULL DEFAULT 0,  -- when that was
    -- When the bytes were found to be gone or not to have the digest, 0 if they were not. For clients there is no such
    -- blob then, so that they push it again, which heals it; what needs it keeps holding it.
    damaged_at  INTEGER NOT NULL DEFAULT 0,
    -- A hash of the session that brought the bytes, its repository and its owner, empty if it was none: a client that has
    -- lost the answer to the request that ended the session sends that again.
    session     BLOB    NOT NULL DEFAULT x''
) STRICT;

CREATE INDEX blobs_damaged ON blobs (damaged_at) WHERE damaged_at <> 0;

-- Bytes are stored once but read only through a repository that has them: this table is that right.
CREATE TABLE repository_blobs (
    repository_id INTEGER NOT NULL REFERENCES repositories (id),
    blob_id       INTEGER NOT NULL REFERENCES blobs (id),
    -- When the registry last told a client that the blob is here (201, a mount, a HEAD), or when the last manifest
    -- that needed it went. Collection leaves a blob alone for the grace from then on, even if nothing refers to it.
    leased_at     INTEGER NOT NULL,
    PRIMARY KEY (repository_id, blob_id)
) STRICT, WITHOUT ROWID;

CREATE INDEX repository_blobs_by_blob ON repository_blobs (blob_id);

-- A manifest, byte for byte as it was pushed, with the media type it was pushed with.
CREATE TABLE manifests (
    id            INTEGER PRIMARY KEY,
    repository_id INTEGER  NOT NULL REFERENCES repositories (id),
    digest        BLOB    NOT NULL,
    media_type    TEXT    NOT NULL,
    size          INTEGER  NOT NULL,
    pushed_at     INTEGER  NOT NULL,
    -- When a push, or a tag that has since moved or gone, last held it: where the clock of collection starts.
    leased_at     INTEGER  NOT NULL,
    -- Last, so that reading the columns above never touches the pages a long manifest spills to.
    content       BLOB    NOT NULL,
    UNIQUE (repository_id, digest)
) STRICT;

CREATE TABLE tags (
    repository_id INTEGER NOT NULL REFERENCES repositories (id),
    name          TEXT   NOT NULL,
    manifest_id   INTEGER NOT NULL REFERENCES manifests (id),
    updated_at    INTEGER NOT NULL,
    checked_at    INTEGER NOT NULL DEFAULT 0,  -- when its upstream was last seen to agree; 0: never, or it has none
    PRIMARY KEY (repository_id, name)
) STRICT, WITHOUT ROWID;

CREATE INDEX tags_by_manifest ON tags (manifest_id);

-- A manifest that an upstream registry has, too: it may be evicted, and comes back when it is pulled again. Until then
-- what it names and its repository does not have is fetched when somebody asks for it.
CREATE TABLE cached_manifests (
    manifest_id INTEGER PRIMARY KEY REFERENCES manifests (id),
    pulled_at   INTEGER NOT NULL  -- last, give or take an hour
) STRICT;

CREATE INDEX cached_manifests_by_time ON cached_manifests (pulled_at);

-- A manifest that says another size of something than that has, taken from a registry that had taken it. Pushed again by a
-- client who may read it, it is taken again.
CREATE TABLE odd_manifests (
    manifest_id INTEGER PRIMARY KEY REFERENCES manifests (id),
    digest      BLOB    NOT NULL
) STRICT;

CREATE INDEX odd_manifests_by_digest ON odd_manifests (digest);

-- What a manifest needs in its own repository: blobs (config, layers; also the blobs that a build cache lists in an
-- index) and other manifests (the children of an index).
CREATE TABLE manifest_blobs (
    manifest_id   INTEGER NOT NULL REFERENCES manifests (id),
    blob_id       INTEGER NOT NULL REFERENCES blobs (id),
    -- Of the manifest: "does this repository still need the blob" is asked of every blob, and some are in every image.
    -- It refers to nothing itself: every removal of a repository would look for it in the whole table.
    repository_id INTEGER NOT NULL,
    PRIMARY KEY (manifest_id, blob_id)
) STRICT, WITHOUT ROWID;

CREATE INDEX manifest_blobs_by_blob ON manifest_blobs (blob_id, repository_id);

CREATE TABLE manifest_children (
    manifest_id INTEGER NOT NULL REFERENCES manifests (id),
    child_id    INTEGER NOT NULL REFERENCES manifests (id),
    PRIMARY KEY (manifest_id, child_id)
) STRICT, WITHOUT ROWID;

CREATE INDEX manifest_children_by_child ON manifest_children (child_id);

-- What a manifest names but its repository does not have: accepted as sparse, or deleted since. The row becomes one
-- of the two above as soon as the blob or the manifest arrives, so that collection sees it held from that moment.
CREATE TABLE missing_references (
    repository_id INTEGER NOT NULL REFERENCES repositories (id),
    digest        BLOB   NOT NULL,
    manifest_id   INTEGER NOT NULL REFERENCES manifests (id),
    PRIMARY KEY (repository_id, digest, manifest_id)
) STRICT, WITHOUT ROWID;

CREATE INDEX missing_references_by_manifest ON missing_references (manifest_id);

-- A manifest that has a subject is listed under it. The subject is a digest, not a row: it may be pushed later, or
-- never. The descriptor is the JSON that the referrers API answers with, made once, when the manifest is pushed.
CREATE TABLE referrers (
    manifest_id   INTEGER PRIMARY KEY REFERENCES manifests (id),
    repository_id INTEGER NOT NULL REFERENCES repositories (id),
    subject       BLOB    NOT NULL,
    digest        BLOB    NOT NULL,  -- of the manifest: the order of the list
    artifact_type TEXT    NOT NULL,
    descriptor    TEXT    NOT NULL,
    UNIQUE (repository_id, subject, digest)
) STRICT;

CREATE INDEX referrers_by_type ON referrers (repository_id, subject, artifact_type, digest);

-- An upload session. The hash state continues where the last chunk ended, so a push goes on after the server was
-- restarted without reading its bytes again. It vouches only for bytes written since the machine booted: after a power
-- cut the file may have lost what the state has seen, and a session of another boot is not continued.
CREATE TABLE uploads (
    id         TEXT   PRIMARY KEY,
    repository TEXT   NOT NULL,
    algorithm  TEXT   NOT NULL,
    size       INTEGER NOT NULL,  -- bytes received; what the file has beyond them is cut off
    hash_state BLOB   NOT NULL,  -- encoding.BinaryMarshaler of the hash after these bytes
    boot_id    TEXT   NOT NULL,
    updated_at INTEGER NOT NULL,
    -- What the repository was promised since then belongs to a push that may still be going on.
    created_at INTEGER NOT NULL DEFAULT 0,
    owner      TEXT    NOT NULL DEFAULT ''  -- the user who began it, and alone may go on; empty without users; fetch:DIGEST for a blob of another registry
) STRICT, WITHOUT ROWID;

CREATE INDEX uploads_by_repository ON uploads (repository);
CREATE INDEX uploads_by_time ON uploads (updated_at);
CREATE INDEX uploads_by_owner ON uploads (owner);

-- What happened to tags and manifests, in order. It is the memory of undo, and it is copied to a file beside the blobs,
-- from which repositories, manifests and tags can be rebuilt without this database. Collection prunes what is copied and
-- older than the undo window, but never the last row, so that no id is used twice.
CREATE TABLE changes (
    id         INTEGER PRIMARY KEY,
    at         INTEGER NOT NULL,
    repository TEXT    NOT NULL,  -- its name: it may be gone by now
    tag        TEXT    NOT NULL,  -- empty if the change is that of a manifest
    before     BLOB,              -- digest, NULL if there was nothing
    after      BLOB               -- digest, NULL if it went
) STRICT;

CREATE INDEX changes_by_tag ON changes (repository, tag, id);
CREATE INDEX changes_by_time ON changes (repository, at);

-- A manifest that was deleted and can be undeleted until the undo window ends. Its blobs stay that long.
CREATE TABLE deleted_manifests (
    id         INTEGER PRIMARY KEY,
    repository TEXT    NOT NULL,
    digest     BLOB    NOT NULL,
    media_type TEXT    NOT NULL,
    deleted_at INTEGER NOT NULL,
    subject    BLOB,              -- NULL if it has none: it comes back with its subject
    content    BLOB    NOT NULL,
    UNIQUE (repository, digest)
) STRICT;

CREATE INDEX deleted_manifests_by_subject ON deleted_manifests (repository, subject) WHERE subject IS NOT NULL;
CREATE INDEX deleted_manifests_by_time ON deleted_manifests (deleted_at);

CREATE TABLE deleted_manifest_blobs (
    deleted_id INTEGER NOT NULL REFERENCES deleted_manifests (id),
    blob_id    INTEGER NOT NULL REFERENCES blobs (id),
    PRIMARY KEY (deleted_id, blob_id)
) STRICT, WITHOUT ROWID;

CREATE INDEX deleted_manifest_blobs_by_blob ON deleted_manifest_blobs (blob_id);

-- Work that one process does at a time. The holder proves that it lives by moving beat_at, and proves in every
-- transaction of the work that it is still the holder: one that was too slow has lost the work, whatever it believes.
CREATE TABLE locks (
    name    TEXT    PRIMARY KEY,
    holder  TEXT    NOT NULL,
    purpose TEXT    NOT NULL,  -- for people
    beat_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- What maintenance remembers from one time to the next: where it stopped, and what it found.
CREATE TABLE notes (
    name  TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- What takes how many bytes, kept while things change (db/usage.go) so that nobody has to add up millions of rows. A blob
-- counts in the row of the repository that has it if that is the only one, in row 0 if several have it, and in row -1 if
-- none has.
CREATE TABLE usage (
    repository_id INTEGER PRIMARY KEY,
    manifests     INTEGER NOT NULL DEFAULT 0,
    blobs         INTEGER NOT NULL DEFAULT 0,  -- all that the repository has
    alone         INTEGER NOT NULL DEFAULT 0,  -- those that count in this row
    unheld        INTEGER NOT NULL DEFAULT 0,  -- of alone, those that no manifest needs
    kept          INTEGER NOT NULL DEFAULT 0   -- of unheld, those that a deleted manifest needs
) STRICT;

INSERT INTO usage (repository_id) VALUES (0), (-1);

-- Users. Each owns the namespace named after them.
CREATE TABLE users (
    id            INTEGER PRIMARY KEY,
    name          TEXT    NOT NULL UNIQUE,
    password      TEXT    NOT NULL,            -- its hash, as text with its parameters: argon2id, or bcrypt until the next login
    admin         INTEGER NOT NULL DEFAULT 0,  -- 1: may do everything
    disabled      INTEGER NOT NULL DEFAULT 0,
    -- A random number that changes with the password and when they are disabled. Tokens carry it, and end when it changes.
    generation    INTEGER NOT NULL,
    created_at    INTEGER NOT NULL,
    last_login_at INTEGER NOT NULL DEFAULT 0
) STRICT;

CREATE TABLE group_members (
    group_name TEXT    NOT NULL,
    user_id    INTEGER NOT NULL REFERENCES users (id),
    PRIMARY KEY (group_name, user_id)
) STRICT, WITHOUT ROWID;

CREATE INDEX group_members_by_user ON group_members (user_id);

-- What somebody may do in the repositories that a glob matches. He is a user ("alice") or a group ("@team").
CREATE TABLE grants (
    grantee    TEXT    NOT NULL,
    repository TEXT    NOT NULL,  -- a glob
    actions    INTEGER NOT NULL,  -- the bits of auth.Actions
    created_at INTEGER NOT NULL,
    PRIMARY KEY (grantee, repository)
) STRICT, WITHOUT ROWID;

CREATE INDEX grants_by_repository ON grants (repository);

-- A password for a program, with which it may do less than its user. Only a hash of it is kept.
CREATE TABLE api_tokens (
    id           INTEGER PRIMARY KEY,
    user_id      INTEGER NOT NULL REFERENCES users (id),
    name         TEXT    NOT NULL,
    hash         BLOB    NOT NULL UNIQUE,     -- SHA-256: the token is random, so nothing slower is needed
    scopes       TEXT    NOT NULL,            -- such as "pull:** push:team/**"
    created_at   INTEGER NOT NULL,
    expires_at   INTEGER NOT NULL DEFAULT 0,  -- 0: never
    last_used_at INTEGER NOT NULL DEFAULT 0,
    UNIQUE (user_id, name)
) STRICT;

-- A family of refresh tokens: each gets bearer tokens, and the next of its family, without the password. It ends 90 days
-- after its last use, and with what its user logged in with.
CREATE TABLE refresh_tokens (
    id         TEXT    PRIMARY KEY,  -- random: its tokens carry it
    user_id    INTEGER NOT NULL REFERENCES users (id),
    api_token  TEXT    NOT NULL,     -- the mark of the API token that stood for the password, empty for the password
    client     TEXT    NOT NULL,     -- what the client calls itself, for people
    address    TEXT    NOT NULL,     -- from which the user logged in
    created_at INTEGER NOT NULL,
    used_at    INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX refresh_tokens_by_user ON refresh_tokens (user_id, used_at);

-- The networks from which a user has logged in with the right password: who guesses it elsewhere cannot keep them out there.
CREATE TABLE login_networks (
    user_id INTEGER NOT NULL REFERENCES users (id),
    network TEXT    NOT NULL,
    used_at INTEGER NOT NULL,
    PRIMARY KEY (user_id, network)
) STRICT, WITHOUT ROWID;

-- The keys that bearer tokens are signed with: the newest signs, the others are good until the tokens they signed have
-- ended.
CREATE TABLE signing_keys (
    id         TEXT    PRIMARY KEY,
    secret     BLOB    NOT NULL,
    created_at INTEGER NOT NULL,
    retired_at INTEGER NOT NULL DEFAULT 0  -- 0: in use
) STRICT, WITHOUT ROWID;

-- Tags that never point at anything else: those that match tag in repositories that match repository.
CREATE TABLE immutable_tags (
    repository TEXT    NOT NULL,
    tag        TEXT    NOT NULL,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (repository, tag)
) STRICT, WITHOUT ROWID;

-- Who did what, and from where. Rows go by age, but never the last, so that no id is used twice.
CREATE TABLE audit (
    id         INTEGER PRIMARY KEY,
    at         INTEGER NOT NULL,
    actor      TEXT    NOT NULL,  -- a user; empty: nobody who logged in
    address    TEXT    NOT NULL,  -- empty: on this machine, by command
    action     TEXT    NOT NULL,
    repository TEXT    NOT NULL,
    detail     TEXT    NOT NULL
) STRICT;

CREATE INDEX audit_by_time ON audit (at);
