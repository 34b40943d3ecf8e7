#!/usr/bin/env python3
"""Writes the parts of docs/ that are made from the programs and protos, so that they cannot drift: a man page per binary (docs/man),
shell completion (docs/completion), and the reference of the public gRPC API (docs/api.md). tests/docs_test.py compares.

usage: docs/generate.py BIN_FOLDER [OUTPUT_FOLDER]      the default output is docs/ itself
(docs/metrics.md is made from a running cluster: tests/deploy/panels_test.py --update-metrics)
"""
import pathlib
import re
import subprocess
import sys
import tempfile
import textwrap

ROOT = pathlib.Path(__file__).resolve().parent.parent
SERVERS = ["pagoda-router", "pagoda-coordinator", "pagoda-worker"]
NO_OPTIONS = "there is nothing to say but its help"


class Command:
    """What one --help says: words, description, positionals and options as (flags, value, text)."""

    def __init__(self, folder, words):
        self.words = words
        done = subprocess.run([str(folder / words[0]), *words[1:], "--help"], capture_output=True, text=True)
        self.text = done.stdout or done.stderr
        lines = self.text.rstrip().splitlines()
        usage = next((i for i, line in enumerate(lines) if line.lower().startswith("usage:")), None)
        self.description = " ".join(lines[:usage]).strip() if usage is not None else ""
        rest = lines[usage + 1:] if usage is not None else []
        self.positionals, self.options, self.children, self.notes = [], [], [], []
        section = None
        for line in rest:
            if not line.strip():
                continue
            if line in ("Positionals:", "Options:"):
                section = self.positionals if line == "Positionals:" else self.options
            elif section is None:
                child = re.match(r"  ([a-z]+) {2,}(.+)$", line)
                if child:
                    self.children.append((child[1], child[2]))
                else:
                    self.notes.append(line.strip())
            elif re.match(r"  \S", line):
                head, _, text = line[2:].partition("  ")
                names = head.split(" ")[0]
                section.append([names, head[len(names):].strip(), text.strip()])
            else:
                section[-1][2] = (section[-1][2] + " " + line.strip()).strip()

        action = re.match(rf"usage: {' '.join(words)} ([a-z]+)", lines[usage] if usage is not None else "")
        if not self.options and not self.children and action:  # a command of one action
            self.children.append((action[1], ""))
        if done.returncode != 0 and not self.children:
            raise SystemExit(f"{' '.join(words)} --help ended with {done.returncode}:\n{self.text}")

    @property
    def name(self):
        return " ".join(self.words)

    def flags(self):
        return [flag for names, _, _ in self.options for flag in names.split(",") if flag.startswith("--")]

    def values(self, flag):
        """What a flag may be, when help lists it: TEXT:{json,plain}."""
        for names, value, _ in self.options:
            found = re.search(r"\{([^}]*)\}", value)
            if flag in names.split(",") and found:
                return found[1].split(",")
        return []


def commands(folder):
    """All commands, parents first."""
    found = [Command(folder, [server]) for server in SERVERS]
    top = Command(folder, ["pagoda"])
    found.append(top)
    for name, _ in top.children:
        child = Command(folder, ["pagoda", name])
        found.append(child)
        found += [Command(folder, ["pagoda", name, action]) for action, _ in child.children if not child.options]
    return found


# --- man pages

def roff(text):
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return "\\&" + text if text.startswith((".", "'")) else text


def man_options(command):
    out = []
    for names, value, text in command.positionals + command.options:
        shown = re.sub(r"\bREQUIRED\b", "", value).replace(" ...", "...").strip()
        required = " (required)" if "REQUIRED" in value else ""
        out += [".TP", f".B {roff(names.replace(',', ', '))}" + (f" \\fI{roff(shown)}\\fR" if shown else ""), roff(text + required) or roff(NO_OPTIONS)]
    return out


ABOUT = {
    "pagoda": ("operate and try Pagoda", ["pagoda\\-router(1)", "pagoda\\-coordinator(1)", "pagoda\\-worker(1)"]),
    "pagoda-router": ("OpenAI\\-compatible HTTP and gRPC front end of a Pagoda cluster", ["pagoda(1)", "pagoda\\-coordinator(1)"]),
    "pagoda-coordinator": ("membership, placement and scheduling of a Pagoda cluster", ["pagoda(1)", "pagoda\\-worker(1)"]),
    "pagoda-worker": ("one rank of a pipeline stage of a Pagoda cluster", ["pagoda(1)", "pagoda\\-coordinator(1)"]),
}
SERVER_NOTES = [
    ".SH FILES", "Every option may also stand in a YAML file that is named by \\fB\\-\\-config\\fR: a map of the options' names, without",
    "dashes before them, to values. What is given on the command line wins. An unknown key is an error that names it.",
    ".SH SIGNALS", "SIGTERM and SIGINT let running work end, within \\fB\\-\\-shutdown\\-timeout\\-ms\\fR; a second one ends the process at once.",
    ".SH EXIT STATUS", "0 after an orderly end; 2 for a wrong command line or configuration; 1 for anything else."]


