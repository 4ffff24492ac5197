-- CreateTable
CREATE TABLE "owner" (
    "id" UUID NOT NULL,
    "name" TEXT NOT NULL,
    "is_admin" BOOLEAN NOT NULL DEFAULT false,
    "created_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT "owner_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "api_key" (
    "id" TEXT NOT NULL,
    "owner_id" UUID NOT NULL,
    "label" TEXT NOT NULL,
    "secret_hash" BYTEA NOT NULL,
    "scopes" TEXT[],
    "created_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "expires_at" TIMESTAMPTZ(3) NOT NULL,
    "revoked_at" TIMESTAMPTZ(3),

    CONSTRAINT "api_key_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "function" (
    "key" SERIAL NOT NULL,
    "owner_id" UUID NOT NULL,
    "digest" BYTEA NOT NULL,
    "name" TEXT NOT NULL,
    "version" INTEGER NOT NULL,
    "runtime" TEXT NOT NULL,
    "description" TEXT NOT NULL DEFAULT '',
    "definition" JSONB NOT NULL,
    "code" BYTEA NOT NULL,
    "created_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "deleted_at" TIMESTAMPTZ(3),

    CONSTRAINT "function_pkey" PRIMARY KEY ("key")
);

-- CreateTable
CREATE TABLE "endpoint" (
    "id" UUID NOT NULL,
    "owner_id" UUID NOT NULL,
    "name" TEXT NOT NULL,
    "created_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "deleted_at" TIMESTAMPTZ(3),
    "enrol_hash" BYTEA,
    "enrol_expires_at" TIMESTAMPTZ(3),
    "public_key" BYTEA,
    "epoch" INTEGER NOT NULL DEFAULT 0,
    "owner_replica" UUID,
    "connected_at" TIMESTAMPTZ(3),
    "disconnected_at" TIMESTAMPTZ(3),
    "agent_info" JSONB,
    "floor_seq" BIGINT NOT NULL DEFAULT 0,

    CONSTRAINT "endpoint_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "agent_challenge" (
    "nonce_hash" BYTEA NOT NULL,
    "endpoint_id" UUID NOT NULL,
    "expires_at" TIMESTAMPTZ(3) NOT NULL,

    CONSTRAINT "agent_challenge_pkey" PRIMARY KEY ("nonce_hash")
);

-- CreateTable
CREATE TABLE "task_group" (
    "id" UUID NOT NULL,
    "owner_id" UUID NOT NULL,
    "name" TEXT NOT NULL DEFAULT '',
    "created_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT "task_group_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "task" (
    "id" UUID NOT NULL,
    "seq" BIGSERIAL NOT NULL,
    "owner_id" UUID NOT NULL,
    "endpoint_id" UUID NOT NULL,
    "function_key" INTEGER NOT NULL,
    "group_id" UUID NOT NULL,
    "args" BYTEA NOT NULL,
    "codec" SMALLINT NOT NULL,
    "attempt" INTEGER NOT NULL DEFAULT 1,
    "options" JSONB,
    "submitted_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "not_before" TIMESTAMPTZ(3),
    "cancel_requested_at" TIMESTAMPTZ(3),
    "started_at" TIMESTAMPTZ(3),

    CONSTRAINT "task_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "outcome" (
    "task_id" UUID NOT NULL,
    "state" SMALLINT NOT NULL,
    "reason" SMALLINT NOT NULL,
    "attempt" INTEGER NOT NULL,
    "result" BYTEA NOT NULL,
    "codec" SMALLINT NOT NULL,
    "queue_us" BIGINT NOT NULL,
    "run_us" BIGINT NOT NULL,
    "cpu_us" BIGINT NOT NULL,
    "peak_kb" INTEGER NOT NULL,
    "detail" JSONB,
    "finished_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT "outcome_pkey" PRIMARY KEY ("task_id")
);

-- CreateTable
CREATE TABLE "payload" (
    "owner_id" UUID NOT NULL,
    "digest" BYTEA NOT NULL,
    "size_bytes" BIGINT NOT NULL,
    "created_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "last_used_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT "payload_pkey" PRIMARY KEY ("owner_id","digest")
);

-- CreateTable
CREATE TABLE "idempotency" (
    "owner_id" UUID NOT NULL,
    "key" TEXT NOT NULL,
    "body_digest" BYTEA NOT NULL,
    "group_id" UUID NOT NULL,
    "base_id" UUID NOT NULL,
    "task_count" INTEGER NOT NULL,
    "created_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT "idempotency_pkey" PRIMARY KEY ("owner_id","key")
);

-- CreateTable
CREATE TABLE "replica" (
    "id" UUID NOT NULL,
    "started_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "seen_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT "replica_pkey" PRIMARY KEY ("id")
);

-- CreateIndex
CREATE UNIQUE INDEX "owner_name_key" ON "owner"("name");

-- CreateIndex
CREATE INDEX "api_key_owner_id_idx" ON "api_key"("owner_id");

-- CreateIndex
CREATE INDEX "function_owner_id_digest_idx" ON "function"("owner_id", "digest");

-- CreateIndex
CREATE UNIQUE INDEX "function_owner_id_name_version_key" ON "function"("owner_id", "name", "version");

-- CreateIndex
CREATE UNIQUE INDEX "endpoint_owner_id_name_key" ON "endpoint"("owner_id", "name");

-- CreateIndex
CREATE INDEX "task_group_owner_id_created_at_idx" ON "task_group"("owner_id", "created_at");

-- CreateIndex
CREATE INDEX "task_endpoint_id_seq_idx" ON "task"("endpoint_id", "seq");

-- CreateIndex
CREATE INDEX "task_group_id_seq_idx" ON "task"("group_id", "seq");

-- CreateIndex
CREATE INDEX "task_owner_id_seq_idx" ON "task"("owner_id", "seq");

-- CreateIndex
CREATE INDEX "outcome_finished_at_idx" ON "outcome" USING BRIN ("finished_at");

-- CreateIndex
CREATE INDEX "payload_last_used_at_idx" ON "payload"("last_used_at");

-- CreateIndex
CREATE INDEX "idempotency_created_at_idx" ON "idempotency"("created_at");

-- AddForeignKey
ALTER TABLE "api_key" ADD CONSTRAINT "api_key_owner_id_fkey" FOREIGN KEY ("owner_id") REFERENCES "owner"("id") ON DELETE RESTRICT ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "function" ADD CONSTRAINT "function_owner_id_fkey" FOREIGN KEY ("owner_id") REFERENCES "owner"("id") ON DELETE RESTRICT ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "endpoint" ADD CONSTRAINT "endpoint_owner_id_fkey" FOREIGN KEY ("owner_id") REFERENCES "owner"("id") ON DELETE RESTRICT ON UPDATE CASCADE;
