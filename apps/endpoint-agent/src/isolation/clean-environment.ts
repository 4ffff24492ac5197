/**
 * The variables that workers get of the agent's environment.
 *
 * From level `limits` on an allow-list: what says where programs and libraries are, how many threads they use, and what
 * a batch system gave. At `none`, where people set variables for their functions before they start the agent, all but
 * those that hold secrets by their name.
 */
type Environment = Readonly<Record<string, string | undefined>>;

const ALLOWED = new Set(
  `PATH LANG LANGUAGE TZ TERM SHELL USER LOGNAME HOME LD_LIBRARY_PATH LIBRARY_PATH PYTHONPATH PYTHONHOME VIRTUAL_ENV
   NODE_PATH JAVA_HOME R_HOME R_LIBS JULIA_DEPOT_PATH PERL5LIB MANPATH MODULEPATH MODULESHOME LOADEDMODULES _LMFILES_
   CUDA_VISIBLE_DEVICES CUDA_HOME CUDA_PATH ROCR_VISIBLE_DEVICES HIP_VISIBLE_DEVICES GPU_DEVICE_ORDINAL ZE_AFFINITY_MASK
   SSL_CERT_FILE SSL_CERT_DIR REQUESTS_CA_BUNDLE TMPDIR DEBIAN_FRONTEND SOURCE_DATE_EPOCH`
    .split(/\s+/)
    .filter(Boolean),
);
const ALLOWED_PREFIXES = ["LC_", "PYTHON", "CONDA_", "OMP_", "MKL_", "OPENBLAS_", "KMP_", "GOMP_", "NVIDIA_"];
/** What a batch system, or our node program, says of where this is. */
const BATCH_PREFIXES = ["SLURM_", "PBS_", "SGE_", "LSB_", "FARLOOM_NODE_"];
/** For tests of the fabric itself, which mean nothing to a worker of a production machine. */
const TESTING = /^FARLOOM_(TEST_\w+|PLANT|CRASH_AT)$/;

const SECRET =
  /(^|_)(SECRETS?|TOKENS?|PASSWORDS?|PASSWD|PASSPHRASE|PASS|API_?KEYS?|ACCESS_KEYS?|SECRET_KEYS?|PRIVATE_KEYS?|CREDENTIALS?|COOKIES?)(_|$)/i;
const SECRET_NAMES =
  /^(AWS_|AZURE_|GOOGLE_|GCP_|ARM_|OS_|SSH_AUTH_SOCK$|KRB5CCNAME$|DATABASE_URL$|FARLOOM_TENANT_DATABASE_URL$|REDIS_URL$|PG|MYSQL_PWD$|NETRC$|FARLOOM_ENROLMENT_CODE$|KUBECONFIG$|DOCKER_AUTH)/;

/** Whether a variable may hold a secret, by its name. */
export function isSecretName(name: string): boolean {
  if (TESTING.test(name)) return false;
  return SECRET.test(name) || SECRET_NAMES.test(name);
}

/** `env` without what holds secrets by its name. */
export function withoutSecrets(env: Environment): Record<string, string> {
  return pick(env, (name) => !isSecretName(name));
}

/** What of `env` is on the list, or on the endpoint's own (`NAME`, `PREFIX_*`), which may name anything. */
export function allowedEnvironment(env: Environment, extra: readonly string[]): Record<string, string> {
  return pick(env, (name) => isNamed(name, extra) || (isUsual(name) && !isSecretName(name)));
}

function isUsual(name: string): boolean {
  const starts = (prefix: string): boolean => name.startsWith(prefix);
  return (
    ALLOWED.has(name) || TESTING.test(name) || ALLOWED_PREFIXES.some(starts) || BATCH_PREFIXES.some(starts)
  );
}

function isNamed(name: string, list: readonly string[]): boolean {
  return list.some((one) => (one.endsWith("*") ? name.startsWith(one.slice(0, -1)) : one === name));
}

function pick(env: Environment, isWanted: (name: string) => boolean): Record<string, string> {
  const picked: Record<string, string> = {};
  for (const [name, value] of Object.entries(env)) {
    if (value !== undefined && isWanted(name)) picked[name] = value;
  }
  return picked;
}
