/** `farloom completion`: the shell's completion script, made from the command tree, so that it never lags behind. */
import { Argument, type Command } from "commander";
import type { Context } from "../context.js";

const HOW = {
  bash: "source <(farloom completion bash)            # in ~/.bashrc",
  zsh: "source <(farloom completion zsh)             # in ~/.zshrc, after compinit",
  fish: "farloom completion fish | source            # in ~/.config/fish/config.fish",
} as const;
type Shell = keyof typeof HOW;

export function addCompletion(program: Command, _context: Context): void {
  program
    .command("completion")
    .description("the completion script of a shell")
    .addArgument(new Argument("<shell>").choices(Object.keys(HOW)))
    .addHelpText("after", `\n${Object.values(HOW).join("\n")}`)
    .action((shell: Shell) => {
      process.stdout.write(SCRIPTS[shell](program));
    });
}

/** Every command by its path ("endpoint list"), with what may follow it. */
function words(command: Command, path = ""): [string, string[]][] {
  const names = command.commands.map((child) => child.name());
  const flags = command.options.flatMap((option) => (option.long ? [option.long] : []));
  return [
    [path, [...names, ...flags]],
    ...command.commands.flatMap((child) =>
      words(child, path === "" ? child.name() : `${path} ${child.name()}`),
    ),
  ];
}

const SCRIPTS: Record<Shell, (program: Command) => string> = {
  bash: (program) => `_farloom() {
  local path="" word
  for word in "\${COMP_WORDS[@]:1:COMP_CWORD-1}"; do [[ $word == -* ]] || path+="\${path:+ }$word"; done
  case "$path" in
${cases(program, (path, list) => `    "${path}") COMPREPLY=($(compgen -W "${list.join(" ")}" -- "\${COMP_WORDS[COMP_CWORD]}")) ;;`)}
    *) COMPREPLY=($(compgen -f -- "\${COMP_WORDS[COMP_CWORD]}")) ;;
  esac
}
complete -o default -F _farloom farloom
`,
  zsh: (program) => `_farloom() {
  local path_="" word
  for word in "\${(@)words[2,CURRENT-1]}"; do [[ $word == -* ]] || path_+="\${path_:+ }$word"; done
  case "$path_" in
${cases(program, (path, list) => `    "${path}") compadd -- ${list.join(" ")} ;;`)}
    *) _files ;;
  esac
}
compdef _farloom farloom
`,
  fish: (program) =>
    words(program)
      .map(([path, list]) => {
        const seen =
          path === ""
            ? "__fish_use_subcommand"
            : path
                .split(" ")
                .map((w) => `__fish_seen_subcommand_from ${w}`)
                .join("; and ");
        return `complete -c farloom -n "${seen}" -a "${list.join(" ")}"\n`;
      })
      .join(""),
};

function cases(program: Command, line: (path: string, list: string[]) => string): string {
  return words(program)
    .map(([path, list]) => line(path, list))
    .join("\n");
}
