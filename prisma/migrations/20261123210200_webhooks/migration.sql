-- CreateTable
CREATE TABLE "webhook" (
    "id" UUID NOT NULL,
    "owner_id" UUID NOT NULL,
    "name" TEXT NOT NULL DEFAULT '',
    "url" TEXT NOT NULL,
    "events" TEXT[],
    "only_failed" BOOLEAN NOT NULL DEFAULT false,
    "endpoint_id" UUID,
    "is_enabled" BOOLEAN NOT NULL DEFAULT true,
    "disabled_reason" TEXT NOT NULL DEFAULT '',
    "secret_nonce" BYTEA NOT NULL,
    "previous_nonce" BYTEA,
    "previous_until" TIMESTAMPTZ(3),
    "created_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "active_since" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "failing_since" TIMESTAMPTZ(3),
    "dropped" INTEGER NOT NULL DEFAULT 0,

    CONSTRAINT "webhook_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "webhook_delivery" (
    "id" UUID NOT NULL,
    "webhook_id" UUID NOT NULL,
    "owner_id" UUID NOT NULL,
    "event" TEXT NOT NULL,
    "subject_id" UUID NOT NULL,
    "body" TEXT NOT NULL,
    "state" SMALLINT NOT NULL DEFAULT 0,
    "attempts" INTEGER NOT NULL DEFAULT 0,
    "next_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "created_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "ended_at" TIMESTAMPTZ(3),
    "last_status" INTEGER,
    "last_ms" INTEGER,
    "last_error" TEXT NOT NULL DEFAULT '',

    CONSTRAINT "webhook_delivery_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "webhook_cursor" (
    "replica_id" UUID NOT NULL,
    "settled_at" TIMESTAMPTZ(3) NOT NULL,
    "seen_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT "webhook_cursor_pkey" PRIMARY KEY ("replica_id")
);

-- CreateIndex
CREATE INDEX "webhook_owner_id_idx" ON "webhook"("owner_id");

-- CreateIndex
CREATE INDEX "webhook_delivery_webhook_id_created_at_idx" ON "webhook_delivery"("webhook_id", "created_at");

-- AddForeignKey
ALTER TABLE "webhook_delivery" ADD CONSTRAINT "webhook_delivery_webhook_id_fkey" FOREIGN KEY ("webhook_id") REFERENCES "webhook"("id") ON DELETE CASCADE ON UPDATE CASCADE;

-- What waits, by webhook and time; and what has ended, for whoever deletes it.
CREATE INDEX "webhook_delivery_waiting_idx" ON "webhook_delivery" ("webhook_id", "next_at") WHERE "state" = 0;
CREATE INDEX "webhook_delivery_ended_idx" ON "webhook_delivery" ("ended_at") WHERE "ended_at" IS NOT NULL;

-- Replicas remember who wants to be told. A try that fails changes nothing of that.
CREATE TRIGGER "webhook_changes_access"
  AFTER INSERT OR DELETE OR UPDATE OF "is_enabled", "events", "only_failed", "endpoint_id", "active_since" ON "webhook"
  FOR EACH STATEMENT EXECUTE FUNCTION "farloom_access_changed"();

-- One's own, as everything behind the tenants' wall. The cursors of replicas are nobody's.
ALTER TABLE "webhook" ENABLE ROW LEVEL SECURITY;
CREATE POLICY "webhook_of_tenant" ON "webhook" USING ("owner_id" = (SELECT "farloom_tenant"()));
ALTER TABLE "webhook_delivery" ENABLE ROW LEVEL SECURITY;
CREATE POLICY "webhook_delivery_of_tenant" ON "webhook_delivery" USING ("owner_id" = (SELECT "farloom_tenant"()));

-- Keys that could do everything before may do this too.
UPDATE "api_key" SET "scopes" = array_append("scopes", 'webhooks:write')
  WHERE "scopes" @> ARRAY['keys:write', 'endpoints:write', 'functions:write', 'metrics:read', 'audit:read']
    AND NOT 'webhooks:write' = ANY("scopes");
