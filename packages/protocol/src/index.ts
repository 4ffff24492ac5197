/** The contract that every part of Farloom shares. PROTOCOL.md says it in words. */

export type { AgentAuditEntry, AgentAuditRecord } from "./audit/agent-record.js";
export {
  AgentAuditVerifier,
  agentAuditHash,
  agentAuditLine,
  parseAgentAuditLine,
} from "./audit/agent-record.js";
export type { AuditEntry, AuditFields } from "./audit/chain.js";
export { AUDIT_GENESIS, AuditVerifier, auditHash } from "./audit/chain.js";
export type { BoundedLimits, Decoded, DecodeFailure } from "./codec/codec.js";
export { decodeBounded, decodeFrame, encodeFrame, encodeValue } from "./codec/codec.js";
export { LengthPrefixReader, withLength } from "./codec/length-prefix.js";
export type { ErrorCode, ErrorValues } from "./errors/catalogue.js";
export { ERRORS, errorMessage, FarloomError, isRetryable } from "./errors/catalogue.js";
export type { BatchItem, ResultItem, Slice, TaskItem } from "./frames/columns.js";
export {
  batchLength,
  buildResults,
  buildTasks,
  byteOf,
  durationToWire,
  durationUsOf,
  endOf,
  functionIndexOf,
  startOf,
  u32Of,
} from "./frames/columns.js";
export type * from "./frames/frames.js";
export { FRAMES_DOWN, FRAMES_UP } from "./frames/frames.js";
export type { OutputPiece, OutputStream } from "./frames/output.js";
export { buildOutput, OUTPUT_STREAMS, piecesOf } from "./frames/output.js";
export { misplaced, withPosition } from "./frames/position.js";
export { checkTaskOptions } from "./frames/validate.js";
export type {
  CommandSpec,
  EnvironmentSpec,
  FunctionDefinition,
  Resources,
  Runtime,
} from "./functions/definition.js";
export { canonicalJson, checkDefinition, functionDigest, RUNTIMES } from "./functions/definition.js";
export type { IsolationInfo, IsolationLevel, NetworkPolicy } from "./functions/isolation.js";
export { ISOLATION_LEVELS, isIsolationLevel, isolationSuffices } from "./functions/isolation.js";
export type { FunctionMatcher, NamedFunction } from "./functions/pattern.js";
export {
  checkFunctionPattern,
  functionMatcher,
  MAX_PATTERN_CHARS,
  MAX_PATTERNS,
} from "./functions/pattern.js";
export {
  isSecretName,
  MAX_FUNCTION_SECRETS,
  MAX_SECRET_BYTES,
  MIN_MASKED_BYTES,
  SECRET_NAME,
} from "./functions/secrets.js";
export type { IdKey } from "./ids.js";
export {
  columnToKeys,
  isUuid,
  keyAt,
  keysToColumn,
  keyToBytes,
  keyToUuid,
  newBatchId,
  TaskIdAllocator,
  uuidToKey,
  writeKey,
  writeTaskId,
} from "./ids.js";
export * as limits from "./limits.js";
export { ByteBudget } from "./link/byte-budget.js";
export type { Agreement, Capability } from "./link/handshake.js";
export { agree, CAPABILITIES } from "./link/handshake.js";
export type { HeartbeatOptions } from "./link/heartbeat.js";
export { Heartbeat } from "./link/heartbeat.js";
export type { Mark, Span } from "./link/streams.js";
export { Credit, Inbox, Outbox } from "./link/streams.js";
export { TurnBatch } from "./link/turn-batch.js";
export type { Mode, Step, TaskEffect, TaskEvent, TaskFacts } from "./task/machine.js";
export {
  IllegalTransition,
  isRetryableReason,
  isTerminal,
  isWorkerLoss,
  MAX_AGENT_LOSSES,
  MAX_WORKER_LOSSES,
  step,
  TRANSITIONS,
} from "./task/machine.js";
export type {
  CodecName,
  OpenState,
  OutcomeDetail,
  Reason,
  RemoteErrorInfo,
  TaskState,
  TerminalState,
} from "./task/outcome.js";
export {
  CODEC_REFERENCE,
  CODECS,
  codecName,
  decodeReference,
  encodeReference,
  OPEN_STATES,
  REASONS,
  REFERENCE_BYTES,
  reasonName,
  stateName,
  TERMINAL_STATES,
} from "./task/outcome.js";
export type { SealPlace } from "./task/seal.js";
export {
  epochOfFence,
  fenceFor,
  fenceOf,
  hasSeal,
  SEAL_BYTES,
  sealHolds,
  writeFence,
  writeSeal,
} from "./task/seal.js";
export type { Envelope, EnvelopeSignature } from "./trust/dsse.js";
export {
  isSignedBy,
  MAX_ENVELOPE_BYTES,
  MAX_SIGNATURES,
  parseEnvelope,
  preAuthEncoding,
  publicKeyObject,
  signEnvelope,
} from "./trust/dsse.js";
export type { PublicSignKey, SignKey } from "./trust/keys.js";
export {
  isEncryptedKey,
  makeSignKey,
  parsePublicKey,
  privateKeyText,
  publicKeyLine,
  readSignKey,
  signKeyId,
} from "./trust/keys.js";
export type { FunctionStatement, InvocationStatement } from "./trust/statements.js";
export {
  FUNCTION_PAYLOAD_TYPE,
  functionStatement,
  INVOCATION_PAYLOAD_TYPE,
  invocationStatement,
  MAX_INVOCATION_S,
  optionsDigest,
  signFunction,
  signInvocation,
} from "./trust/statements.js";
export type { BlockWait, EndpointReport } from "./why/report.js";
export { boundReport, readReport } from "./why/report.js";
export type { WaitCode, WaitFacts, Why } from "./why/why.js";
export { WAIT_CODES, whyWaiting } from "./why/why.js";
