-- What Prisma cannot express: PostgreSQL itself keeps people's rows apart.
--
-- A connection says for whom it asks (farloom.owner), and sees that person's rows. Whoever owns the tables is not bound by
-- this: migrations, backups and the road, whose statements are about many owners at once, pay nothing. Everybody else is,
-- without being named here, and sees nothing where nobody is set. FORCE would bind the owner too, and break backups.

CREATE FUNCTION "farloom_tenant"() RETURNS uuid LANGUAGE sql STABLE PARALLEL SAFE
  AS $$ SELECT nullif(current_setting('farloom.owner', true), '')::uuid $$;

-- Views of the tables' owner: of rows that are somebody else's they show what belongs to a row of one's own.

-- What a task calls and where, by name, whether or not either is shared with the task's submitter any more.
CREATE VIEW "task_names" AS
  SELECT t."id" AS "task_id", w."name" AS "function_owner", f."name" AS "function_name", f."version" AS "function_version",
    f."digest" AS "function_digest", f."runtime" AS "function_runtime", f."definition" -> 'resources' AS "function_resources",
    e."name" AS "endpoint_name", e."owner_id" AS "endpoint_owner_id", e."connected_at" AS "endpoint_connected_at",
    e."disconnected_at" AS "endpoint_disconnected_at", e."deleted_at" AS "endpoint_deleted_at",
    e."report" AS "endpoint_report", e."reported_at" AS "endpoint_reported_at"
  FROM "task" t
  LEFT JOIN "function" f ON f."key" = t."function_key"
  LEFT JOIN "owner" w ON w."id" = f."owner_id"
  LEFT JOIN "endpoint" e ON e."id" = t."endpoint_id"
  WHERE t."owner_id" = (SELECT "farloom_tenant"());

CREATE VIEW "tenant" AS
  SELECT "id", "is_admin" FROM "owner" WHERE "id" = "farloom_tenant"();

-- Rows that say whose they are.
ALTER TABLE "task" ENABLE ROW LEVEL SECURITY;
CREATE POLICY "task_of_tenant" ON "task" USING ("owner_id" = (SELECT "farloom_tenant"()));
ALTER TABLE "task_group" ENABLE ROW LEVEL SECURITY;
CREATE POLICY "task_group_of_tenant" ON "task_group" USING ("owner_id" = (SELECT "farloom_tenant"()));
ALTER TABLE "late_result" ENABLE ROW LEVEL SECURITY;
CREATE POLICY "late_result_of_tenant" ON "late_result" USING ("owner_id" = (SELECT "farloom_tenant"()));
ALTER TABLE "tombstone" ENABLE ROW LEVEL SECURITY;
CREATE POLICY "tombstone_of_tenant" ON "tombstone" USING ("owner_id" = (SELECT "farloom_tenant"()));
ALTER TABLE "object" ENABLE ROW LEVEL SECURITY;
CREATE POLICY "object_of_tenant" ON "object" USING ("owner_id" = (SELECT "farloom_tenant"()));
ALTER TABLE "payload" ENABLE ROW LEVEL SECURITY;
CREATE POLICY "payload_of_tenant" ON "payload" USING ("owner_id" = (SELECT "farloom_tenant"()));
ALTER TABLE "idempotency" ENABLE ROW LEVEL SECURITY;
CREATE POLICY "idempotency_of_tenant" ON "idempotency" USING ("owner_id" = (SELECT "farloom_tenant"()));

-- Rows of a task. The task is looked up for each, by its key: the planner makes no hash of all that the tenant has.
ALTER TABLE "outcome" ENABLE ROW LEVEL SECURITY;
CREATE POLICY "outcome_of_tenant" ON "outcome"
  USING ((SELECT t."owner_id" FROM "task" t WHERE t."id" = "outcome"."task_id") = (SELECT "farloom_tenant"()));
ALTER TABLE "task_output" ENABLE ROW LEVEL SECURITY;
CREATE POLICY "task_output_of_tenant" ON "task_output"
  USING ((SELECT t."owner_id" FROM "task" t WHERE t."id" = "task_output"."task_id") = (SELECT "farloom_tenant"()));

-- Administrators read what everybody did.
ALTER TABLE "audit_entry" ENABLE ROW LEVEL SECURITY;
CREATE POLICY "audit_entry_of_tenant" ON "audit_entry"
  USING ("owner_id" = (SELECT "farloom_tenant"()) OR (SELECT "is_admin" FROM "tenant"));
