-- CreateTable
CREATE TABLE "audit_entry" (
    "seq" BIGINT NOT NULL,
    "at" TIMESTAMPTZ(3) NOT NULL,
    "owner_id" UUID,
    "actor" TEXT NOT NULL,
    "credential" TEXT NOT NULL,
    "action" TEXT NOT NULL,
    "target" TEXT NOT NULL,
    "origin" TEXT NOT NULL,
    "status" INTEGER NOT NULL,
    "code" TEXT NOT NULL,
    "detail" TEXT NOT NULL,
    "previous" BYTEA NOT NULL,
    "hash" BYTEA NOT NULL,

    CONSTRAINT "audit_entry_pkey" PRIMARY KEY ("seq")
);

-- CreateIndex
CREATE INDEX "audit_entry_owner_id_seq_idx" ON "audit_entry"("owner_id", "seq");

-- What was done stays as it was written. The chain shows a change that somebody forces all the same.
CREATE FUNCTION "farloom_audit_is_final"() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION 'the audit log is append-only'
    USING ERRCODE = 'integrity_constraint_violation';
END
$$;

CREATE TRIGGER "audit_is_final" BEFORE UPDATE OR DELETE OR TRUNCATE ON "audit_entry"
  FOR EACH STATEMENT EXECUTE FUNCTION "farloom_audit_is_final"();

-- Keys that could do everything before may read what was done with them too.
UPDATE "api_key" SET "scopes" = array_append("scopes", 'audit:read')
  WHERE "scopes" @> ARRAY['keys:write', 'endpoints:write', 'functions:write', 'metrics:read'] AND NOT 'audit:read' = ANY("scopes");
