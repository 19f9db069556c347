-- m002: people. Tokens, owners of tasks, questions that a task waits for, notes to its agent; and one line for GPUs and for CPU slots.

CREATE TABLE token (
  id TEXT PRIMARY KEY,
  name TEXT NOT NULL,                 -- of the person or agent; several tokens of one name are one principal
  role TEXT NOT NULL CHECK (role IN ('agent', 'clinician', 'custodian')),
  sha256 TEXT NOT NULL UNIQUE,        -- of the secret, which is shown once and has 256 random bits
  created_at TEXT NOT NULL,
  expires_at TEXT NOT NULL,
  revoked_at TEXT,
  last_used_at TEXT
) STRICT;

-- Sessions of the page that somebody signed out of; the others are in nobody's hands but the browser's.
CREATE TABLE ended_session (
  seal TEXT PRIMARY KEY,
  until INTEGER NOT NULL              -- seconds since 1970 after which the session has ended by itself
) STRICT;

-- The states of a task are checked by its table, so the table is made anew; the triggers on it go with it and come back below.
CREATE TABLE task_new (
  id TEXT PRIMARY KEY,
  dataset TEXT NOT NULL,
  request TEXT NOT NULL,
  spec TEXT NOT NULL,                 -- canonical JSON of the frozen TaskSpec
  template TEXT NOT NULL,
  seed INTEGER NOT NULL,
  settings TEXT NOT NULL,             -- JSON: how its runs are executed
  init_key TEXT NOT NULL UNIQUE,      -- makes init_task idempotent
  status TEXT NOT NULL CHECK (status IN ('awaiting_confirmation', 'preparing', 'open', 'paused', 'awaiting_choice', 'evaluating',
                                         'awaiting_unseal', 'unsealed', 'evaluated', 'invalid', 'declined')),
  phase TEXT NOT NULL DEFAULT '',     -- what an evaluation is doing
  final_run TEXT,                     -- the run that finalize froze
  result TEXT,                        -- JSON of the final result
  created_at TEXT NOT NULL,
  ended_at TEXT,
  owner TEXT NOT NULL DEFAULT '',     -- principal that began it; empty = a client with no token
  chosen_run TEXT,                    -- the run that the clinician made the incumbent, and when; a run accepted later follows it
  chosen_at TEXT,
  CHECK ((result IS NULL) OR status IN ('evaluated', 'invalid'))
) STRICT;
INSERT INTO task_new (id, dataset, request, spec, template, seed, settings, init_key, status, phase, final_run, result, created_at, ended_at)
  SELECT id, dataset, request, spec, template, seed, settings, init_key, status, phase, final_run, result, created_at, ended_at FROM task ORDER BY rowid;
DROP TABLE task;
ALTER TABLE task_new RENAME TO task;

CREATE TRIGGER gpus_end_with_the_evaluation AFTER UPDATE OF status ON task WHEN NEW.status NOT IN ('evaluating', 'unsealed')
BEGIN DELETE FROM gpu_claim WHERE task_id = NEW.id AND holder = 'finalize'; END;

-- What a task waits for a person to say.
CREATE TABLE question (
  task_id TEXT NOT NULL REFERENCES task,
  number INTEGER NOT NULL,
  kind TEXT NOT NULL CHECK (kind IN ('spec', 'finalize', 'tradeoff')),
  asked TEXT NOT NULL,                -- JSON object: what the person has to know
  asked_at TEXT NOT NULL,
  answer TEXT,                        -- JSON object
  answered_by TEXT,
  answered_at TEXT,
  PRIMARY KEY (task_id, number),
  CHECK ((answer IS NULL) = (answered_at IS NULL))
) STRICT;

CREATE UNIQUE INDEX one_open_question_per_task ON question (task_id) WHERE answered_at IS NULL;

-- What a person tells the agent of a task; delivered with its next reply.
CREATE TABLE note (
  task_id TEXT NOT NULL REFERENCES task,
  number INTEGER NOT NULL,
  author TEXT NOT NULL,
  text TEXT NOT NULL,
  written_at TEXT NOT NULL,
  delivered_at TEXT,
  PRIMARY KEY (task_id, number)
) STRICT;
