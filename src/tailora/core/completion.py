"""Completion scripts for bash, zsh, fish and PowerShell, generated from the settings classes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from tailora.core.fields import choices, flag, leaves, shape
from tailora.core.settings import Settings

Shell = Literal["bash", "zsh", "fish", "powershell"]
Values = tuple[str, ...] | Literal["file", "other"]


class Flag(NamedTuple):
    """A flag: its name with dashes, its help, and its possible values.

    `values` is a tuple of words, "file" for a path or a text that may be a path, "other" for values that cannot be
    completed, and None for a flag without a value.
    """

    name: str
    text: str
    values: Values | None
    repeats: bool = False


class Completions(NamedTuple):
    """A command with its flags. `first` are the choices of its positional argument; without choices it is a file."""

    name: str
    summary: str
    flags: tuple[Flag, ...]
    first: tuple[str, ...] = ()


def flags_of(cls: type[Settings]) -> tuple[Flag, ...]:
    """Return the flags of a settings class, and the flags that every command has."""
    flags: list[Flag] = []
    for name, field in cls.model_fields.items():
        kind, text = shape(field), (field.description or "").replace("\n", " ").partition(". ")[0].rstrip(".")
        if kind == "bool":
            flags += [Flag(flag(name), text, None), Flag(f"--no-{flag(name)[2:]}", f"Not: {text}", None)]
            continue
        values: Values = choices(field) or "other"
        if values == "other" and kind != "mapping" and {str, Path} & leaves(field.annotation):
            values = "file"
        flags.append(Flag(flag(name), text, values, kind in {"many", "mapping"}))
    flags.append(Flag("--json", "Print the result as one JSON object", None))
    return (*flags, Flag("--help", "Show the help", None))


def script(shell: Shell, commands: Sequence[Completions]) -> str:
    """Return the script for a shell."""
    return _SCRIPTS[shell](commands)


def _bash(commands: Sequence[Completions]) -> str:
    names = " ".join(command.name for command in commands)
    lines = [
        f'        {command.name}) flags="{" ".join(option.name for option in command.flags)}" '
        f'first="{" ".join(command.first)}" ;;'
        for command in commands
    ]
    values = [
        f'        "{command.name} {option.name}") {_bash_value(option)} ;;'
        for command in commands
        for option in command.flags
        if option.values is not None
    ]
    return f"""# bash completion for tailora
_tailora() {{
    local cur=${{COMP_WORDS[COMP_CWORD]}} prev=${{COMP_WORDS[COMP_CWORD-1]}} flags= first= words= kind=
    COMPREPLY=()
    if [[ $cur == "=" ]]; then
        cur=
    elif [[ $prev == "=" ]]; then
        prev=${{COMP_WORDS[COMP_CWORD-2]}}
    fi
    if (( COMP_CWORD == 1 )); then
        COMPREPLY=($(compgen -W "{names} --help --version" -- "$cur"))
        return
    fi
    case "${{COMP_WORDS[1]}}" in
{chr(10).join(lines)}
        *) return ;;
    esac
    case "${{COMP_WORDS[1]}} $prev" in
{chr(10).join(values)}
    esac
    if [[ -z $kind && $cur == -* ]]; then
        words=$flags kind=words
    elif [[ -z $kind && $COMP_CWORD == 2 && -n $first ]]; then
        words=$first kind=words
    fi
    case $kind in
        words) COMPREPLY=($(compgen -W "$words" -- "$cur")) ;;
        other) ;;
        *)
            compopt -o filenames 2>/dev/null
            local IFS=$'\\n'
            COMPREPLY=($(compgen -f -- "$cur"))
            ;;
    esac
}}
complete -F _tailora tailora
"""


def _bash_value(option: Flag) -> str:
    if isinstance(option.values, str):
        return f"kind={option.values}"
    return f'words="{" ".join(option.values or ())}" kind=words'


def _zsh(commands: Sequence[Completions]) -> str:
    def quoted(text: str) -> str:
        for mark in "\\[]:":
            text = text.replace(mark, f"\\{mark}")
        return text.replace("'", "'\\''").replace("`", "\\`")

    def spec(option: Flag) -> str:
        start = f"{'*' if option.repeats else ''}{option.name}"
        if option.values is None:
            return f"'{start}[{quoted(option.text)}]'"
        action = {"file": "_files", "other": ""}.get(str(option.values), f"({' '.join(option.values)})")
        return f"'{start}=[{quoted(option.text)}]:value:{action}'"

    listed = "\n".join(f"        '{c.name}:{quoted(c.summary)}'" for c in commands)

    def case(command: Completions) -> str:
        first = f"({' '.join(command.first)})" if command.first else "_files"
        specs = [*map(spec, command.flags), f"'1:argument:{first}'"]
        joined = " \\\n                ".join(specs)
        return f"        {command.name})\n            _arguments \\\n                {joined}\n            ;;"

    cases = "\n".join(map(case, commands))
    return f"""#compdef tailora
