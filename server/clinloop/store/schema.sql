-- m001: tasks, runs, the ledger. Any number of processes share this file; the database itself enforces the budget.

CREATE TABLE task (
  id TEXT PRIMARY KEY,
  dataset TEXT NOT NULL,
  request TEXT NOT NULL,
  spec TEXT NOT NULL,                 -- canonical JSON of the frozen TaskSpec
  template TEXT NOT NULL,
  seed INTEGER NOT NULL,
  settings TEXT NOT NULL,             -- JSON: how its runs are executed
  init_key TEXT NOT NULL UNIQUE,      -- makes init_task idempotent
  status TEXT NOT NULL CHECK (status IN ('preparing', 'open', 'evaluating', 'awaiting_unseal', 'unsealed', 'evaluated', 'invalid')),
  phase TEXT NOT NULL DEFAULT '',     -- what an evaluation is doing
  final_run TEXT,                     -- the run that finalize froze
  result TEXT,                        -- JSON of the final result
  created_at TEXT NOT NULL,
  ended_at TEXT,
  CHECK ((result IS NULL) OR status IN ('evaluated', 'invalid'))
) STRICT;

CREATE TABLE run (
  task_id TEXT NOT NULL REFERENCES task,
  name TEXT NOT NULL,                 -- run0 (baseline), run1, …; smoke1, smoke2, …
  number INTEGER NOT NULL,
  mode TEXT NOT NULL CHECK (mode IN ('full', 'smoke')),
  request_id TEXT NOT NULL,
  revision TEXT NOT NULL,
  tree_sha256 TEXT NOT NULL,
  hypothesis TEXT NOT NULL,
  inputs TEXT NOT NULL,               -- JSON list of run names
  gpus INTEGER NOT NULL DEFAULT 0,    -- GPUs that it asked for
  status TEXT NOT NULL CHECK (status IN ('queued', 'training', 'predicting', 'scoring', 'succeeded', 'failed', 'stopped', 'lost')),
  end_reason TEXT NOT NULL DEFAULT '',
  message TEXT NOT NULL DEFAULT '',   -- one sentence for the agent
  stop_requested INTEGER NOT NULL DEFAULT 0,
  sandbox_ref TEXT,
  facts TEXT NOT NULL DEFAULT '{}',   -- JSON: backend, tiers, environment, seconds
  created_at TEXT NOT NULL,
  started_at TEXT,
  deadline_unix REAL,
  ended_at TEXT,
  score REAL,                         -- primary metric on validation, from predict.py
  scores TEXT,                        -- JSON: all metrics, operating points, tables
  decision TEXT NOT NULL DEFAULT 'none' CHECK (decision IN ('none', 'accepted', 'rejected')),
  reason TEXT NOT NULL DEFAULT '',
  reason_text TEXT NOT NULL DEFAULT '',
  PRIMARY KEY (task_id, name),
  UNIQUE (task_id, mode, number),
  UNIQUE (task_id, request_id),
  CHECK ((ended_at IS NULL) = (status IN ('queued', 'training', 'predicting', 'scoring'))),
  CHECK (decision = 'none' OR (status = 'succeeded' AND mode = 'full'))
) STRICT;

CREATE UNIQUE INDEX one_active_run_per_task ON run (task_id) WHERE ended_at IS NULL;

-- Who wants or has GPUs, in order of arrival; the line moves on strictly in that order, so that nobody is overtaken for ever.
CREATE TABLE gpu_claim (
  place INTEGER PRIMARY KEY AUTOINCREMENT,
  task_id TEXT NOT NULL REFERENCES task,
  holder TEXT NOT NULL,               -- a run's name, or "finalize" for the evaluation
  wanted INTEGER NOT NULL CHECK (wanted > 0),
  note TEXT NOT NULL DEFAULT '',      -- why the first in line still waits
  UNIQUE (task_id, holder)
) STRICT;

CREATE TABLE gpu_lease (
  uuid TEXT NOT NULL,
  task_id TEXT NOT NULL,
  holder TEXT NOT NULL,
  leased_at TEXT NOT NULL,
  released_at TEXT
) STRICT;

CREATE UNIQUE INDEX one_lease_per_gpu ON gpu_lease (uuid) WHERE released_at IS NULL;

-- Whoever ends a run or an evaluation, and however: its GPUs are free in the same transaction, because the claim goes and its leases with it.
CREATE TRIGGER gpus_end_with_the_run AFTER UPDATE OF ended_at ON run WHEN NEW.ended_at IS NOT NULL
BEGIN DELETE FROM gpu_claim WHERE task_id = NEW.task_id AND holder = NEW.name; END;

CREATE TRIGGER gpus_end_with_the_evaluation AFTER UPDATE OF status ON task WHEN NEW.status NOT IN ('evaluating', 'unsealed')
BEGIN DELETE FROM gpu_claim WHERE task_id = NEW.id AND holder = 'finalize'; END;

CREATE TRIGGER leases_end_with_the_claim AFTER DELETE ON gpu_claim
BEGIN
  UPDATE gpu_lease SET released_at = strftime('%Y-%m-%dT%H:%M:%fZ') WHERE task_id = OLD.task_id AND holder = OLD.holder AND released_at IS NULL;
END;

-- One hash chain per scope ("dataset:NAME" or "task:ID"); the balance of a resource is SUM(amount).
-- Without rowid: INSERT OR REPLACE on the rowid of an old entry would drop it, and no DELETE trigger fires for that.
CREATE TABLE ledger (
  scope TEXT NOT NULL,
  seq INTEGER NOT NULL,
  at TEXT NOT NULL,
  event TEXT NOT NULL,
  resource TEXT CHECK (resource IN ('run', 'smoke', 'error_view', 'refund')),
  amount INTEGER NOT NULL DEFAULT 0,
  run TEXT,
  detail TEXT NOT NULL,               -- canonical JSON object
  prev TEXT NOT NULL,
  hash TEXT NOT NULL,
  signature TEXT NOT NULL,            -- Ed25519 over the hash, by the key in STATE/ledger_key
  PRIMARY KEY (scope, seq),
  CHECK ((resource IS NULL) = (amount = 0))
) STRICT, WITHOUT ROWID;

CREATE TRIGGER ledger_is_a_chain BEFORE INSERT ON ledger
WHEN NEW.seq <> (SELECT COALESCE(MAX(seq) + 1, 0) FROM ledger WHERE scope = NEW.scope)
  OR (NEW.seq > 0 AND NEW.prev <> (SELECT hash FROM ledger WHERE scope = NEW.scope AND seq = NEW.seq - 1))
BEGIN SELECT RAISE(ABORT, 'ledger chain broken'); END;

CREATE TRIGGER ledger_no_overdraft AFTER INSERT ON ledger
WHEN NEW.resource IS NOT NULL
  AND (SELECT SUM(amount) FROM ledger WHERE scope = NEW.scope AND resource = NEW.resource) < 0
BEGIN SELECT RAISE(ABORT, 'budget exceeded'); END;

CREATE TRIGGER ledger_unsealed_once BEFORE INSERT ON ledger
WHEN NEW.event = 'unsealing' AND EXISTS (SELECT 1 FROM ledger WHERE scope = NEW.scope AND event = 'unsealing')
BEGIN SELECT RAISE(ABORT, 'test set already unsealed'); END;

CREATE TRIGGER ledger_no_update BEFORE UPDATE ON ledger BEGIN SELECT RAISE(ABORT, 'ledger is append-only'); END;
CREATE TRIGGER ledger_no_delete BEFORE DELETE ON ledger BEGIN SELECT RAISE(ABORT, 'ledger is append-only'); END;
