-- CreateTable
CREATE TABLE "function_signature" (
    "function_key" INTEGER NOT NULL,
    "id" BYTEA NOT NULL,
    "added_by" UUID NOT NULL,
    "envelope" TEXT NOT NULL,
    "added_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT "function_signature_pkey" PRIMARY KEY ("function_key","id")
);