# zsh completion for tailora
_tailora() {{
    local -a commands
    commands=(
{listed}
    )
    if (( CURRENT == 2 )); then
        _describe command commands
        return
    fi
    local name=$words[2]
    shift words
    (( CURRENT-- ))
    case $name in
{cases}
    esac
}}
if [[ $funcstack[1] == _tailora ]]; then
    _tailora "$@"
else
    compdef _tailora tailora
fi
"""


def _fish(commands: Sequence[Completions]) -> str:
    def quoted(text: str) -> str:
        return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"

    lines = ["# fish completion for tailora", "complete -c tailora -f"]
    for command in commands:
        after = f"-n '__fish_seen_subcommand_from {command.name}'"
        start = f"complete -c tailora {after}"
        lines.append(f"complete -c tailora -n __fish_use_subcommand -a {command.name} -d {quoted(command.summary)}")
        lines.append(f"{start} -a {quoted(' '.join(command.first))}" if command.first else f"{start} -F")
        for option in command.flags:
            kind = {None: "", "file": " -r -F", "other": " -x"}.get(
                option.values if not isinstance(option.values, tuple) else "words",
                f" -x -a {quoted(' '.join(option.values or ()))}",
            )
            lines.append(f"{start} -l {option.name[2:]}{kind} -d {quoted(option.text)}")
    return "\n".join(lines) + "\n"


def _powershell(commands: Sequence[Completions]) -> str:
    def quoted(text: str) -> str:
        return "'" + text.replace("'", "''") + "'"

    def listed(words: Sequence[str]) -> str:
        return f"@({', '.join(map(quoted, words))})"

    def entry(command: Completions) -> str:
        flags, first = listed([option.name for option in command.flags]), listed(command.first)
        words = [f"{quoted(o.name)} = {listed(o.values)}" for o in command.flags if isinstance(o.values, tuple)]
        values = "; ".join(words)
        return f"        {quoted(command.name)} = @{{ Flags = {flags}; First = {first}; Values = @{{ {values} }} }}"

    table = "\n".join(map(entry, commands))
    return f"""# PowerShell completion for tailora
Register-ArgumentCompleter -Native -CommandName tailora -ScriptBlock {{
    param($wordToComplete, $commandAst, $cursorPosition)
    $commands = @{{
{table}
    }}
    $words = @($commandAst.CommandElements | ForEach-Object {{ $_.ToString() }})
    if ($wordToComplete) {{ $words = @($words | Select-Object -SkipLast 1) }}
    $candidates = @($commands.Keys | Sort-Object)
    if ($words.Count -gt 1) {{
        $command = $commands[$words[1]]
        if (-not $command) {{ return }}
        $candidates = $command.Flags
        if ($words.Count -eq 2 -and $wordToComplete -notlike '-*') {{ $candidates = $command.First }}
        if ($command.Values.ContainsKey($words[-1])) {{ $candidates = $command.Values[$words[-1]] }}
    }}
    $candidates | Where-Object {{ $_ -like "$wordToComplete*" }} | ForEach-Object {{
        [System.Management.Automation.CompletionResult]::new($_, $_, 'ParameterValue', $_)
    }}
}}
"""


_SCRIPTS: dict[Shell, Callable[[Sequence[Completions]], str]] = {
    "bash": _bash,
    "zsh": _zsh,
    "fish": _fish,
    "powershell": _powershell,
}