def man_page(binary, all_commands):
    own = [c for c in all_commands if c.words[0] == binary]
    what, see = ABOUT[binary]
    out = [f".\\\" Made by docs/generate.py from {binary} \\-\\-help.", f".TH {binary.upper()} 1 \"\" \"Pagoda\" \"User Commands\"", ".SH NAME",
           f"{roff(binary)} \\- {what}", ".SH SYNOPSIS", f".B {roff(binary)}",
           "\\fICOMMAND\\fR [\\fIoptions\\fR]" if binary == "pagoda" else "[\\fIoptions\\fR]", ".SH DESCRIPTION"]
    if binary == "pagoda":
        out.append("The operator's command: it starts local clusters, and otherwise is a client like any other.")
        for command in own[1:]:
            title = next((text for parent in own for name, text in parent.children if parent.words + [name] == command.words and text), command.description)
            out += [f".SH {roff(command.name.upper())}", roff(title.rstrip(".")) + "."]
            if command.description and command.description != title:
                out += [".PP", roff(command.description)]
            out += man_options(command)
        out += [".SH EXIT STATUS", "0 when it went well; 1 when it did not; 2 for a wrong command line."]
    else:
        out += [roff(own[0].description), ".SH OPTIONS", *man_options(own[0]), *SERVER_NOTES]
    out += [".SH SEE ALSO", ", ".join(see)]
    return "\n".join(out) + "\n"


# --- completion

def bash_completion(all_commands):
    out = ["# Completion of Pagoda's commands for bash (and for zsh after `autoload -U bashcompinit && bashcompinit`).",
           "# Made by docs/generate.py. Copy to /usr/share/bash-completion/completions/pagoda, or source it.", "_pagoda_words() {", '  case "$1" in']
    for command in all_commands:
        words = [name for name, _ in command.children] if not command.options else []
        out.append(f"    '{command.name}') echo '{' '.join(words + command.flags())}' ;;")
    out += ["  esac", "}", "_pagoda_values() {", '  case "$1" in']
    for command in all_commands:
        for flag in command.flags():
            if command.values(flag):
                out.append(f"    '{command.name} {flag}') echo '{' '.join(command.values(flag))}' ;;")
    out += ["  esac", "}", textwrap.dedent('''\
        _pagoda() {
          local current="${COMP_WORDS[COMP_CWORD]}" previous="${COMP_WORDS[COMP_CWORD-1]}" command word words
          command="$(basename -- "${COMP_WORDS[0]}")"
          for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
            [ -n "$(_pagoda_words "$command $word")" ] && command="$command $word"
          done
          words="$(_pagoda_values "$command $previous")"
          if [ -z "$words" ] && [[ "$previous" == --*file || "$previous" == --config || "$previous" == --*dir || "$previous" == --store ]]; then
            COMPREPLY=($(compgen -f -- "$current"))
            return
          fi
          COMPREPLY=($(compgen -W "${words:-$(_pagoda_words "$command")}" -- "$current"))
        }'''), f"complete -F _pagoda pagoda {' '.join(SERVERS)}"]
    return "\n".join(out) + "\n"


def fish_completion(all_commands):
    quote = lambda text: "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
    out = ["# Completion of Pagoda's commands for fish. Made by docs/generate.py. Copy to ~/.config/fish/completions/pagoda.fish."]
    for command in all_commands:
        binary, words = command.words[0], command.words[1:]
        seen = " ".join(f"; and __fish_seen_subcommand_from {word}" for word in words)[len("; and "):]
        condition = f" -n {quote(seen)}" if seen else ""
        if not command.options:
            names = " ".join(name for name, _ in command.children)
            alone = (seen + "; and " if seen else "") + f"not __fish_seen_subcommand_from {names}"
            out += [f"complete -c {binary} -f -n {quote(alone)} -a {name} -d {quote(text)}" for name, text in command.children]
        for names, value, text in command.options:
            for flag in (f for f in names.split(",") if f.startswith("--")):
                wanted = " -x -a " + quote(" ".join(command.values(flag))) if command.values(flag) else (" -r" if value else "")
                out.append(f"complete -c {binary}{condition} -l {flag[2:]}{wanted} -d {quote(text)}")
    return "\n".join(out) + "\n"


