-- AlterTable
ALTER TABLE "endpoint" ADD COLUMN     "report" JSONB,
ADD COLUMN     "reported_at" TIMESTAMPTZ(3);

-- CreateTable
CREATE TABLE "task_output" (
    "task_id" UUID NOT NULL,
    "attempt" INTEGER NOT NULL,
    "stream" SMALLINT NOT NULL,
    "at" BIGINT NOT NULL,
    "data" BYTEA NOT NULL,

    CONSTRAINT "task_output_pkey" PRIMARY KEY ("task_id","attempt","stream","at")
);
