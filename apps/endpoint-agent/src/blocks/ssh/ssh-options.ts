/** The options of the provider `ssh`. */
import { list, type OptionsOf, required, text, whole } from "../options.js";

/** What the provider sets itself: a block's connection is its own, asks nothing and carries nothing else. */
const OWN =
  /^(?:BatchMode|ControlMaster|ControlPath|ControlPersist|RemoteCommand|RequestTTY|SessionType|StdinNull|ForkAfterAuthentication|ClearAllForwardings|ForwardAgent|ForwardX11|ServerAliveInterval|ServerAliveCountMax)$/i;

export const SSH_OPTIONS = {
  hosts: required(
    list(
      "Hosts that blocks may use, each for one block at a time.",
      "the name or address of a host",
      (host) => (/^[A-Za-z0-9][A-Za-z0-9_.:-]*$/.test(host) ? undefined : "this is no name of a host"),
    ),
  ),
  user: text(
    "Name to log in with. Absent: as ssh's own configuration says.",
    "a name",
    /^[A-Za-z0-9_][\w.@-]*$/,
  ),
  port: whole(
    "Port of the hosts' ssh server. Absent: as ssh's own configuration says.",
    1,
    65_535,
    undefined,
  ),
  identityFile: text("Private key to log in with. Absent: as ssh's own configuration says."),
  command: list(
    "Program and arguments that start a node there. Absent: the same as here.",
    "a word of the command",
    () => undefined,
  ),
  sshOptions: list(
    "More options of ssh, as `ssh -o` takes them.",
    "an option such as 'ProxyJump=login'",
    (option) => {
      const name = /^([A-Za-z]+)=./.exec(option)?.[1];
      if (name === undefined) return "write it as Name=value";
      return OWN.test(name) ? "the provider sets it itself" : undefined;
    },
  ),
};

export type SshOptions = OptionsOf<typeof SSH_OPTIONS>;
