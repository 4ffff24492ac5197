-- What Prisma cannot express for the two hot tables.

-- Arguments and results are opaque bytes: PostgreSQL's own compression would cost CPU for every row above 2 KB.
ALTER TABLE "task" ALTER COLUMN "args" SET STORAGE EXTERNAL;
ALTER TABLE "outcome" ALTER COLUMN "result" SET STORAGE EXTERNAL;

-- A terminal state never changes. The rule is kept here as well as in the code, so that no statement, ours or a
-- person's, can break it by mistake. Retention deletes; nothing updates.
CREATE FUNCTION "farloom_outcome_is_final"() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION 'the outcome of task % is final and cannot be changed', OLD.task_id
    USING ERRCODE = 'integrity_constraint_violation';
END
$$;

CREATE TRIGGER "outcome_is_final" BEFORE UPDATE ON "outcome"
  FOR EACH ROW EXECUTE FUNCTION "farloom_outcome_is_final"();

-- What a task is never changes either; only its attempt, its flags and its times do. A list of columns costs
-- the allowed updates nothing: the trigger fires for a statement that names one of them, whatever the value.
CREATE FUNCTION "farloom_task_is_fixed"() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION 'task %: its owner, endpoint, function, group and arguments cannot be changed', OLD.id
    USING ERRCODE = 'integrity_constraint_violation';
END
$$;

CREATE TRIGGER "task_is_fixed"
  BEFORE UPDATE OF "id", "owner_id", "endpoint_id", "function_key", "group_id", "args", "codec" ON "task"
  FOR EACH ROW EXECUTE FUNCTION "farloom_task_is_fixed"();

-- References to payload files: bit 7 of the codec says that the bytes are a digest. The sweep of unused files
-- asks these. Rows that carry their bytes are not in them.
CREATE INDEX "task_payload_idx" ON "task" ("args") WHERE "codec" >= 128;
CREATE INDEX "outcome_payload_idx" ON "outcome" ("result") WHERE "codec" >= 128;

-- Ranges of the time index that were filled since the last vacuum would be read whole; this summarizes them early.
ALTER INDEX "outcome_finished_at_idx" SET (autosummarize = on);

-- The few tasks that wait for a time, and the few that somebody has asked to cancel.
CREATE INDEX "task_not_before_idx" ON "task" ("not_before") WHERE "not_before" IS NOT NULL;
CREATE INDEX "task_cancel_idx" ON "task" ("endpoint_id") WHERE "cancel_requested_at" IS NOT NULL;

-- Both tables only grow until retention deletes in bulk. A vacuum after every fifth of the table (the default)
-- leaves millions of dead rows in a large one, and one after every thousand inserts keeps a small one busy.
ALTER TABLE "task" SET (
  autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 5000,
  autovacuum_vacuum_insert_scale_factor = 0.1, autovacuum_vacuum_insert_threshold = 100000
);
ALTER TABLE "outcome" SET (
  autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 5000,
  autovacuum_vacuum_insert_scale_factor = 0.1, autovacuum_vacuum_insert_threshold = 100000
);
