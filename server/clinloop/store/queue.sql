-- m003: one line for whatever a run needs: GPUs, a slot for a run on the CPU, a slot for a smoke test on the CPU.

DROP TRIGGER gpus_end_with_the_run;
DROP TRIGGER gpus_end_with_the_evaluation;

-- Who wants or has units. Whose turn it is says turns.py.
CREATE TABLE claim (
  place INTEGER PRIMARY KEY AUTOINCREMENT,
  task_id TEXT NOT NULL REFERENCES task,
  holder TEXT NOT NULL,               -- a run's name, or "finalize" for the evaluation
  lane TEXT NOT NULL CHECK (lane IN ('gpu', 'cpu', 'smoke')),
  wanted INTEGER NOT NULL CHECK (wanted > 0),
  arrived INTEGER NOT NULL,           -- leases that had ended when it came
  since TEXT NOT NULL,
  note TEXT NOT NULL DEFAULT '',      -- why the first in line still waits
  UNIQUE (task_id, holder)
) STRICT;
INSERT INTO claim (place, task_id, holder, lane, wanted, arrived, since, note)
  SELECT place, task_id, holder, 'gpu', wanted, 0, strftime('%Y-%m-%dT%H:%M:%fZ'), note FROM gpu_claim;
DROP TABLE gpu_claim;

CREATE TABLE lease (
  unit TEXT NOT NULL,                 -- UUID of a GPU, "cpu:0", "smoke:0", …
  lane TEXT NOT NULL,
  task_id TEXT NOT NULL,
  holder TEXT NOT NULL,
  leased_at TEXT NOT NULL,
  released_at TEXT
) STRICT;
INSERT INTO lease (unit, lane, task_id, holder, leased_at, released_at)
  SELECT uuid, 'gpu', task_id, holder, leased_at, released_at FROM gpu_lease ORDER BY rowid;
DROP TABLE gpu_lease;

CREATE UNIQUE INDEX one_lease_per_unit ON lease (unit) WHERE released_at IS NULL;
CREATE INDEX leases_that_last ON lease (task_id, holder) WHERE released_at IS NULL;

-- When an owner of tasks last gave units back, as a count of the leases that had ended: a clock that nobody can set back.
CREATE TABLE turn (
  lane TEXT NOT NULL,
  owner TEXT NOT NULL,
  ended INTEGER NOT NULL,
  PRIMARY KEY (lane, owner)
) STRICT;

-- Whoever ends a run or an evaluation, and however: its units are free in the same transaction, because the claim goes and its leases with it.
CREATE TRIGGER claims_end_with_the_run AFTER UPDATE OF ended_at ON run WHEN NEW.ended_at IS NOT NULL
BEGIN DELETE FROM claim WHERE task_id = NEW.task_id AND holder = NEW.name; END;

CREATE TRIGGER claims_end_with_the_evaluation AFTER UPDATE OF status ON task WHEN NEW.status NOT IN ('evaluating', 'unsealed')
BEGIN DELETE FROM claim WHERE task_id = NEW.id AND holder = 'finalize'; END;

CREATE TRIGGER leases_end_with_the_claim AFTER DELETE ON claim
BEGIN
  UPDATE lease SET released_at = strftime('%Y-%m-%dT%H:%M:%fZ') WHERE task_id = OLD.task_id AND holder = OLD.holder AND released_at IS NULL;
END;

CREATE TRIGGER turns_follow_the_leases AFTER UPDATE OF released_at ON lease WHEN OLD.released_at IS NULL AND NEW.released_at IS NOT NULL
BEGIN
  INSERT INTO turn (lane, owner, ended)
    VALUES (NEW.lane, COALESCE((SELECT owner FROM task WHERE id = NEW.task_id), ''), (SELECT COALESCE(MAX(ended), 0) + 1 FROM turn))
    ON CONFLICT (lane, owner) DO UPDATE SET ended = excluded.ended;
END;
