/** How long a statement may take, and how long its answer is waited for. */

/** Of every statement, kept by PostgreSQL. */
export const STATEMENT_TIMEOUT_MS = 14_000;
/** Without an answer for so long, the connection is given up: nobody knows what became of the statement. */
export const ANSWER_TIMEOUT_MS = STATEMENT_TIMEOUT_MS + 6_000;
/**
 * A transaction that asks for nothing so long is ended by PostgreSQL: its connection may be gone without a word, and the
 * locks that it holds would stay for hours.
 */
export const IDLE_TRANSACTION_MS = 10_000;