# --- the public API

def api_reference():
    from google.protobuf import descriptor_pb2
    files = ["pagoda/v1/inference.proto", "pagoda/v1/sampling.proto", "pagoda/v1/admin.proto"]
    with tempfile.NamedTemporaryFile() as out:
        subprocess.run(["protoc", "-I", str(ROOT / "proto"), "--include_source_info", f"--descriptor_set_out={out.name}", *files], check=True)
        described = descriptor_pb2.FileDescriptorSet.FromString(pathlib.Path(out.name).read_bytes())
    text = ["# The gRPC API", "", "Made by `docs/generate.py` from `proto/pagoda/v1`; the comments are the protos'. The HTTP API is described by",
            "[openapi.yaml](openapi.yaml). A router serves `Inference` (and `grpc.health.v1.Health`, and reflection), a coordinator serves `Admin`.", ""]
    for file in sorted(described.file, key=lambda f: files.index(f.name)):
        text += _api_file(file)
    return "\n".join(text).rstrip() + "\n"


def _comments(file):
    found = {}
    for location in file.source_code_info.location:
        words = (location.leading_comments + " " + location.trailing_comments).split()
        found[tuple(location.path)] = " ".join(words)
    return found


def _type_of(field, maps):
    kinds = {1: "double", 2: "float", 3: "int64", 4: "uint64", 5: "int32", 6: "fixed64", 7: "fixed32", 8: "bool", 9: "string", 12: "bytes", 13: "uint32"}
    if field.type_name in maps:
        key, value = maps[field.type_name].field
        return f"map from {_type_of(key, {})} to {_type_of(value, {})}"
    name = kinds.get(field.type) or field.type_name.removeprefix(".pagoda.v1.")
    link = name if field.type in kinds else f"[{name}](#{name.lower()})"
    return ("repeated " if field.label == 3 else "optional " if field.proto3_optional else "") + link


def _api_file(file):
    comments = _comments(file)
    cell = lambda path: comments.get(path, "").replace("|", "\\|")
    text = []
    for s, service in enumerate(file.service):
        text += [f"## Service {service.name}", ""]
        if cell((6, s)):
            text += [cell((6, s)), ""]
        text += ["| call | request | answer | |", "|---|---|---|---|"]
        for m, method in enumerate(service.method):
            request, answer = (t.removeprefix(".pagoda.v1.") for t in (method.input_type, method.output_type))
            stream = "stream of " if method.server_streaming else ""
            text.append(f"| `{method.name}` | [{request}](#{request.lower()}) | {stream}[{answer}](#{answer.lower()}) | {cell((6, s, 2, m))} |")
        text.append("")
    for e, enum in enumerate(file.enum_type):
        text += [f"### {enum.name}", "", "| value | number | |", "|---|---|---|"]
        text += [f"| `{v.name}` | {v.number} | {cell((5, e, 2, i))} |" for i, v in enumerate(enum.value)] + [""]
    for i, message in enumerate(file.message_type):
        text += _api_message(message, (4, i), cell)
    return text


def _api_message(message, path, cell, scope="pagoda.v1"):
    maps = {f".{scope}.{message.name}.{nested.name}": nested for nested in message.nested_type if nested.options.map_entry}
    text = [f"### {message.name}", ""]
    if cell(path):
        text += [cell(path), ""]
    if message.field:
        text += ["| field | number | type | |", "|---|---|---|---|"]
        for f, field in enumerate(message.field):
            in_oneof = field.HasField("oneof_index") and not field.proto3_optional
            group = f"one of `{message.oneof_decl[field.oneof_index].name}`. " if in_oneof else ""
            text.append(f"| `{field.name}` | {field.number} | {_type_of(field, maps)} | {group}{cell(path + (2, f))} |".replace("  |", " |"))
    else:
        text.append("No fields.")
    text.append("")
    for n, nested in enumerate(message.nested_type):
        if not nested.options.map_entry:
            text += _api_message(nested, path + (3, n), cell, f"{scope}.{message.name}")
    return text


def generate(binaries, output):
    found = commands(binaries)
    for folder in ("man", "completion"):
        (output / folder).mkdir(parents=True, exist_ok=True)
    for binary in ABOUT:
        (output / "man" / f"{binary}.1").write_text(man_page(binary, found))
    (output / "completion/pagoda.bash").write_text(bash_completion(found))
    (output / "completion/pagoda.fish").write_text(fish_completion(found))
    (output / "api.md").write_text(api_reference())


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    generate(pathlib.Path(sys.argv[1]).resolve(), pathlib.Path(sys.argv[2] if len(sys.argv) > 2 else ROOT / "docs").resolve())
