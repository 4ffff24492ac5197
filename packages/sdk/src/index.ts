/** The TypeScript client of Farloom. Start with `Farloom`. */
export type { ErrorCode, IsolationLevel, Reason, Runtime, TaskState } from "@farloom/protocol";
export { FarloomError } from "@farloom/protocol";
export { Farloom } from "./client.js";
export {
  TaskCancelledError,
  TaskError,
  TaskFailedError,
  TaskLostError,
  TaskTimedOutError,
  WorkerDiedError,
} from "./errors.js";
export type { MapOptions } from "./function.js";
export { RemoteFunction } from "./function.js";
export type { ArgumentsInput, Completed, GroupOptions, GroupProgress } from "./group.js";
export { TaskGroup } from "./group.js";
export type { TaskOutcome } from "./handle.js";
export { TaskHandle } from "./handle.js";
export type { Credential, StoredLogin } from "./login.js";
export { toStoredLogin, writeConfigFile } from "./login.js";
export type {
  GetOptions,
  ListObjectsOptions,
  ObjectBody,
  ObjectInfo,
  ObjectMethod,
  ObjectPage,
  ObjectRange,
  ObjectToken,
  PutOptions,
  ReceivedObject,
} from "./objects.js";
export { ObjectsApi } from "./objects.js";
export type { ConfigFile, FarloomOptions, ResolvedOptions } from "./options.js";
export { configPath, readConfigFile } from "./options.js";
export type { OutputChunk, OutputOptions } from "./output.js";
export { errorOf, RemoteTask } from "./remote-task.js";
export type {
  AccessEntry,
  AccessLevel,
  AuditApi,
  CancelSummary,
  EndpointAccess,
  EndpointInfo,
  EndpointsApi,
  FunctionInfo,
  FunctionSignature,
  FunctionSpec,
  FunctionsApi,
  KeyInfo,
  KeySpec,
  KeysApi,
  NewEndpoint,
  NewKey,
  OutputPart,
  Page,
  PageOptions,
  TaskFilter,
  TaskInfo,
  TasksApi,
  TaskWaiting,
  TeamInfo,
  TeamsApi,
} from "./resources.js";
export type { Rest, RestRequest, RestResponse, StreamRequest, StreamResponse } from "./rest.js";
export type { SecretInfo, SecretsApi, SetSecretOptions } from "./secrets.js";
export { loadSignKey, signById, signKeyPath, signKeysDir } from "./signing.js";
export type { RegisterSpec } from "./source.js";
export { functionSpec } from "./source.js";
export type { CallOptions } from "./submit.js";
export type { TaskProgress } from "./task.js";
export type {
  NewWebhook,
  WebhookDelivery,
  WebhookEvent,
  WebhookInfo,
  WebhookSpec,
  WebhooksApi,
} from "./webhooks.js";
