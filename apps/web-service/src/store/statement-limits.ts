/** How long a statement may take, and how long its answer is waited for. */

/** Of every statement, kept by PostgreSQL. */
export const STATEMENT_TIMEOUT_MS = 14_000;
/** Without an answer for so long, the connection is given up: nobody knows what became of the statement. */
export const ANSWER_TIMEOUT_MS = STATEMENT_TIMEOUT_MS + 6_000;
