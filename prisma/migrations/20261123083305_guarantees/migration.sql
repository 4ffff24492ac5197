-- AlterTable
ALTER TABLE "endpoint" ADD COLUMN     "boot_id" TEXT,
ADD COLUMN     "reclaim_ms" INTEGER;

-- AlterTable
ALTER TABLE "task" ADD COLUMN     "args_sha256" BYTEA,
ADD COLUMN     "deadline_at" TIMESTAMPTZ(3),
ADD COLUMN     "losses" SMALLINT NOT NULL DEFAULT 0,
ADD COLUMN     "queue_until" TIMESTAMPTZ(3);

-- AlterTable
ALTER TABLE "outcome" ADD COLUMN     "result_sha256" BYTEA;

-- CreateTable
CREATE TABLE "late_result" (
    "id" BIGSERIAL NOT NULL,
    "task_id" UUID NOT NULL,
    "owner_id" UUID NOT NULL,
    "attempt" INTEGER NOT NULL,
    "state" SMALLINT NOT NULL,
    "reason" SMALLINT NOT NULL,
    "result" BYTEA NOT NULL,
    "codec" SMALLINT NOT NULL,
    "detail" JSONB,
    "received_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT "late_result_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "endpoint_lease" (
    "endpoint_id" UUID NOT NULL,
    "epoch" INTEGER NOT NULL,
    "ids" BYTEA NOT NULL,
    "written_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT "endpoint_lease_pkey" PRIMARY KEY ("endpoint_id")
);

-- CreateTable
CREATE TABLE "tombstone" (
    "task_id" UUID NOT NULL,
    "owner_id" UUID NOT NULL,
    "state" SMALLINT NOT NULL,
    "reason" SMALLINT NOT NULL,
    "finished_at" TIMESTAMPTZ(3) NOT NULL,
    "expired_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT "tombstone_pkey" PRIMARY KEY ("task_id")
);

-- CreateIndex
CREATE INDEX "late_result_task_id_idx" ON "late_result"("task_id");

-- CreateIndex
CREATE INDEX "late_result_received_at_idx" ON "late_result"("received_at");

-- CreateIndex
CREATE INDEX "tombstone_expired_at_idx" ON "tombstone"("expired_at");

-- What Prisma cannot express: opaque bytes are not compressed, and what was promised of a task stays as it was.
ALTER TABLE "late_result" ALTER COLUMN "result" SET STORAGE EXTERNAL;

DROP TRIGGER "task_is_fixed" ON "task";
CREATE TRIGGER "task_is_fixed"
  BEFORE UPDATE OF "id", "owner_id", "endpoint_id", "function_key", "group_id", "args", "codec", "args_sha256", "submitted_at" ON "task"
  FOR EACH ROW EXECUTE FUNCTION "farloom_task_is_fixed"();

-- The few tasks whose time may run out.
CREATE INDEX "task_queue_until_idx" ON "task" ("queue_until") WHERE "queue_until" IS NOT NULL;
CREATE INDEX "task_deadline_idx" ON "task" ("deadline_at") WHERE "deadline_at" IS NOT NULL;
