-- CreateTable
CREATE TABLE "object" (
    "owner_id" UUID NOT NULL,
    "bucket" TEXT NOT NULL,
    "key" BYTEA NOT NULL,
    "blob_id" UUID NOT NULL,
    "size_bytes" BIGINT NOT NULL,
    "digest" BYTEA NOT NULL,
    "content_type" TEXT NOT NULL,
    "metadata" JSONB NOT NULL,
    "modified_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT "object_pkey" PRIMARY KEY ("owner_id","bucket","key")
);

-- CreateIndex
CREATE UNIQUE INDEX "object_blob_id_key" ON "object"("blob_id");
