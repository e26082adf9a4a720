"""``completion``: the shell asks resexp itself what may follow, so that it knows every net, data set and setting."""

import argparse
from collections.abc import Mapping
from pathlib import Path

ASKED = "--complete"  # followed by the words typed so far, the last of them unfinished
SCRIPTS = {
    "bash": """_resexp() {
    local cur="${COMP_LINE:0:COMP_POINT}"
    cur="${cur##* }"
    COMPREPLY=($(compgen -W "$(resexp --complete "${COMP_WORDS[1]}" "$cur" 2>/dev/null)" -- "$cur"))
    # bash splits words at =, and completes what follows it
    [[ $cur == *=* ]] && COMPREPLY=("${COMPREPLY[@]#*=}")
    [[ ${COMPREPLY[0]} == *= ]] && compopt -o nospace
}
complete -o default -F _resexp resexp
""",
    "zsh": """#compdef resexp
_resexp() {
    local -a found
    found=(${(f)"$(resexp --complete "${words[2]}" "${words[CURRENT]}" 2>/dev/null)"})
    compadd -S '' -a found || _files
}
compdef _resexp resexp
""",
    "fish": """function __resexp
    set -l typed (commandline -opc)
    resexp --complete "$typed[2]" (commandline -ct) 2>/dev/null
end
complete -c resexp -a '(__resexp)'
""",
}


def script_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=SCRIPTS, help='as in eval "$(resexp completion bash)", in .bashrc')


def script(args: argparse.Namespace) -> int:
    print(SCRIPTS[args.shell], end="")
    return 0


def suggest(typed: list[str], commands: Mapping[str, bool]) -> int:
    """Print what the last word may become.

    :param typed: the command, and the unfinished word; the same word twice while it is the command.
    :param commands: by name, whether it takes settings.
    """
    command, word = (*typed, "", "")[:2]
    choices = list(commands) if command == word or not command else _names_after(command)
    if commands.get(command):
        choices += _settings(word)
    print("\n".join(choice for choice in choices if choice.startswith(word)))
    return 0


def _names_after(command: str) -> list[str]:
    """What a command takes besides settings."""
    from resexp import config

    if command in ("figures", "verify", "study"):
        return config.names("study")
    if command == "protocols":
        return config.names("protocol")
    if command == "completion":
        return list(SCRIPTS)
    if command == "analyze":
        from resexp.analysis.runner import ANALYSES

        return [*ANALYSES, *config.names("study")]
    return [str(path) for path in sorted(Path("outputs/runs").glob("*"))] if command in ("eval", "export") else []


def _settings(word: str) -> list[str]:
    """Keys, or after a key its values."""
    from resexp import catalog, config

    key, equals, value = word.partition("=")
    if not equals:
        return [f"{one}=" for one in (*config.GROUPS, *(key for key, _ in config.describe_keys(config.Config)))]
    begun = value.rpartition(",")
    before = key + "=" + begun[0] + begun[1]
    if key == "model":
        return [before + net.name for net in catalog.NAMED]
    return [before + name for name in (config.names(key) if key in config.GROUPS else _choices(key))]


def _choices(key: str) -> list[str]:
    """The values that a setting of a net is chosen from."""
    from resexp import catalog

    return list(catalog.CHOICES.get(key.removeprefix("model."), ()))
